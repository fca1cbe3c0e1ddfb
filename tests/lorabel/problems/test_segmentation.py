"""Which control tags ask for masks of what their labels name, and what annotations with masks say."""

from typing import Any

import numpy as np
import pytest

from lorabel.errors import MissingTargetError
from lorabel.labeling.bit_masks import BitMask, encode, mask_of, runs_of
from lorabel.labeling.image_regions import picture_region
from lorabel.mask_contracts import LabelledMasksInput, Mask, Masks, MasksTarget
from lorabel.problems.binding import bind
from lorabel.problems.boxes import LabelledBoxes
from lorabel.problems.interactive_segmentation import InteractiveSegmentation
from lorabel.problems.segmentation import Segmentation
from lorabel.problems.text_in_pictures import TextInPictures

LABELS = '<Label value="Car" hint="a red car"/><Label value="Bus"/>'
IMAGE = '<Image name="image" value="$image"/>'
BRUSH = f'<BrushLabels name="brush" toName="image">{LABELS}</BrushLabels>'
POLYGON = f'<PolygonLabels name="polygon" toName="image">{LABELS}</PolygonLabels>'
CLICK = f'<KeyPointLabels name="click" toName="image" smart="true">{LABELS}</KeyPointLabels>'
BOX = f'<RectangleLabels name="box" toName="image">{LABELS}</RectangleLabels>'
SMART_BOX = BOX.replace("toName", 'smart="true" toName')
TEXT = '<TextArea name="text" toName="image" perRegion="true"/>'
DATA = {"image": "/data/upload/1/a.png"}
SIZE = (20, 10)


def bound(*tags: str) -> dict[str, type]:
    bindings = bind(f"<View>{IMAGE}{''.join(tags)}</View>").bindings
    return {binding.from_name: type(binding) for binding in bindings}


def problem(tag: str = BRUSH) -> Segmentation:
    (binding,) = bind(f"<View>{IMAGE}{tag}</View>").bindings
    assert isinstance(binding, Segmentation)
    return binding


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ((BRUSH,), {"brush": Segmentation}),
        ((POLYGON,), {"polygon": Segmentation}),
        ((BRUSH.replace("toName", 'smart="true" toName'),), {"brush": Segmentation}),
        ((BRUSH, POLYGON), {"brush": Segmentation}),
        ((BRUSH, CLICK), {"brush": Segmentation, "click": InteractiveSegmentation}),
        ((SMART_BOX, BRUSH), {"brush": Segmentation, "box": InteractiveSegmentation}),
        ((SMART_BOX, POLYGON), {"polygon": Segmentation, "box": InteractiveSegmentation}),
        ((CLICK, SMART_BOX), {"click": InteractiveSegmentation, "box": LabelledBoxes}),
        ((BRUSH, BOX), {"brush": Segmentation, "box": LabelledBoxes}),
        ((POLYGON, TEXT), {"polygon": TextInPictures}),
        ((BRUSH, SMART_BOX, TEXT), {"brush": Segmentation, "box": InteractiveSegmentation}),
    ],
)
def test_a_tag_for_masks_is_predicted_without_a_click_and_a_smart_tool_beside_it_is_asked_by_clicks(
    tags: tuple[str, ...], expected: dict[str, type]
) -> None:
    assert bound(*tags) == expected


def test_a_polygon_beside_a_brush_says_which_tag_has_the_masks() -> None:
    (unclaimed,) = bind(f"<View>{IMAGE}{POLYGON}{BRUSH}</View>").unclaimed
    assert unclaimed.reason == "masks are predicted as regions of 'brush', which are more exact"


def test_the_question_has_the_picture_and_the_texts_of_the_labels() -> None:
    question = problem().model_input(DATA)
    assert isinstance(question, LabelledMasksInput)
    assert question.labels == (("a red car",), ("Bus",))


def mask(left: int, top: int, width: int, height: int) -> BitMask:
    pixels = np.zeros((SIZE[1], SIZE[0]), bool)
    pixels[top : top + height, left : left + width] = True
    return pixels


def brushed(pixels: BitMask, *labels: str, size: tuple[int, int] = SIZE) -> dict[str, Any]:
    value = {"format": "rle", "rle": encode(runs_of(pixels)), "brushlabels": list(labels or ("Car",))}
    return dict(picture_region("brush", "image", "brushlabels", size, value))


def polygon(points: Any) -> dict[str, Any]:
    value = {"points": points, "closed": True, "polygonlabels": ["Bus"]}
    return dict(picture_region("polygon", "image", "polygonlabels", SIZE, value))


GOOD, OTHER = mask(2, 2, 5, 5), mask(12, 2, 5, 5)


