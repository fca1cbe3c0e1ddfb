from typing import Any

import pytest

from lorabel.errors import MissingTargetError, UnreadableError
from lorabel.labeling.image_regions import image_region
from lorabel.problems.binding import bind
from lorabel.problems.boxes import LabelledBoxes
from lorabel.problems.region_classification import RegionClassification
from lorabel.space_contracts import MOST_EXAMPLES, Box, Boxes, BoxesInput, BoxTarget, Corners

IMAGE = '<Image name="image" value="$image"/>'
LABELS = '<Label value="car"/><Label value="bus" alias="b"/>'
RECTANGLES = f'<View>{IMAGE}<RectangleLabels name="box" toName="image">{LABELS}</RectangleLabels></View>'
GROUP = (
    f'<View>{IMAGE}<Rectangle name="box" toName="image"/>'
    f'<Labels name="label" toName="image">{LABELS}</Labels></View>'
)
DATA = {"image": "https://example.org/street.jpg"}
SIZE = (200, 100)
LEFT: Corners = (0.1, 0.1, 0.4, 0.4)
RIGHT: Corners = (0.6, 0.1, 0.9, 0.4)


def binding_of(label_config: str) -> LabelledBoxes:
    (binding,) = bind(label_config).bindings
    assert isinstance(binding, LabelledBoxes)
    return binding


def drawn(corners: Corners, *labels: str, **value: Any) -> dict[str, Any]:
    region = image_region("box", "image", "rectanglelabels", corners, SIZE, {"rectanglelabels": list(labels)})
    return {**region, "value": {**region["value"], **value}}


def test_a_turned_rectangle_teaches_the_upright_box_around_it() -> None:
    """Label Studio turns a rectangle around its corner (x, y), in pixels of the picture."""
    region = drawn((0.5, 0.2, 0.7, 0.5), "car", rotation=90)
    target = binding_of(RECTANGLES).target([region], DATA)
    # 40 x 30 pixels, turned by a quarter: 30 to the left of x = 100, and 40 down from y = 20.
    ((corners, label),) = target.boxes
    assert corners == pytest.approx((0.35, 0.2, 0.5, 0.6)) and label == 0
    assert target.size == SIZE


def test_boxes_at_the_border_of_one_pixel_and_of_the_whole_picture_are_targets() -> None:
    pixel: Corners = (0.995, 0.99, 1.0, 1.0)
    regions = [drawn((0.0, 0.0, 1.0, 1.0), "b"), drawn(pixel, "car"), drawn((-0.2, 0.5, 0.1, 1.3), "car")]
    target = binding_of(RECTANGLES).target(regions, DATA)
    assert [label for _, label in target.boxes] == [1, 0, 0]
    for (corners, _), expected in zip(target.boxes, ((0, 0, 1, 1), (0, 0.5, 0.1, 1), pixel), strict=True):
        assert corners == pytest.approx(expected)


@pytest.mark.parametrize(
    ("region", "reason"),
    [
        (drawn((0.2, 0.2, 0.2, 0.5), "car"), "no area"),
        (drawn((1.2, 0.2, 1.5, 0.5), "car"), "no area within the picture"),
        (drawn(LEFT), "has no label"),
        (drawn(LEFT, "tram"), "no longer has"),
    ],
)
def test_a_box_that_says_nothing_is_refused_with_the_reason(region: dict[str, Any], reason: str) -> None:
    with pytest.raises(MissingTargetError, match=reason):
        binding_of(RECTANGLES).target([region], DATA)


@pytest.mark.parametrize("place", [(0.2, 0.2, 0.2, 0.5), (1.2, 0.2, 1.5, 0.5)])
def test_a_box_without_area_is_left_out_with_a_reason_and_the_others_are_learned(place: Corners) -> None:
    binding = binding_of(RECTANGLES)
    target = binding.target([drawn(place, "car"), drawn(LEFT, "car")], DATA)
    assert [(pytest.approx(corners), label) for corners, label in target.boxes] == [(LEFT, 0)]
    (reason,) = binding.left_out(target)
    assert "no area" in reason
    assert target.incomplete == (0,), "somebody has meant a car, and nobody knows where"


