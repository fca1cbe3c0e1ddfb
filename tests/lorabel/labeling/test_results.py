"""Which results say the same. The recordings are of predictions that people submitted unchanged or changed."""

import json
from pathlib import Path
from typing import Any

import pytest

from lorabel.labeling.results import is_same_result
from lorabel.problems.base import Problem
from lorabel.problems.binding import problem_types

RECORDINGS = Path(__file__).parents[2] / "data" / "recordings"
UNCHANGED = (
    ("audio", "02-stream", "03-submit"),
    ("image-boxes", "02-stream", "03-submit"),
    ("image-caption", "02-stream", "03-submit"),
    ("image-choices", "04-stream", "05-accept"),
    ("image-multi-choices", "02-stream", "03-submit"),
    ("image-text", "02-stream", "03-submit"),
    ("text-choices", "02-stream", "03-submit"),
    ("text-ner", "02-stream", "03-submit"),
    ("video", "02-stream", "03-submit"),
)
CHANGED = (
    ("image-choices", "06-accept", "07-correct"),
    ("image-choices", "04-stream", "10-update"),
    ("image-prompt", "02-stream", "04-submit"),
    ("image-smart", "02-stream", "06-submit"),
    ("text-ner-smart", "02-stream", "04-submit"),
)


def predicted_and_submitted(folder: str, predict: str, submit: str) -> tuple[list[Any], list[Any]]:
    """The prediction in a recorded answer to /predict, and the annotation of a recorded event."""
    (answer,) = (RECORDINGS / folder).glob(f"{predict}-predict.json")
    (event,) = (RECORDINGS / folder).glob(f"{submit}-webhook-*.json")
    (prediction,) = json.loads(answer.read_text())["answered"]["body"]["results"]
    return prediction["result"], json.loads(event.read_text())["body"]["annotation"]["result"]


@pytest.mark.parametrize(("folder", "predict", "submit"), UNCHANGED)
def test_a_prediction_that_the_editor_submitted_unchanged_says_the_same(
    folder: str, predict: str, submit: str
) -> None:
    predicted, submitted = predicted_and_submitted(folder, predict, submit)
    assert predicted != submitted, "the editor writes it anew"
    assert is_same_result(predicted, submitted)
    assert is_same_result(predicted, submitted[::-1])
    assert not is_same_result(predicted, submitted[1:])


@pytest.mark.parametrize(("folder", "predict", "submit"), CHANGED)
def test_a_prediction_that_somebody_changed_says_something_else(folder: str, predict: str, submit: str) -> None:
    predicted, submitted = predicted_and_submitted(folder, predict, submit)
    assert not is_same_result(predicted, submitted)


@pytest.mark.parametrize("problem", problem_types(), ids=lambda problem: problem.name)
def test_the_samples_of_a_problem_say_the_opposite(problem: type[Problem]) -> None:
    for sample in problem.SAMPLES:
        assert is_same_result(sample.result, sample.result)
        assert not is_same_result(sample.result, sample.opposite)


def region(kind: str, value: Any, **fields: Any) -> dict[str, Any]:
    return {"from_name": "it", "to_name": "t", "type": kind, "value": value, **fields}


def span(start: int, end: int, label: str, **fields: Any) -> dict[str, Any]:
    return region("labels", {"start": start, "end": end, "labels": [label]}, **fields)


def page_span(xpath: str, offsets: tuple[int, int] | None) -> dict[str, Any]:
    value: dict[str, Any] = {
        "start": xpath,
        "end": xpath,
        "startOffset": 0,
        "endOffset": 3,
        "hypertextlabels": ["A"],
    }
    if offsets:
        value["globalOffsets"] = dict(zip(("start", "end"), offsets, strict=True))
    return region("hypertextlabels", value)


def related(*ids: str, **fields: Any) -> list[dict[str, Any]]:
    """Three spans with these ids, and a relation from the first to the second."""
    spans = [span(5 * index, 5 * index + 3, "A", id=name) for index, name in enumerate(ids)]
    return [*spans, {"type": "relation", "from_id": ids[0], "to_id": ids[1], "direction": "right", **fields}]


def related_on_page(first: str, second: str, *xpaths: str) -> list[dict[str, Any]]:
    """Two spans of a page with these ids and XPaths, and a relation from the first to the second."""
    offsets = ((0, 3), (9, 12))
    spans = [
        {**page_span(xpath, place), "id": id_}
        for id_, xpath, place in zip((first, second), xpaths, offsets, strict=True)
    ]
    return [*spans, {"type": "relation", "from_id": first, "to_id": second, "direction": "right"}]


