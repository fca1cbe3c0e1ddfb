"""Relations between spans: what an annotation says, what is predicted, and bad input."""

from collections.abc import Iterator
from typing import Any

import pytest

from lorabel.errors import MissingTargetError
from lorabel.labeling.regions import Region
from lorabel.problems._pictures import identified
from lorabel.problems.binding import bind
from lorabel.problems.relations import SpanRelations
from lorabel.relation_contracts import MOST_RELATED, Relation, Relations, RelationTarget
from tests.related_sentences import LABEL_CONFIG, sentence

DATA = {"text": "Ada owns a boat, Bob a car"}
# As the editor of Label Studio 1.23.2 submits them.
ADA, BOAT, BOB, CAR = (
    {
        "value": {"start": start, "end": end, "text": DATA["text"][start:end], "labels": [label]},
        "id": id_,
        "from_name": "entity",
        "to_name": "text",
        "type": "labels",
        "origin": "manual",
    }
    for id_, start, end, label in (
        ("ada", 0, 3, "Person"),
        ("boat", 11, 15, "Thing"),
        ("bob", 17, 20, "Person"),
        ("car", 23, 26, "Thing"),
    )
)
SPANS = [ADA, BOAT, BOB, CAR]
OWNS, KNOWS = 0, 1


def related(from_id: Any, to_id: Any, **fields: Any) -> Region:
    return {
        "from_id": from_id,
        "to_id": to_id,
        "type": "relation",
        "direction": "right",
        "labels": ["owns"],
        **fields,
    }


@pytest.fixture
def problem() -> SpanRelations:
    return _problem(LABEL_CONFIG)


def _problem(label_config: str) -> SpanRelations:
    (binding,) = (each for each in bind(label_config).bindings if isinstance(each, SpanRelations))
    return binding


def links_of(problem: SpanRelations, *items: Region) -> tuple[tuple[int, int, int], ...]:
    return problem.target([*SPANS, *items], DATA).links


def test_relations_go_between_the_regions_of_the_annotation(problem: SpanRelations) -> None:
    target = problem.target([*SPANS, related("ada", "boat"), related("bob", "car")], DATA)
    assert [(region.start, region.end, region.label) for region in target.regions] == [
        (0, 3, 0),
        (11, 15, 1),
        (17, 20, 0),
        (23, 26, 1),
    ]
    assert target.links == ((0, 1, OWNS), (2, 3, OWNS)) and target.left_out == ()


@pytest.mark.parametrize(
    ("direction", "links"),
    [
        ("right", ((0, 2, KNOWS),)),
        ("left", ((2, 0, KNOWS),)),
        ("bi", ((0, 2, KNOWS), (2, 0, KNOWS))),
    ],
)
def test_the_direction_says_where_a_relation_goes(problem: SpanRelations, direction: str, links: Any) -> None:
    assert links_of(problem, related("ada", "bob", direction=direction, labels=["knows"])) == links


def test_a_relation_may_have_several_labels(problem: SpanRelations) -> None:
    links = links_of(problem, related("ada", "bob", labels=["owns", "knows"]))
    assert links == ((0, 2, OWNS), (0, 2, KNOWS))


class Dialogue(list[dict[str, str]]):
    """Counts how often it was read."""

    reads = 0

    def __iter__(self) -> Iterator[dict[str, str]]:
        self.reads += 1
        return super().__iter__()


def test_a_dialogue_is_read_as_often_for_many_regions_as_for_two() -> None:
    problem = _problem(
        '<View><Relations/><ParagraphLabels name="entity" toName="talk"><Label value="Person"/></ParagraphLabels>'
        '<Paragraphs name="talk" value="$talk"/></View>'
    )

    def reads(count: int) -> int:
        talk = Dialogue({"author": "A", "text": "Ada"} for _ in range(count))
        places = [{"start": str(number), "end": str(number)} for number in range(count)]
        spans = [
            {
                "id": str(number),
                "from_name": "entity",
                "to_name": "talk",
                "type": "paragraphlabels",
                "value": {**place, "startOffset": 0, "endOffset": 3, "paragraphlabels": ["Person"]},
            }
            for number, place in enumerate(places)
        ]
        target = problem.target([*spans, related("0", "1")], {"talk": talk})
        assert len(target.regions) == count and target.regions[-1].start == 4 * (count - 1)
        about = problem.about(spans)
        assert about is not None and about.model_input({"talk": talk}).regions == target.regions
        return talk.reads

    assert reads(20) == reads(2)


