"""Which smart tools are bound, and what annotations with masks say."""

from typing import Any

import numpy as np
import pytest

from lorabel.errors import MissingTargetError
from lorabel.labeling.bit_masks import fill_polygon, mask_of, runs_of
from lorabel.mask_contracts import Mask, Masks, MasksTarget
from lorabel.problems.binding import bind
from lorabel.problems.interactive_segmentation import InteractiveSegmentation

LABELS = '<Label value="Car"/><Label value="Bus"/>'
IMAGE = '<Image name="image" value="$image"/>'
CLICK = f'<KeyPointLabels name="click" toName="image" smart="true">{LABELS}</KeyPointLabels>'
SMART_BOX = f'<RectangleLabels name="box" toName="image" smart="true">{LABELS}</RectangleLabels>'
BRUSH = f'<BrushLabels name="brush" toName="image">{LABELS}</BrushLabels>'
POLYGON = f'<PolygonLabels name="polygon" toName="image">{LABELS}</PolygonLabels>'
DATA = {"image": "/data/upload/1/a.png"}


def find(*tags: str) -> InteractiveSegmentation | None:
    bindings = bind(f"<View>{IMAGE}{''.join(tags)}</View>").bindings
    return next((each for each in bindings if isinstance(each, InteractiveSegmentation)), None)


def binding(*tags: str) -> InteractiveSegmentation:
    found = find(*tags)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("tags", "claims", "answer"),
    [
        ((BRUSH, CLICK), ("click",), "brush"),
        ((CLICK, SMART_BOX, BRUSH), ("click", "box"), "brush"),
        ((SMART_BOX, CLICK, BRUSH, POLYGON), ("box", "click"), "brush"),
        ((POLYGON, SMART_BOX), ("box",), "polygon"),
        ((CLICK, SMART_BOX), ("click",), "box"),
    ],
)
def test_the_smart_tools_are_claimed_and_answer_with_the_most_exact_control_tag_for_masks(
    tags: tuple[str, ...], claims: tuple[str, ...], answer: str
) -> None:
    assert binding(*tags).claims == claims
    assert binding(*tags).answer.name == answer


@pytest.mark.parametrize("tags", [(BRUSH,), (CLICK,), (SMART_BOX,), (CLICK.replace(' smart="true"', ""), BRUSH)])
def test_without_a_smart_tool_or_without_a_tag_for_masks_nothing_is_bound(tags: tuple[str, ...]) -> None:
    assert find(*tags) is None


def polygon(points: Any, **changes: Any) -> dict[str, Any]:
    value = {"points": points, "closed": True, "polygonlabels": ["Bus"]}
    size = {"original_width": 20, "original_height": 10}
    return {"from_name": "polygon", "to_name": "image", "type": "polygonlabels", "value": value, **size, **changes}


def test_the_target_of_a_polygon_is_what_it_encloses_and_comes_back_as_a_polygon() -> None:
    problem = binding(POLYGON, CLICK)
    target = problem.target([polygon([[10, 20], [60, 20], [60, 90], [10, 90]])], DATA)
    expected = np.zeros((10, 20), bool)
    expected[2:9, 2:12] = True
    assert target == MasksTarget(((runs_of(expected), 1),), 20, 10)
    [region] = problem.prediction(problem.perfect_output(target), DATA).regions
    assert sorted(region["value"]["points"]) == [[10, 20], [10, 90], [60, 20], [60, 90]]
    assert region["value"]["polygonlabels"] == ["Bus"]


@pytest.mark.parametrize(
    ("region", "reason"),
    [
        (polygon([[10, 20], [60, 20]]), "2 points"),
        (polygon([[10, 20], [60, 20], [30, 20]]), "no area"),
        (polygon([[10, 20], [60, 20], [60, "x"]]), "two numbers"),
        (polygon([[0, 0], [9, 0], [9, 9]], original_width=None), "size"),
        (polygon([[0, 0], [9, 0], [9, 9]], original_width=10**5, original_height=10**4), "pixels"),
        (polygon([[0, 0], [9, 0], [9, 9]], original_width=1, original_height=10**8), "size"),
        (polygon([[0, 0], [0.1, 0], [0.1, 0.1]]), "empty"),
        (polygon([[0, 0], [1e308, 0], [-1e308, 90]]), "two numbers"),
    ],
)
def test_a_polygon_that_masks_nothing_has_a_reason(region: Any, reason: str) -> None:
    with pytest.raises(MissingTargetError, match=reason):
        binding(POLYGON, CLICK).target([region], DATA)


def test_regions_on_pictures_of_several_sizes_have_a_reason() -> None:
    square = [[10, 20], [60, 20], [60, 90]]
    with pytest.raises(MissingTargetError, match="2 sizes"):
        binding(POLYGON, CLICK).target([polygon(square), polygon(square, original_width=40)], DATA)


def test_training_asks_for_each_mask_by_a_click_in_its_middle() -> None:
    problem = binding(BRUSH, CLICK)
    masks = [fill_polygon([(x, 2), (x + 5, 2), (x + 5, 7), (x, 7)], 20, 10) for x in (1, 12)]
    target = MasksTarget(tuple((runs_of(mask), index) for index, mask in enumerate(masks)), 20, 10)
    question = problem.asked_for(problem.model_input(DATA), target)
    assert [prompt.label for prompt in question.prompts] == [0, 1]
    for prompt, mask in zip(question.prompts, masks, strict=True):
        [point] = prompt.points
        assert mask[int(point.y * 10), int(point.x * 20)]
    assert [(point.x, point.y) for prompt in question.prompts for point in prompt.points] == [
        (3.5 / 20, 4.5 / 10),
        (14.5 / 20, 4.5 / 10),
    ]


def test_an_empty_mask_gives_no_region() -> None:
    output = Masks(masks=(Mask(label=0, runs=(200,), probability=0.3),), width=20, height=10)
    prediction = binding(BRUSH, CLICK).prediction(output, DATA)
    assert (prediction.regions, prediction.score) == ([], 0.3)


def test_a_mask_of_the_whole_picture_is_whole() -> None:
    output = Masks(masks=(Mask(label=0, runs=(0, 200)),), width=20, height=10)
    for tags in ((BRUSH, CLICK), (POLYGON, CLICK), (CLICK, SMART_BOX)):
        problem = binding(*tags)
        [region] = problem.prediction(output, DATA).regions
        assert problem.target([region], DATA).masks[0][0] == runs_of(mask_of((0, 200), 20, 10))