BOX = {"x": 12.34565, "y": 25, "width": 35, "height": 40, "rectanglelabels": ["A"]}
SAME = {
    "choices in another order": (
        [region("choices", {"choices": ["b", "a"]})],
        [region("choices", {"choices": ["a", "b"]})],
    ),
    "taxonomy paths in another order": (
        [region("taxonomy", {"taxonomy": [["x"], ["a", "b"]]})],
        [region("taxonomy", {"taxonomy": [["a", "b"], ["x"]]})],
    ),
    "labels in another order": (
        [region("labels", {"start": 0, "end": 3, "labels": ["B", "A"]})],
        [region("labels", {"start": 0, "end": 3, "labels": ["A", "B"], "text": "Ada"})],
    ),
    "ids, origins and scores": (
        [span(0, 3, "A", score=0.4)],
        [span(0, 3, "A", id="x", origin="prediction", meta={})],
    ),
    "positions that differ by rounding": (
        [region("rectanglelabels", BOX)],
        [
            region(
                "rectanglelabels", {**BOX, "x": 12.345650000000001, "y": 25.0, "rotation": 0}, original_width=320
            )
        ],
    ),
    "two boxes, the first of which is rounded": (
        [region("rectangle", {"x": 1.0, "y": 9}), region("rectangle", {"x": 1.0, "y": 2})],
        [region("rectangle", {"x": 1.0000000001, "y": 9}), region("rectangle", {"x": 1.0, "y": 2})],
    ),
    "XPaths of the same global offsets": (
        [page_span("/p[1]/text()[1]", (0, 3))],
        [page_span("/div[1]/p[1]/text()[1]", (0, 3))],
    ),
    "no global offsets": ([page_span("/p[1]/text()[1]", None)], [page_span("/p[1]/text()[1]", (0, 3))]),
    "no choice, and no region": ([region("choices", {"choices": []})], []),
    "the object of a Pairwise": (
        [region("pairwise", {"selected": "left"})],
        [region("pairwise", {"selected": "left"}, to_name="it")],
    ),
    "relations between renamed regions": (related("1", "2", "3"), related("c", "b", "a")),
    "relations between renamed regions with other XPaths": (
        related_on_page("1", "2", "/p[1]/text()[1]", "/p[2]/text()[1]"),
        related_on_page("b", "a", "/div[1]/p[1]/text()[1]", "/div[1]/p[2]/text()[1]")[::-1],
    ),
    "a relation with no direction, which goes right": (
        related("1", "2", "3"),
        [*related("1", "2", "3")[:3], {"type": "relation", "from_id": "1", "to_id": "2", "labels": []}],
    ),
    "facts about the video": (
        [region("videorectangle", {"sequence": [{"frame": 1}]})],
        [region("videorectangle", {"sequence": [{"frame": 1}], "framesCount": 50, "duration": 2.0})],
    ),
}
OTHER = {
    "another choice": ([region("choices", {"choices": ["a"]})], [region("choices", {"choices": ["b"]})]),
    "one choice more": ([region("choices", {"choices": ["a"]})], [region("choices", {"choices": ["a", "b"]})]),
    "another path of the same words": (
        [region("taxonomy", {"taxonomy": [["a", "b"]]})],
        [region("taxonomy", {"taxonomy": [["b", "a"]]})],
    ),
    "another span": ([span(0, 3, "A")], [span(0, 4, "A")]),
    "another label": ([span(0, 3, "A")], [span(0, 3, "B")]),
    "the same twice": ([span(0, 3, "A"), span(0, 3, "A")], [span(0, 3, "A"), span(5, 8, "A")]),
    "a region was deleted": ([span(0, 3, "A"), span(5, 8, "A")], [span(0, 3, "A")]),
    "everything was deleted": ([span(0, 3, "A")], []),
    "a box was moved": ([region("rectanglelabels", BOX)], [region("rectanglelabels", {**BOX, "x": 12.4})]),
    "a box was turned": ([region("rectanglelabels", BOX)], [region("rectanglelabels", {**BOX, "rotation": 5})]),
    "another control tag": ([span(0, 3, "A")], [span(0, 3, "A", from_name="other")]),
    "another object tag": ([span(0, 3, "A")], [span(0, 3, "A", to_name="other")]),
    "another order of items": (
        [region("ranker", {"ranker": {"it": ["a", "b"]}})],
        [region("ranker", {"ranker": {"it": ["b", "a"]}})],
    ),
    "another text": ([region("textarea", {"text": ["a"]})], [region("textarea", {"text": ["b"]})]),
    "another text about a span": (
        [region("textarea", {"start": 0, "end": 3, "text": ["a"]})],
        [region("textarea", {"start": 0, "end": 3, "text": ["b"]})],
    ),
    "other global offsets": ([page_span("/p[1]/text()[1]", (0, 3))], [page_span("/p[1]/text()[1]", (4, 7))]),
    "another XPath": ([page_span("/p[1]/text()[1]", None)], [page_span("/p[2]/text()[1]", (9, 12))]),
    "a relation between other regions": (related("1", "2", "3"), related("1", "2", "3", to_id="3")),
    "a relation the other way": (related("1", "2", "3"), related("a", "b", "c", direction="left")),
    "a relation between other regions of a page": (
        related_on_page("1", "2", "/p[1]/text()[1]", "/p[2]/text()[1]"),
        [
            *related_on_page("1", "2", "/p[1]/text()[1]", "/p[2]/text()[1]")[:2],
            {"type": "relation", "from_id": "2", "to_id": "1", "direction": "right"},
        ],
    ),
    "a relation with a label": (related("1", "2", "3"), related("1", "2", "3", labels=["part of"])),
    "true for 1": ([region("number", {"number": 1})], [region("number", {"number": True})]),
    "what is no region": (["a"], [{"type": "choices"}]),
}