@pytest.mark.parametrize(
    ("region", "expected"),
    [(drawn(RIGHT, "tram"), "no longer has"), (drawn(RIGHT), "no label"), (drawn(RIGHT, 7), "no longer has")],  # type: ignore[arg-type]
)
def test_a_box_without_a_known_label_is_left_out_and_its_place_says_nothing(
    region: dict[str, Any], expected: str
) -> None:
    binding = binding_of(RECTANGLES)
    target = binding.target([region, drawn(LEFT, "car")], DATA)
    assert [(pytest.approx(corners), label) for corners, label in target.boxes] == [(LEFT, 0)]
    assert [pytest.approx(corners) for corners in target.unlabelled] == [RIGHT]
    (reason,) = binding.left_out(target)
    assert expected in reason


def test_a_box_keeps_the_labels_that_are_known() -> None:
    target = binding_of(RECTANGLES).target([drawn(LEFT, "tram", "b")], DATA)
    assert [label for _, label in target.boxes] == [1] and target.unlabelled == ()
    assert "tram" in target.left_out[0]


def test_a_shape_of_the_group_without_a_label_says_nothing_about_its_place() -> None:
    shapes = [
        {**image_region("box", "image", "rectangle", corners, SIZE, {}), "id": id_}
        for id_, corners in (("a", LEFT), ("b", RIGHT))
    ]
    label = {**image_region("label", "image", "labels", LEFT, SIZE, {"labels": ["car"]}), "id": "a"}
    target = binding_of(GROUP).target([*shapes, label], DATA)
    assert [label for _, label in target.boxes] == [0]
    assert [pytest.approx(corners) for corners in target.unlabelled] == [RIGHT]


def test_what_is_found_where_nobody_knows_what_is_there_is_neither_right_nor_wrong() -> None:
    binding = binding_of(RECTANGLES)
    found = Boxes(
        boxes=(
            Box(corners=LEFT, label=0, probability=0.9),
            Box(corners=RIGHT, label=0, probability=0.8),
            Box(corners=(0.1, 0.6, 0.4, 0.9), label=1, probability=0.7),
        ),
        width=200,
        height=100,
        threshold=0.5,
    )
    known = binding.target([drawn(LEFT, "car")], DATA)
    unclear = binding.target([drawn(LEFT, "car"), drawn(RIGHT, "tram"), drawn((0.2, 0.2, 0.2, 0.5), "b")], DATA)
    assert [case.true_index for case in binding.cases(found, known)] == [1, 0, 0]
    assert [case.true_index for case in binding.cases(found, unclear)] == [1]
    precisions = [
        [binding.metrics([target], [found]).values["per_class"][name]["precision"] for name in ("car", "b")]
        for target in (known, unclear)
    ]
    assert precisions == [[0.5, 0.0], [1.0, 1.0]]


BOTH = RECTANGLES.replace("</View>", f'<BrushLabels name="mask" toName="image">{LABELS}</BrushLabels></View>')
MASK = {
    "from_name": "mask",
    "to_name": "image",
    "type": "brushlabels",
    "value": {"format": "rle", "rle": [], "brushlabels": ["car"]},
}


def test_where_only_masks_are_drawn_boxes_are_not_taught_that_nothing_is_there() -> None:
    (boxes,) = [each for each in bind(BOTH).bindings if isinstance(each, LabelledBoxes)]
    with pytest.raises(MissingTargetError, match="'box' was not used, but 'mask' was"):
        boxes.target([MASK], DATA)
    former = {**drawn(LEFT, "car"), "from_name": "frame"}
    with pytest.raises(MissingTargetError, match="'box' was not used, but 'frame' was"):
        boxes.target([former], DATA)
    assert boxes.target([{**MASK, "to_name": "another picture"}], DATA) == BoxTarget(())
    assert boxes.target([], DATA) == BoxTarget(()), "an annotation without any region says that nothing is there"
    assert len(boxes.target([MASK, drawn(LEFT, "car")], DATA).boxes) == 1


def test_a_picture_without_boxes_teaches_that_nothing_is_there() -> None:
    assert binding_of(RECTANGLES).target([], DATA) == BoxTarget(())


def test_several_pictures_in_a_task_are_refused_for_good() -> None:
    with pytest.raises(UnreadableError, match="2 pictures") as caught:
        binding_of(RECTANGLES).model_input({"image": ["https://example.org/1.jpg", "https://example.org/2.jpg"]})
    assert caught.value.is_permanent


def test_a_list_of_pictures_is_left_to_people_with_the_reason() -> None:
    bound = bind(RECTANGLES.replace('value="$image"', 'valueList="$images"'))
    assert bound.bindings == () and "several pictures" in bound.unclaimed[0].reason


