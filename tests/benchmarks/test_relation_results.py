"""Metrics of whole results with relations."""

from typing import Any

from benchmarks.relation_results import metrics_of_results
from lorabel.labeling.regions import Region, relation
from tests.lorabel.problems import test_relations_in_pictures as pictures
from tests.lorabel.problems.test_relations import ADA, BOAT, BOB, CAR, DATA, SPANS, problem_of, related
from tests.related_sentences import LABEL_CONFIG, sentence

PROBLEM = problem_of(LABEL_CONFIG)


def test_the_metrics_of_whole_results_equal_a_count_by_hand() -> None:
    truth = [*SPANS, related("ada", "boat"), related("bob", "car"), related("ada", "bob", direction="bi")]
    moved = {**CAR, "value": {**CAR["value"], "start": 21}}
    guess = [ADA, BOAT, BOB, moved]
    guess += [related("ada", "boat"), related("bob", "car"), related("bob", "ada"), related("boat", "ada")]
    values = metrics_of_results(PROBLEM, [truth], [guess], [DATA]).values
    # Of four true ones, ada -> boat and bob -> ada are found; bob -> car is to a wrong span, boat -> ada is wrong.
    assert (values["precision"], values["recall"], values["f1"]) == (0.5, 0.5, 0.5)


def test_the_metrics_of_whole_results_equal_a_search_through_all_pairs() -> None:
    truths = [sentence(number).result for number in range(40)]
    data = [{"text": sentence(number).text} for number in range(40)]
    guesses = [_spoiled(result, number) for number, result in enumerate(truths)]
    values = metrics_of_results(PROBLEM, truths, guesses, data).values
    right = true_count = found_count = 0
    for truth, guess in zip(truths, guesses, strict=True):
        expected, found = _statements(truth), _statements(guess)
        right += sum(statement in expected for statement in found)
        true_count, found_count = true_count + len(expected), found_count + len(found)
    assert 0 < right < min(true_count, found_count)
    assert values["precision"] == right / found_count and values["recall"] == right / true_count


def _spoiled(result: list[Region], number: int) -> list[Region]:
    """A result with a region moved, a relation less, a relation turned, and new ids."""
    spoiled = [dict(item) for item in result]
    for index, item in enumerate(spoiled):
        if item["type"] == "relation":
            item |= {key: f"new {item[key]}" for key in ("from_id", "to_id")}
            item["direction"] = {0: "left", 1: "bi"}.get((number + index) % 5, item["direction"])
        else:
            item["id"] = f"new {item['id']}"
            if (number + index) % 7 == 0:
                item["value"] = {**item["value"], "end": item["value"]["end"] - 1}
    return spoiled[: len(spoiled) - number % 2]


def _statements(result: list[Region]) -> list[Any]:
    """What each relation says, in words: (place and label of both ends, label), once for each direction."""
    spans = {item["id"]: item["value"] for item in result if item["type"] != "relation"}
    statements = []
    for item in result:
        if item["type"] != "relation":
            continue
        first, second = (
            (spans[item[key]]["start"], spans[item[key]]["end"], *spans[item[key]]["labels"])
            for key in ("from_id", "to_id")
        )
        for label in item["labels"]:
            statements += [(first, second, label)] if item["direction"] in ("right", "bi") else []
            statements += [(second, first, label)] if item["direction"] in ("left", "bi") else []
    return list(dict.fromkeys(statements))


def test_a_missing_result_counts_as_one_without_relations() -> None:
    values = metrics_of_results(PROBLEM, [[*SPANS, related("ada", "boat")]], [[]], [DATA]).values
    assert values["f1"] == 0.0


def test_relations_between_predicted_boxes_count_where_the_boxes_are_right() -> None:
    problem = pictures.problem_of(pictures.BOXES)
    truth = [
        pictures.box("a", pictures.CUP),
        pictures.box("b", pictures.TABLE, "table"),
        relation("a", "b", "right", ["on"]),
    ]
    near, far = (0.11, 0.1, 0.21, 0.3), (0.5, 0.1, 0.6, 0.3)
    for corners, f1 in ((near, 1.0), (far, 0.0)):
        guess = [
            pictures.box("y", pictures.TABLE, "table"),
            pictures.box("x", corners),
            relation("x", "y", "right", ["on"]),
        ]
        assert metrics_of_results(problem, [truth], [guess], [DATA]).values["f1"] == f1