@pytest.mark.parametrize(("first", "second"), SAME.values(), ids=SAME)
def test_results_that_differ_in_form_only_say_the_same(first: list[Any], second: list[Any]) -> None:
    assert is_same_result(first, second)
    assert is_same_result(second, first)


@pytest.mark.parametrize(("first", "second"), OTHER.values(), ids=OTHER)
def test_results_that_differ_in_what_they_say_are_told_apart(first: list[Any], second: list[Any]) -> None:
    assert not is_same_result(first, second)
    assert not is_same_result(second, first)


def test_an_empty_list_of_labels_says_as_little_as_none() -> None:
    """Measured with Label Studio 1.23.2: a rectangle without a label is submitted without the list."""
    value = {"x": 10, "y": 10, "width": 40, "height": 10}
    region = {"id": "a", "from_name": "box", "to_name": "image", "type": "rectanglelabels"}
    predicted, submitted = ({**region, "value": {**value, **more}} for more in ({"rectanglelabels": []}, {}))
    assert is_same_result([predicted], [submitted])
    labeled = {**region, "value": {**value, "rectanglelabels": ["Shop"]}}
    assert not is_same_result([predicted], [labeled])


def test_labels_that_the_editor_copies_into_other_regions_of_a_group_say_nothing_more() -> None:
    """Measured with Label Studio 1.23.2: it does so where the task is submitted before its picture has loaded."""
    place = {"x": 50, "y": 12.5, "width": 37.5, "height": 12.5}
    box = {"id": "a", "from_name": "box", "to_name": "image", "type": "rectangle", "value": place}
    label = {**box, "from_name": "label", "type": "labels", "value": {**place, "labels": ["bus"]}}
    copied = {**box, "value": {**place, "labels": ["bus"]}}
    assert is_same_result([box, label], [copied, label])
    assert is_same_result([copied, label], [label, box])
    assert not is_same_result([box, label], [copied, {**label, "value": {**place, "labels": ["car"]}}])
    assert not is_same_result([box], [copied]), "without a region of the group that has the label, it is new"


@pytest.mark.parametrize("kind", [["labels"], {"labels": 1}, None, 7])
def test_a_type_that_is_no_name_is_compared_and_not_an_error(kind: Any) -> None:
    """An annotation may have anything there, and must not be lost for it."""
    odd = {"id": "a", "from_name": "box", "to_name": "image", "type": kind, "value": {"x": 1}}
    label = {**odd, "type": "labels", "value": {"labels": ["bus"]}}
    assert is_same_result([odd, label], [label, odd])
    assert not is_same_result([odd, label], [label, {**odd, "value": {"x": 2}}])