def test_a_box_of_the_group_has_a_region_of_each_tag_with_one_id_and_place() -> None:
    binding = binding_of(GROUP)
    assert binding.claims == ("label", "box")
    found = Boxes(boxes=(Box(corners=LEFT, label=1, probability=0.7),), width=SIZE[0], height=SIZE[1])
    shape, label = binding.prediction(found, DATA).regions
    assert (shape["from_name"], shape["type"]) == ("box", "rectangle")
    assert (label["from_name"], label["type"], label["value"]["labels"]) == ("label", "labels", ["b"])
    assert shape["id"] == label["id"] and shape["score"] == label["score"] == 0.7
    assert shape["value"].items() <= label["value"].items()
    assert shape["value"]["x"] == pytest.approx(10) and shape["value"]["width"] == pytest.approx(30)


def test_the_place_of_a_labels_region_without_one_is_that_of_its_rectangle() -> None:
    shape = {**image_region("box", "image", "rectangle", LEFT, SIZE, {}), "id": "a"}
    label = {"from_name": "label", "to_name": "image", "type": "labels", "id": "a", "value": {"labels": ["car"]}}
    ((corners, index),) = binding_of(GROUP).target([label, shape], DATA).boxes
    assert corners == pytest.approx(LEFT) and index == 0


def test_boxes_below_the_threshold_are_not_shown_and_the_score_says_how_sure_the_picture_is() -> None:
    binding = binding_of(RECTANGLES)
    boxes = (Box(corners=LEFT, label=0, probability=0.8), Box(corners=RIGHT, label=1, probability=0.3))
    found = Boxes(boxes=boxes, width=SIZE[0], height=SIZE[1], threshold=0.5)
    prediction = binding.prediction(found, DATA)
    assert [region["value"]["rectanglelabels"] for region in prediction.regions] == [["car"]]
    assert (prediction.regions[0]["original_width"], prediction.regions[0]["original_height"]) == SIZE
    assert prediction.score == 0.8
    nothing = binding.prediction(found.model_copy(update={"threshold": 0.9}), DATA)
    assert (nothing.regions, nothing.score) == ([], pytest.approx(0.2))


def test_calibration_changes_scores_and_shows_the_same_boxes() -> None:
    binding = binding_of(RECTANGLES)
    boxes = (Box(corners=LEFT, label=0, probability=0.9), Box(corners=RIGHT, label=1, probability=0.3))
    found = Boxes(boxes=boxes, width=SIZE[0], height=SIZE[1], threshold=0.3)
    milder = binding.calibrated(found, 2.0)
    assert [box.probability for box in milder.boxes] == pytest.approx([0.75, 0.3956], abs=1e-3)
    before, after = (binding.prediction(output, DATA).regions for output in (found, milder))
    assert [region["value"] for region in after] == [region["value"] for region in before]
    assert [region["score"] for region in after] == [box.probability for box in milder.boxes]


def test_temperatures_of_labels_change_scores_and_show_the_same_boxes() -> None:
    """A threshold of the project is for the calibrated scores of all boxes."""
    binding = binding_of(RECTANGLES)
    boxes = (
        Box(corners=LEFT, label=0, probability=0.9),
        Box(corners=RIGHT, label=1, probability=0.6),
        Box(corners=shifted(RIGHT, 0.05), label=1, probability=0.4),
    )
    output = Boxes(boxes=boxes, width=40, height=20, threshold=0.5)
    by_label = {binding.labels[1].value: 0.25}
    shown = binding.calibrated_by_label(output, 4.0, by_label, is_for_threshold=False)
    assert [region["value"] for region in binding.prediction(shown, DATA).regions] == [
        region["value"] for region in binding.prediction(output, DATA).regions
    ]
    odds = [box.probability / (1 - box.probability) for box in shown.boxes]
    assert odds == pytest.approx([9 ** (1 / 4), 1.5**4])
    every = binding.calibrated_by_label(output, 4.0, by_label, is_for_threshold=True)
    assert len(every.boxes) == 3
    nothing = output.model_copy(update={"threshold": 0.95})
    hidden = binding.calibrated_by_label(nothing, 4.0, by_label, is_for_threshold=False)
    assert binding.prediction(hidden, DATA).regions == []


