"""Relations between boxes and between lines of text of a picture."""

from itertools import product
from typing import Any

import pytest

from lorabel.errors import MissingTargetError
from lorabel.labeling.image_regions import image_region
from lorabel.labeling.regions import Region, relation
from lorabel.problems.binding import bind
from lorabel.problems.relations_in_pictures import PictureRelations
from lorabel.relation_contracts import RelatedRegion, Relation, Relations
from lorabel.space_contracts import Corners
from tests.samples import binding_of

DATA = {"image": "/data/upload/1/street.png"}
SIZE = (400, 200)
RELATIONS = '<Relations><Relation value="left of"/><Relation value="on"/></Relations>'
BOXES = (
    f'<View><Image name="image" value="$image"/>{RELATIONS}<RectangleLabels name="box" toName="image">'
    '<Label value="cup"/><Label value="table"/></RectangleLabels></View>'
)
LINES = (
    f'<View><Image name="image" value="$image"/>{RELATIONS}<Labels name="label" toName="image">'
    '<Label value="key"/><Label value="value"/></Labels><Rectangle name="line" toName="image"/>'
    '<TextArea name="text" toName="image" perRegion="true"/></View>'
)
CUP, TABLE = (0.1, 0.1, 0.2, 0.3), (0.0, 0.3, 0.9, 0.8)


def box(id_: str, corners: Corners, label: str = "cup") -> Region:
    value = {"rectanglelabels": [label]}
    return {"id": id_, **image_region("box", "image", "rectanglelabels", corners, SIZE, value)}


def line(id_: str, corners: Corners, label: str | None, text: str) -> list[Region]:
    """As the editor writes a line: the place in each of its regions."""
    says = {"text": {"text": [text]}, "line": {}} | ({"label": {"labels": [label]}} if label else {})
    kinds = {"text": "textarea", "line": "rectangle", "label": "labels"}
    return [
        {"id": id_, **image_region(name, "image", kinds[name], corners, SIZE, value)}
        for name, value in says.items()
    ]


def problem_of(config: str) -> PictureRelations:
    (binding,) = (each for each in bind(config).bindings if isinstance(each, PictureRelations))
    return binding


@pytest.fixture
def problem() -> PictureRelations:
    return problem_of(BOXES)


def test_boxes_are_asked_about_cut_out_with_their_labels(problem: PictureRelations) -> None:
    result = [box("a", CUP), box("b", TABLE, "table"), relation("a", "b", "right", ["on"])]
    target = problem.target(result, DATA)
    assert target.links == ((0, 1, 1),)
    question = problem.asked_for(problem.model_input(DATA), target)
    parts = [content.part for content in question.contents]
    assert [(part.x, part.y) for part in parts if part] == [(0.15, 0.2), (0.45, 0.55)]
    assert [region.label for region in question.regions] == [0, 1]  # type: ignore[attr-defined]


def test_before_there_are_regions_the_picture_is_asked_about(problem: PictureRelations) -> None:
    (content,) = problem.model_input(DATA).contents
    assert content.part is None and content.media is not None


def test_a_line_is_one_region_with_its_text_and_its_label_if_it_has_one() -> None:
    problem = problem_of(LINES)
    assert problem.region_labels == ("label: key", "label: value", "label: ")
    result = [
        *line("a", (0.1, 0.1, 0.2, 0.2), "key", "Total"),
        *line("b", (0.5, 0.1, 0.6, 0.2), None, "12.50"),
        relation("b", "a", "left", ["left of"]),
    ]
    target = problem.target(result, DATA)
    assert [(region.label, region.text) for region in target.regions] == [(0, "Total"), (2, "12.50")]
    assert target.links == ((0, 1, 0),)
    about = problem.about(result[:-1])
    assert about is not None
    written = about.prediction(Relations(relations=(Relation(first=0, second=1, label=0),)), DATA).regions
    assert written == [relation("a", "b", "right", ["left of"])]


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"value": None}, "it has no label of 'box'"),
        ({"value": {"rectanglelabels": ["cup"]}}, "region 'a'"),
        ({"value": {"x": 10, "y": 10, "width": 0, "height": 0, "rectanglelabels": ["cup"]}}, "no area"),
        ({"value": {"x": 10, "y": 10, "width": 5, "height": 5, "rectanglelabels": ["mug"]}}, "no longer has"),
    ],
)
def test_a_box_that_cannot_be_used_is_left_out_with_its_relations(
    problem: PictureRelations, changed: dict[str, Any], reason: str
) -> None:
    result = [{**box("a", CUP), **changed}, box("b", TABLE, "table"), box("c", CUP)]
    result += [relation("a", "b", "right", ["on"])]
    with pytest.raises(MissingTargetError, match=reason):
        problem.target(result, DATA)
    target = problem.target([*result, relation("c", "b", "right", ["on"])], DATA)
    assert target.links == ((1, 0, 1),) and len(target.left_out) == 2


def test_regions_are_the_same_that_a_search_through_all_pairs_finds(problem: PictureRelations) -> None:
    """Of boxes that lie apart, each has one counterpart at most."""
    places = [(0.1 * step, 0.1, 0.1 * step + 0.08, 0.3) for step in range(8)]
    first = [RelatedRegion(label=step % 2, corners=place) for step, place in enumerate(places)]
    moves = (0.0, 0.02, 0.05, 0.0, -0.02, 0.06, 0.01, 0.0)
    second = [
        RelatedRegion(label=step % 2 if step != 3 else 0, corners=(a + move, b, c + move, d))
        for step, ((a, b, c, d), move) in enumerate(zip(places, moves, strict=True))
    ][::-1]
    expected = {
        (i, k)
        for (i, one), (k, other) in product(enumerate(first), enumerate(second))
        if one.label == other.label and _iou(one.corners, other.corners) >= 0.5
    }
    assert {*problem.same_regions(first, second).items()} == expected and 3 < len(expected) < 8


def _iou(one: Any, other: Any) -> float:
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    common = max(0.0, width) * max(0.0, height)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    return common / (sum(areas) - common)


def test_every_sample_is_asked_about_its_own_regions() -> None:
    for sample in PictureRelations.SAMPLES:
        binding = binding_of(PictureRelations, sample)
        assert len(binding.model_input(sample.data).contents) == 2