def test_regions_without_a_relation_say_that_there_is_none(problem: SpanRelations) -> None:
    assert links_of(problem) == ()


@pytest.mark.parametrize(
    ("relation", "reason"),
    [
        (related("ada", "gone"), "a relation names the region 'gone', which is none of 'entity'"),
        (related(None, "boat"), "a relation names the region None"),
        (related("ada", "kind"), "a relation names the region 'kind', which is none of 'entity'"),
        (related("ada", "ada"), "a relation joins the region 'ada' with itself"),
        (related("ada", "boat", direction="up"), "a relation has the direction 'up'"),
        (related("ada", "boat", labels=["stole"]), "which the label config no longer has"),
        (related("ada", "boat", labels=[]), "a relation has no label"),
        (related("ada", "boat", labels="owns"), "a relation has the labels 'owns', expected a list"),
        (related("ada", "lost"), "region 'lost': 'entity' was answered ['Place']"),
    ],
)
def test_a_relation_that_cannot_be_used_is_left_out_by_itself(
    problem: SpanRelations, relation: Region, reason: str
) -> None:
    choice = {"id": "kind", "from_name": "kind", "to_name": "text", "type": "choices", "value": {"choices": ["a"]}}
    lost = {**BOB, "id": "lost", "value": {**BOB["value"], "labels": ["Place"]}}
    result = [*SPANS, choice, lost, relation]
    with pytest.raises(MissingTargetError):
        problem.target(result, DATA)
    target = problem.target([*result, related("bob", "car")], DATA)
    assert target.links == ((2, 3, OWNS),)
    assert reason in "; ".join(problem.left_out(target))


def test_a_span_without_a_word_is_left_out_by_itself(problem: SpanRelations) -> None:
    data = {"text": f"{DATA['text']}  \n "}
    space = {**BOB, "id": "space", "value": {"start": 27, "end": 29, "labels": ["Person"]}}
    target = problem.target([space, *SPANS, related("space", "car"), related("ada", "boat")], data)
    assert [region.start for region in target.regions] == [0, 11, 17, 23] and target.links == ((0, 1, OWNS),)
    assert problem.left_out(target) == (
        "region 'space': no word is in the span from 27 to 29",
        "a relation names the region 'space', which is none of 'entity'",
    )


def test_how_a_pair_is_related_by_a_label_that_is_gone_is_not_known(problem: SpanRelations) -> None:
    result = [*SPANS, related("ada", "boat", labels=["stole"]), related("bob", "car")]
    target = problem.target(result, DATA)
    assert target.unknown == ((0, 1),)
    guessed = Relations(relations=(Relation(first=0, second=1), Relation(first=2, second=3)))
    assert problem.metrics([target], [guessed]).values["f1"] == 1.0


def test_an_annotation_with_fewer_than_two_regions_is_skipped_with_the_reason(problem: SpanRelations) -> None:
    with pytest.raises(MissingTargetError, match="1 regions are marked, and relations are between two"):
        problem.target([ADA], DATA)


def many(count: int) -> tuple[list[Region], dict[str, str]]:
    """Spans of one word each, in a text of as many words."""
    spans = [
        {**ADA, "id": str(number), "value": {"start": 2 * number, "end": 2 * number + 1, "labels": ["Person"]}}
        for number in range(count)
    ]
    return spans, {"text": "a " * count}