def test_the_cases_for_calibration_are_the_shown_boxes_matched_with_true_ones() -> None:
    boxes = tuple(
        Box(corners=corners, label=label, probability=probability)
        for corners, label, probability in ((LEFT, 0, 0.9), (LEFT, 0, 0.8), (RIGHT, 0, 0.7), (RIGHT, 1, 0.1))
    )
    found = Boxes(boxes=boxes, width=1, height=1, threshold=0.2)
    cases = binding_of(RECTANGLES).cases(found, BoxTarget(((LEFT, 0), (RIGHT, 1))))
    assert [(case.distribution[1], case.true_index) for case in cases] == [(0.9, 1), (0.8, 0), (0.7, 0)]


def shifted(corners: Corners, shift: float) -> Corners:
    left, top, right, bottom = corners
    return left + shift, top, right + shift, bottom


def test_annotators_agree_on_boxes_that_overlap_and_the_majority_decides() -> None:
    targets = [
        BoxTarget(((shifted(LEFT, 0.01), 0), (RIGHT, 0)), SIZE),
        BoxTarget(((LEFT, 1), ((0.1, 0.6, 0.2, 0.8), 1)), SIZE),
        BoxTarget(((shifted(LEFT, 0.03), 0),), SIZE),
    ]
    ((corners, label),) = binding_of(RECTANGLES).aggregate(targets).boxes
    assert corners == pytest.approx(shifted(LEFT, 0.01)) and label == 0


def test_of_two_annotators_the_newest_decides() -> None:
    older, newest = BoxTarget(((LEFT, 0), (RIGHT, 0))), BoxTarget(((LEFT, 1),))
    assert binding_of(RECTANGLES).aggregate([older, newest]) == newest
    assert binding_of(RECTANGLES).aggregate([newest, older]) == older


def test_boxes_that_other_tags_ask_about_leave_the_boxes_served() -> None:
    per_region = '<Choices name="c" toName="image" perRegion="true"><Choice value="x"/></Choices></View>'
    bound = bind(RECTANGLES.replace("</View>", per_region))
    assert [type(binding) for binding in bound.bindings] == [LabelledBoxes, RegionClassification]


def test_boxes_of_a_smart_tool_ask_for_the_others_like_them() -> None:
    binding = binding_of(RECTANGLES)
    question = binding.model_input(DATA)
    asked = binding.prompted(question, [drawn(LEFT, "b"), drawn(RIGHT, "b")])
    assert isinstance(asked, BoxesInput) and asked.labels == question.labels
    assert [(pytest.approx(corners), label) for corners, label in asked.examples] == [(LEFT, 1), (RIGHT, 1)]
    assert binding.prompted(question, [{**drawn(LEFT, "b"), "from_name": "another"}]) is None
    with pytest.raises(UnreadableError, match="no area"):
        binding.prompted(question, [drawn((0.2, 0.2, 0.2, 0.5), "car")])


def test_what_was_drawn_with_a_smart_tool_is_suggested_again_with_its_id_and_place() -> None:
    """Else the editor deletes it where the suggestions are accepted. Before, only the others were suggested."""
    binding = binding_of(RECTANGLES)
    turned = drawn(LEFT, "b")
    turned = {**turned, "id": "a1", "origin": "manual", "value": {**turned["value"], "rotation": 30}}
    (repeated,) = binding.repeated([{**turned, "from_name": "another"}, drawn(RIGHT, "b"), turned])
    assert repeated == {key: value for key, value in turned.items() if key not in ("origin", "score")}


def test_ids_of_a_group_tell_boxes_of_several_answers_apart() -> None:
    """A suggestion that is accepted replaces the region with its id in the editor (Label Studio 1.23.2)."""
    binding = binding_of(GROUP)
    ids = []
    for place in (LEFT, RIGHT):
        output = Boxes(boxes=(Box(corners=place, label=0),), width=400, height=200)
        ids.append({region["id"] for region in binding.prediction(output, DATA).regions})
    assert [len(each) for each in ids] == [1, 1]
    assert ids[0].isdisjoint(ids[1])


def test_of_too_many_boxes_the_newest_are_examples() -> None:
    binding = binding_of(RECTANGLES)
    context = [drawn((0, 0, 0.1 + index / 10_000, 0.5), "car") for index in range(MOST_EXAMPLES + 7)]
    asked = binding.prompted(binding.model_input(DATA), context)
    assert isinstance(asked, BoxesInput)
    rights = sorted(right for (_, _, right, _), _ in asked.examples)
    assert len(rights) == MOST_EXAMPLES
    assert (rights[0], rights[-1]) == pytest.approx((0.1007, 0.1 + (MOST_EXAMPLES + 6) / 10_000))