@pytest.mark.parametrize(
    ("tag", "good", "bad", "reason"),
    [
        (
            BRUSH,
            brushed(GOOD),
            brushed(GOOD, size=(7, 7)),
            "the RLE has 800 values; a picture of 7 x 7 pixels has 196",
        ),
        (BRUSH, brushed(GOOD), brushed(GOOD & False), "a mask of 'brush' is empty"),
        (
            BRUSH,
            brushed(GOOD),
            brushed(GOOD, "Tram"),
            "'brush' was answered ['Tram'], which the label config no longer",
        ),
        (BRUSH, brushed(GOOD), {**brushed(GOOD), "value": None}, "the value of a region is None"),
        (
            POLYGON,
            polygon([[0, 0], [50, 0], [50, 50]]),
            polygon([[0, 0], [50, 0]]),
            "a polygon with 2 points has no area",
        ),
        (
            POLYGON,
            polygon([[0, 0], [50, 0], [50, 50]]),
            polygon([[0, 0], [50, 0], [90, 0]]),
            "the region has no area",
        ),
    ],
)
def test_what_cannot_be_read_is_left_out_with_a_reason_and_the_rest_is_learned(
    tag: str, good: Any, bad: Any, reason: str
) -> None:
    segmentation = problem(tag)
    target = segmentation.target([bad, good, bad], DATA)
    assert target.masks == segmentation.target([good], DATA).masks
    assert len(target.masks) == 1
    assert len(segmentation.left_out(target)) == 2
    assert all(each.startswith(reason) for each in segmentation.left_out(target))
    with pytest.raises(MissingTargetError) as raised:
        segmentation.target([bad], DATA)
    assert str(raised.value).startswith(reason)


@pytest.mark.parametrize(
    ("bad", "unlabelled", "incomplete"),
    [
        (brushed(OTHER, "Tram"), (runs_of(OTHER),), ()),
        ({**brushed(OTHER), "value": {**brushed(OTHER)["value"], "brushlabels": []}}, (runs_of(OTHER),), ()),
        (brushed(OTHER, "Bus", size=(7, 7)), (), (1,)),
        (brushed(np.ones((5, 5), bool), "Bus", size=(5, 5)), (), (1,)),
        (brushed(OTHER & False, "Bus"), (), ()),
    ],
)
def test_where_it_is_not_known_what_is_there_nothing_is_taught(
    bad: Any, unlabelled: tuple[Any, ...], incomplete: tuple[int, ...]
) -> None:
    """A mask whose label is gone has a place; the place of one that cannot be read may be anywhere."""
    segmentation = problem()
    target = segmentation.target([brushed(GOOD), brushed(GOOD, "Bus"), bad], DATA)
    assert (target.unlabelled, target.incomplete) == (unlabelled, incomplete)
    assert len(target.left_out) == 1
    agreed = segmentation.aggregate([target, segmentation.target([brushed(GOOD), brushed(GOOD, "Bus")], DATA)])
    assert (agreed.unlabelled, agreed.incomplete) == (unlabelled, incomplete)


def test_a_mask_that_is_found_where_nobody_knows_what_is_there_does_not_count() -> None:
    segmentation = problem()
    known = segmentation.target([brushed(GOOD)], DATA)
    unclear = segmentation.target([brushed(GOOD), brushed(OTHER, "Tram")], DATA)
    found = Masks(
        masks=tuple(Mask(label=0, runs=runs_of(pixels), probability=0.9) for pixels in (GOOD, OTHER)),
        width=SIZE[0],
        height=SIZE[1],
    )
    assert [case.true_index for case in segmentation.cases(found, known)] == [1, 0]
    assert [case.true_index for case in segmentation.cases(found, unclear)] == [1]
    values = [segmentation.metrics([target], [found]).values["per_class"]["Car"] for target in (known, unclear)]
    assert [value["precision"] for value in values] == [0.5, 1.0]


@pytest.mark.parametrize("other", [BOX, POLYGON, CLICK])
def test_where_only_something_else_is_drawn_masks_are_not_taught_that_nothing_is_there(other: str) -> None:
    bindings = {binding.from_name: binding for binding in bind(f"<View>{IMAGE}{BRUSH}{other}</View>").bindings}
    name = {BOX: "box", POLYGON: "polygon", CLICK: "click"}[other]
    drawn = {"from_name": name, "to_name": "image", "type": "rectanglelabels", "value": {}}
    with pytest.raises(MissingTargetError, match=f"'brush' was not used, but '{name}' was"):
        bindings["brush"].target([drawn], DATA)
    assert bindings["brush"].target([], DATA) == MasksTarget((), 0, 0)
    assert len(bindings["brush"].target([drawn, brushed(GOOD)], DATA).masks) == 1


def test_regions_on_a_picture_of_another_size_than_most_are_left_out() -> None:
    segmentation, other = problem(), brushed(np.ones((5, 5), bool), size=(5, 5))
    target = segmentation.target([other, brushed(GOOD), brushed(mask(12, 2, 5, 5))], DATA)
    assert (target.width, target.height, len(target.masks)) == (*SIZE, 2)
    assert segmentation.left_out(target) == (
        "a region of 'brush' is on a picture of 5 x 5 pixels, most on 20 x 10",
    )
    with pytest.raises(MissingTargetError, match="2 sizes"):
        segmentation.target([other, brushed(GOOD)], DATA)


