"""Regions of explanations from what a model answers; the model server is a hand-written answer."""

from collections.abc import Callable, Sequence
from time import monotonic
from typing import Any

import pytest

from lorabel.errors import UnreadableError
from lorabel.explanations.label_nearness import MOST_NEAR, ExplainedRegion, explain_regions
from lorabel.inference.messages import PredictRow, Priority, RowError, RowResult
from lorabel.inference.question import Question
from lorabel.inference.requests import PredictionCaller
from lorabel.mask_contracts import Mask, Masks
from lorabel.problems._near_labels import NearLabels
from lorabel.problems.binding import bind
from lorabel.space_contracts import Box, Boxes, Nearness

DATA = {"image": "http://pictures.test/a.png"}
PLACE = (0.25, 0.25, 0.5, 0.75)
THREE = Nearness(answering=(1.0, -2.0, 0.5))


class Answering:
    """A model server that gives one answer, and remembers what it was asked."""

    def __init__(self, output: Any) -> None:
        self.output = output
        self.rows: list[PredictRow] = []

    def predict(
        self,
        rows: Sequence[PredictRow],
        timeout_s: float,
        project_id: int,
        priority: Priority,
        is_gone: Callable[[], bool] | None = None,
    ) -> list[RowResult]:
        self.rows += rows
        return [self.output if isinstance(self.output, RowResult) else RowResult(output=self.output.model_dump())]


def explain(
    output: Any, labels: int = 3, tag: str = "RectangleLabels", **question: Any
) -> tuple[list[ExplainedRegion], Answering]:
    texts = "".join(f'<Label value="label {number}"/>' for number in range(labels))
    config = f'<View><Image name="image" value="$image"/><{tag} name="box" toName="image">{texts}</{tag}></View>'
    (binding,) = bind(config).bindings
    assert isinstance(binding, NearLabels)
    asked = Question(binding, DATA, binding.model_input(DATA), "p1.v1/box", "p1.h1/box", **question)
    near = binding.explained(asked.contract)
    assert near is not None
    server = Answering(output)
    caller = PredictionCaller(server, 1, Priority.BULK, monotonic() + 10)  # type: ignore[arg-type]
    return explain_regions(caller, asked, near, "late"), server


def boxes(*found: Box, threshold: float = 0.3) -> Boxes:
    return Boxes(boxes=found, width=400, height=200, threshold=threshold)


def test_the_labels_of_a_box_are_told_the_nearest_first() -> None:
    (region,), server = explain(boxes(Box(corners=PLACE, label=0, probability=0.7, nearness=THREE)))
    assert (region.corners, region.label, region.score) == (PLACE, "label 0", 0.7)
    assert [(near.label, near.nearness) for near in region.labels] == [
        ("label 0", 1.0),
        ("label 2", 0.5),
        ("label 1", -2.0),
    ]
    assert region.margin == 0.5
    assert {(near.of_text, near.is_taught) for near in region.labels} == {(None, None)}
    (row,) = server.rows
    assert (row.kind, row.input["is_explained"], row.adapter, row.head) == (
        "boxes",
        True,
        "p1.v1/box",
        "p1.h1/box",
    )


def test_a_head_is_told_beside_the_texts_of_the_labels() -> None:
    nearness = Nearness(answering=(3.0, 0.0), of_texts=(-1.0, 0.0), is_taught=(True, False))
    (region,), _ = explain(boxes(Box(corners=PLACE, label=0, probability=0.9, nearness=nearness)), 2)
    assert [(near.nearness, near.of_text, near.is_taught) for near in region.labels] == [
        (3.0, -1.0, True),
        (0.0, 0.0, False),
    ]


def test_boxes_are_those_that_are_shown_with_the_scores_that_people_see() -> None:
    likely, unlikely = (
        Box(corners=PLACE, label=label, probability=probability, nearness=THREE)
        for label, probability in ((0, 0.9), (2, 0.4))
    )
    (region,), _ = explain(boxes(likely, unlikely, threshold=0.5))
    assert region.label == "label 0"
    both, _ = explain(boxes(likely, unlikely, threshold=0.5), threshold=0.35)
    assert [each.label for each in both] == ["label 0", "label 2"]
    assert both[1].margin == -0.5  # its own label is not the nearest: that one has a box of its own
    (cooled,), _ = explain(boxes(likely, unlikely, threshold=0.5), temperature=2.0)
    assert 0.5 < cooled.score < 0.9


def test_masks_are_explained_by_the_boxes_around_them() -> None:
    masks = (
        Mask(label=1, runs=(0, 2, 6), probability=0.8, nearness=THREE),
        Mask(label=2, runs=(8,), probability=0.8, nearness=THREE),  # has no pixel
    )
    (region,), server = explain(Masks(masks=masks, width=4, height=2, threshold=0.3), 3, "BrushLabels")
    assert (region.corners, region.label, region.score) == ((0.0, 0.0, 0.5, 0.5), "label 1", 0.8)
    assert [near.label for near in region.labels] == ["label 0", "label 2", "label 1"]
    assert region.margin == -3.0
    assert server.rows[0].kind == "labelled_masks" and server.rows[0].input["is_explained"] is True


def test_of_many_labels_the_nearest_are_told_and_the_boxs_own() -> None:
    nearness = Nearness(answering=tuple(float(-number) for number in range(60)))
    (region,), _ = explain(boxes(Box(corners=PLACE, label=59, probability=0.9, nearness=nearness)), 60)
    assert [near.label for near in region.labels] == [
        *(f"label {number}" for number in range(MOST_NEAR)),
        "label 59",
    ]
    assert region.margin == -59.0


@pytest.mark.parametrize(
    "box",
    [
        Box(corners=PLACE, label=0, probability=0.9),
        Box(corners=PLACE, label=7, probability=0.9, nearness=THREE),
        Box(corners=PLACE, label=0, probability=0.9, nearness=Nearness(answering=(1.0,))),
    ],
)
def test_an_answer_that_makes_no_sense_is_said(box: Box) -> None:
    with pytest.raises(UnreadableError, match="makes no sense"):
        explain(boxes(box))


def test_a_picture_that_cannot_be_read_is_said() -> None:
    with pytest.raises(UnreadableError, match="no picture"):
        explain(RowResult(error=RowError(reason="no picture", is_permanent=True)))