def test_of_very_many_regions_those_with_relations_and_the_nearest_to_them_are_kept(
    problem: SpanRelations,
) -> None:
    spans, data = many(3 * MOST_RELATED)
    items = [related("280", "30"), related("30", "290", labels=["stole"]), related("281", "282")]
    target = problem.target([*spans, *items], data)
    kept = [region.start // 2 for region in target.regions]
    assert len(kept) == MOST_RELATED and {30, 280, 281, 282} < {*kept} and kept == sorted(kept)
    assert {*range(20, 40), *range(270, 290)} < {*kept}
    assert [(kept[first], kept[second], label) for first, second, label in target.links] == [
        (280, 30, OWNS),
        (281, 282, OWNS),
    ]
    assert [(kept[first], kept[second]) for first, second in target.unknown] == [(30, 290)]
    assert "300 regions are marked, and relations between at most 100 are learned" in target.left_out
    question = problem.asked_for(problem.model_input(data), target)
    assert len(question.regions) == MOST_RELATED  # type: ignore[attr-defined]


def test_of_very_many_relations_as_many_are_kept_as_regions(problem: SpanRelations) -> None:
    spans, data = many(2 * MOST_RELATED + 2)
    items = [related(str(number), str(number + 1)) for number in range(0, len(spans), 2)]
    target = problem.target([*spans, *items], data)
    assert target.links == tuple((number, number + 1, OWNS) for number in range(0, MOST_RELATED, 2))
    assert len(target.regions) == MOST_RELATED
    assert f"{len(items) - MOST_RELATED // 2} relations are between regions that are left out" in target.left_out


def test_of_very_many_regions_without_a_relation_the_first_are_kept(problem: SpanRelations) -> None:
    spans, data = many(MOST_RELATED + 1)
    target = problem.target(spans, data)
    assert [region.start // 2 for region in target.regions] == [*range(MOST_RELATED)]
    assert problem.target(spans[:-1], data) == target and not problem.target(spans[:-1], data).left_out


def test_predicted_relations_name_the_ids_of_the_predicted_regions(problem: SpanRelations) -> None:
    bare = [{key: value for key, value in span.items() if key != "id"} for span in SPANS]
    regions = identified(bare)
    about = problem.about(regions)
    assert about is not None and len(about.model_input(DATA).regions) == 4
    found = Relations(
        relations=(
            Relation(first=0, second=1, label=OWNS, probability=0.75),
            Relation(first=0, second=2, label=KNOWS),
            Relation(first=2, second=0, label=KNOWS),
        )
    )
    prediction = about.prediction(found, DATA)
    ids = [region["id"] for region in regions]
    assert len(set(ids)) == 4
    assert prediction.regions == [
        {"type": "relation", "from_id": ids[0], "to_id": ids[1], "direction": "right", "labels": ["owns"]},
        {"type": "relation", "from_id": ids[0], "to_id": ids[2], "direction": "bi", "labels": ["knows"]},
    ]
    assert prediction.score == pytest.approx(2.75 / 3)


def test_the_editor_gets_one_relation_from_one_region_to_another(problem: SpanRelations) -> None:
    """It drops a second relation from the same region to the same region."""
    about = problem.about(SPANS)
    assert about is not None
    both, one = [(0, 2, KNOWS), (2, 0, KNOWS)], (0, 2, OWNS)
    links = [Relation(first=first, second=second, label=label) for first, second, label in (*both, one)]
    written = about.prediction(Relations(relations=tuple(links)), DATA).regions
    assert len({(item["from_id"], item["to_id"]) for item in written}) == len(written) == 2
    assert set(problem.target([*SPANS, *written], DATA).links) == {*both, one}


THREE_LABELS = LABEL_CONFIG.replace("</Relations>", '<Relation value="pays"/></Relations>')


@pytest.mark.parametrize("present", range(64))
def test_every_label_in_either_direction_is_written_so_that_the_editor_keeps_it(present: int) -> None:
    """Three labels there and back: the editor keeps one relation from one region to another."""
    problem = _problem(THREE_LABELS)
    about = problem.about(SPANS)
    assert about is not None
    every = [(*pair, label) for pair in ((0, 2), (2, 0)) for label in range(3)]
    links = [link for number, link in enumerate(every) if present >> number & 1]
    found = Relations(relations=tuple(Relation(first=a, second=b, label=label) for a, b, label in links))
    written = about.prediction(found, DATA).regions
    kept = {(item["from_id"], item["to_id"]): item for item in reversed(written)}
    assert len(kept) == len(written)
    assert problem.target([*SPANS, *kept.values()], DATA).links == tuple(sorted(links))


def test_nothing_is_asked_about_fewer_than_two_regions(problem: SpanRelations) -> None:
    assert problem.about([ADA]) is None


def test_without_labels_relations_have_none() -> None:
    problem = _problem(LABEL_CONFIG.replace('<Relation value="owns"/><Relation value="knows"/>', ""))
    target = problem.target([*SPANS, related("ada", "boat", labels=[])], DATA)
    assert target.links == ((0, 1, 0),)
    about = problem.about(SPANS)
    assert about is not None
    (written,) = about.prediction(problem.perfect_output(target), DATA).regions
    assert written == {"type": "relation", "from_id": "ada", "to_id": "boat", "direction": "right"}


def test_several_annotators_are_counted_by_what_they_marked(problem: SpanRelations) -> None:
    """Each has regions and ids of his own; the newest decides on exactly half."""
    backwards = [{**span, "id": f"{span['id']} 2"} for span in reversed(SPANS)]
    older = problem.target([*backwards, related("ada 2", "boat 2")], DATA)
    newest = problem.target([*SPANS, related("ada", "boat"), related("bob", "car")], DATA)
    assert problem.aggregate([older, newest]).links == ((0, 1, OWNS), (2, 3, OWNS))
    assert problem.aggregate([older, older, newest]).links == ((0, 1, OWNS),)


@pytest.mark.parametrize(
    "config",
    [
        '<Audio name="a" value="$a"/><Labels name="l" toName="a"><Label value="x"/></Labels>',
        '<Text name="t" value="$t"/><Choices name="c" toName="t"><Choice value="x"/></Choices>',
    ],
)
def test_relations_between_regions_that_nothing_predicts_are_left_to_people(config: str) -> None:
    bound = bind(f'<View><Relations><Relation value="owns"/></Relations>{config}</View>')
    (unclaimed,) = (each for each in bound.unclaimed if each.control.tag == "Relations")
    assert unclaimed.reason == "no spans, boxes or lines of text are predicted that relations could be between"


def test_two_control_tags_mark_regions_with_labels_of_their_own() -> None:
    other = '<Labels name="place" toName="text"><Label value="Thing"/></Labels></View>'
    problem = _problem(LABEL_CONFIG.replace("</View>", other))
    assert problem.region_labels == ("entity: Person", "entity: Thing", "place: Thing")
    target = problem.target([ADA, {**BOAT, "from_name": "place"}, related("ada", "boat")], DATA)
    assert [region.label for region in target.regions] == [0, 2] and target.links == ((0, 1, OWNS),)


def test_the_metrics_of_whole_results_equal_a_count_by_hand(problem: SpanRelations) -> None:
    truth = [*SPANS, related("ada", "boat"), related("bob", "car"), related("ada", "bob", direction="bi")]
    moved = {**CAR, "value": {**CAR["value"], "start": 21}}
    guess = [ADA, BOAT, BOB, moved]
    guess += [related("ada", "boat"), related("bob", "car"), related("bob", "ada"), related("boat", "ada")]
    values = problem.metrics_of_results([truth], [guess], [DATA]).values
    # Of four true ones, ada -> boat and bob -> ada are found; bob -> car is to a wrong span, boat -> ada is wrong.
    assert (values["precision"], values["recall"], values["f1"]) == (0.5, 0.5, 0.5)


def test_the_metrics_of_whole_results_equal_a_search_through_all_pairs(problem: SpanRelations) -> None:
    truths = [sentence(number).result for number in range(40)]
    data = [{"text": sentence(number).text} for number in range(40)]
    guesses = [_spoiled(result, number) for number, result in enumerate(truths)]
    values = problem.metrics_of_results(truths, guesses, data).values
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


def test_a_missing_result_counts_as_one_without_relations(problem: SpanRelations) -> None:
    values = problem.metrics_of_results([[*SPANS, related("ada", "boat")]], [[]], [DATA]).values
    assert values["f1"] == 0.0
    assert problem.metrics([RelationTarget((), ())], [Relations(relations=())]).values["f1"] == 1.0