def test_an_empty_picture_teaches_that_nothing_is_there() -> None:
    segmentation = problem()
    target = segmentation.target([], DATA)
    assert target == MasksTarget((), 0, 0)
    assert segmentation.aggregate([target, target]) == target
    (mask_there,) = (Mask(label=0, runs=runs_of(GOOD), probability=0.9),)
    loud = Masks(masks=(mask_there,), width=20, height=10)
    assert segmentation.metrics([target], [segmentation.perfect_output(target)]).values["map"] == 1
    assert segmentation.metrics([target], [loud]).values["map"] == 0


def test_a_region_with_two_labels_is_a_mask_of_each() -> None:
    target = problem().target([brushed(GOOD, "Car", "Bus")], DATA)
    assert target.masks == ((runs_of(GOOD), 0), (runs_of(GOOD), 1))


def targets(*drawn: list[dict[str, Any]]) -> list[MasksTarget]:
    return [problem().target(result, DATA) for result in drawn]


def test_masks_that_most_annotators_drew_are_kept_pixel_by_pixel() -> None:
    first = [brushed(mask(2, 2, 5, 5)), brushed(mask(12, 2, 5, 5), "Bus")]
    second = [brushed(mask(3, 2, 5, 5)), brushed(mask(0, 8, 2, 2))]
    third = [brushed(mask(12, 2, 5, 5), "Car"), brushed(mask(3, 2, 5, 6), "Bus")]
    agreed = problem().aggregate(targets(first, second, third))
    expected = {(runs_of(mask(3, 2, 5, 5) | mask(3, 2, 4, 5)), 0)}
    shared = mask(12, 2, 5, 5)
    assert {(runs, label) for runs, label in agreed.masks if not mask_of(runs, *SIZE)[3, 13]} == expected
    # One said Bus, the newest Car: the newest decides.
    assert [label for runs, label in agreed.masks if runs == runs_of(shared)] == [0]
    assert len(agreed.masks) == 2


def test_two_annotators_of_whom_one_saw_nothing_leave_the_decision_to_the_newest() -> None:
    seen, nothing = targets([brushed(GOOD)], [])
    assert problem().aggregate([seen, nothing]).masks == ()
    assert problem().aggregate([nothing, seen]) == seen


def test_an_annotation_of_the_picture_in_another_size_does_not_count() -> None:
    other = MasksTarget(((runs_of(np.ones((5, 5), bool)), 0),), 5, 5)
    (newest,) = targets([brushed(GOOD)])
    assert problem().aggregate([other, newest]) == newest


def output(*probabilities: float, threshold: float = 0.5) -> Masks:
    masks = tuple(
        Mask(label=0, runs=runs_of(mask(4 * index, 2, 3, 3)), probability=probability)
        for index, probability in enumerate(probabilities)
    )
    return Masks(masks=masks, width=20, height=10, threshold=threshold)


def test_masks_above_the_threshold_are_shown_with_their_scores() -> None:
    prediction = problem().prediction(output(0.9, 0.7, 0.2), DATA)
    assert [region["score"] for region in prediction.regions] == [0.9, 0.7]
    assert prediction.score == pytest.approx(0.8)
    quiet = problem().prediction(output(0.3, 0.2), DATA)
    assert (quiet.regions, quiet.score) == ([], 0.7)
    lowered = problem().with_threshold(output(0.9, 0.7, 0.2), 0.1)
    assert len(problem().prediction(lowered, DATA).regions) == 3


def test_calibration_changes_scores_and_not_which_masks_are_shown() -> None:
    segmentation = problem()
    calibrated = segmentation.calibrated(output(0.9, 0.6, 0.2), 3.0)
    regions = segmentation.prediction(calibrated, DATA).regions
    assert len(regions) == 2
    assert 0.5 < regions[1]["score"] < 0.6 and regions[0]["score"] < 0.9


def test_each_mask_that_is_shown_is_a_case_that_is_right_or_wrong() -> None:
    segmentation = problem()
    truth = MasksTarget(((runs_of(mask(0, 2, 3, 3)), 0),), *SIZE)
    cases = segmentation.cases(output(0.9, 0.7, 0.2), truth)
    assert [case.true_index for case in cases] == [1, 0]


def test_a_predicted_polygon_is_within_the_tolerance_of_the_mask() -> None:
    corner_cut = mask(2, 2, 8, 6)
    corner_cut[2, 2] = False
    found = Mask(label=1, runs=runs_of(corner_cut), probability=0.9)
    for tolerance_px, corners in ((0.1, 6), (1.5, 4)):
        answer = Masks(masks=(found,), width=20, height=10, tolerance_px=tolerance_px)
        [region] = problem(POLYGON).prediction(answer, DATA).regions
        assert len(region["value"]["points"]) == corners
        assert region["value"]["polygonlabels"] == ["Bus"]
