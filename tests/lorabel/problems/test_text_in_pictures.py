from typing import Any

import pytest

from lorabel.errors import MissingTargetError, UnreadableError
from lorabel.labeling.regions import Region
from lorabel.problems.binding import bind
from lorabel.problems.text_in_pictures import TextInPictures
from lorabel.space_contracts import DrawnPart, TextLine, TextLines, TextLinesInput, TextLinesTarget

IMAGE = '<Image name="image" value="$image"/>'
TEXT = '<TextArea name="text" toName="image" perRegion="true"/>'
LABELS = '<Labels name="label" toName="image"><Label value="Shop"/><Label value="Total"/></Labels>'
SHAPES = '<Rectangle name="box" toName="image"/><Polygon name="poly" toName="image"/>'
TEMPLATE = f"<View>{IMAGE}{LABELS}{SHAPES}{TEXT}</View>"
TOP, LOW = (0.1, 0.1, 0.5, 0.2), (0.1, 0.7, 0.5, 0.8)
PLACE = {"x": 10, "y": 10, "width": 40, "height": 10, "rotation": 0}
POINTS = [[10, 10], [50, 10], [50, 20], [10, 20]]


def bound(config: str = TEMPLATE) -> TextInPictures:
    (binding,) = bind(config).bindings
    assert isinstance(binding, TextInPictures)
    return binding


def part(name: str, kind: str, id_: Any, place: dict[str, Any] = PLACE, **value: Any) -> Region:
    sizes = {"original_width": 400, "original_height": 200}
    return {"id": id_, "from_name": name, "to_name": "image", "type": kind, **sizes, "value": {**place, **value}}


def line(id_: Any = "a", label: str = "Shop", text: str = "Bakery", place: dict[str, Any] = PLACE) -> list[Region]:
    return [
        part("box", "rectangle", id_, place),
        part("label", "labels", id_, place, labels=[label]),
        part("text", "textarea", id_, place, text=[text]),
    ]


def target(result: list[Region]) -> TextLinesTarget:
    answer = bound().target(result, {})
    assert isinstance(answer, TextLinesTarget)
    return answer


@pytest.mark.parametrize(
    ("config", "claims"),
    [
        (TEMPLATE, ("label", "box", "poly", "text")),
        (f"<View>{IMAGE}{SHAPES}{TEXT}</View>", ("box", "poly", "text")),
        (f'<View>{IMAGE}<Polygon name="poly" toName="image"/>{TEXT}</View>', ("poly", "text")),
        (f"<View>{IMAGE}{LABELS.replace('Labels', 'RectangleLabels')}{TEXT}</View>", ("label", "text")),
        (f"<View>{TEXT}{SHAPES}{LABELS}{IMAGE}</View>", ("label", "box", "poly", "text")),
    ],
)
def test_the_tags_of_the_template_are_one_group(config: str, claims: tuple[str, ...]) -> None:
    assert bound(config).claims == claims
    assert bind(config).unclaimed == ()


def test_without_a_text_for_each_region_nothing_is_read() -> None:
    for text in ("", TEXT.replace('perRegion="true"', "")):
        bindings = bind(f"<View>{IMAGE}{LABELS}{SHAPES}{text}</View>").bindings
        assert not any(isinstance(binding, TextInPictures) for binding in bindings)


def test_several_texts_for_a_region_are_left_to_people_and_its_label_is_a_box() -> None:
    config = bind(TEMPLATE.replace(TEXT, TEXT + TEXT.replace('name="text"', 'name="other"')))
    assert [binding.name for binding in config.bindings] == ["boxes"]
    assert {"text", "other"} <= {tag.control.name for tag in config.unclaimed}


def test_several_pictures_are_left_to_people_with_a_reason() -> None:
    pages = TEMPLATE.replace('value="$image"', 'valueList="$image"')
    assert "valueList" in {tag.control.name: tag.reason for tag in bind(pages).unclaimed}["label"]
    with pytest.raises(UnreadableError, match="2 pictures"):
        bound().model_input({"image": ["/a.png", "/b.png"]})


def test_rectangles_and_polygons_become_lines_sorted_by_place() -> None:
    low = {"points": [[10, 70], [50, 70], [50, 80], [10, 80]], "closed": True}
    polygon = [
        part("poly", "polygon", "b", low),
        part("label", "labels", "b", low, labels=["Total"]),
        part("text", "textarea", "b", low, text=["6.00"]),
    ]
    answer = target([*polygon, *line()])
    assert answer.lines == ((pytest.approx(TOP), "Bakery", 0), (pytest.approx(LOW), "6.00", 1))
    assert (answer.width, answer.height) == (400, 200)


def test_a_line_may_lack_text_and_label() -> None:
    assert target([part("box", "rectangle", "a")]).lines == ((pytest.approx(TOP), "", None),)
    assert target([]).lines == ()


def test_parts_without_ids_belong_together_by_their_place() -> None:
    """So are the results of "Create Annotations From Predictions"."""
    without = [{key: part for key, part in region.items() if key != "id"} for region in line()]
    assert target(without) == target(line())


@pytest.mark.parametrize(
    ("result", "reason"),
    [
        ([part("text", "textarea", "other", text=["Bakery"])], "has 0 shapes"),
        ([*line(), {**part("text", "textarea", "other"), "value": {"text": ["6.00"]}}], "has 0 shapes"),
        ([part("box", "rectangle", "a"), part("poly", "polygon", "a", {"points": POINTS})], "has 2 shapes"),
        ([part("poly", "polygon", "a", {"points": POINTS[:2]})], "2 points has no area"),
        ([part("box", "rectangle", "a", {**PLACE, "width": 0})], "no area"),
        (line(label="Gone"), "no longer has"),
        (line(id_=7), "expected a text"),
    ],
)
def test_broken_groups_are_skipped_with_a_reason(result: list[Region], reason: str) -> None:
    with pytest.raises(MissingTargetError, match=reason):
        target(result)


def test_a_shape_without_area_does_not_take_the_other_lines_away() -> None:
    assert target([*line(), part("box", "rectangle", "b", {**PLACE, "width": 0})]) == target(line())


LOW_PLACE = {"x": 10, "y": 70, "width": 40, "height": 10, "rotation": 0}


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (line("b", label="Gone", place=LOW_PLACE), "no longer has"),
        ([part("text", "textarea", "b", LOW_PLACE, text=["6.00"])], "has 0 shapes"),
        ([part("box", "rectangle", 7, LOW_PLACE)], "expected a text"),
    ],
)
def test_a_line_that_cannot_be_used_says_nothing_about_its_place(bad: list[Region], reason: str) -> None:
    binding, found = bound(), target([*line(), *bad])
    assert found.lines == target(line()).lines
    assert [pytest.approx(corners) for corners in found.unknown] == [LOW]
    (left_out,) = binding.left_out(found)
    assert reason in left_out
    lines = tuple(TextLine(corners=each, text="Bakery", label_probabilities=(0, 1, 0)) for each in (TOP, LOW))
    read = TextLines(lines=lines, width=400, height=200)
    truths = (target(line()), found, binding.aggregate([found]))
    figures = [binding.metrics([truth], [read]).values["f1"] for truth in truths]
    assert figures[0] < 1 and figures[1:] == [1, 1]


def test_where_only_masks_are_drawn_lines_are_not_taught_to_be_left_out() -> None:
    brush = '<Brush name="brush" toName="image"/>'
    binding = bound(TEMPLATE.replace(TEXT, brush + TEXT))
    with pytest.raises(MissingTargetError, match="was not used, but 'brush' was"):
        binding.target([{"from_name": "brush", "to_name": "image", "type": "brush", "value": {}}], {})
    assert binding.target([], {}).lines == ()


def predicted_labels(binding: TextInPictures, *probabilities: float) -> list[Any]:
    found = TextLine(corners=TOP, text="x", label_probabilities=probabilities)
    regions = binding.prediction(TextLines(lines=(found,), width=400, height=200), {}).regions
    return [region["value"]["labels"] for region in regions if region["type"] == "labels"]


def test_before_training_lines_have_the_only_label_or_none() -> None:
    assert predicted_labels(bound()) == []
    assert predicted_labels(bound(TEMPLATE.replace('<Label value="Total"/>', ""))) == [["Shop"]]


def test_the_likeliest_label_is_predicted_or_none() -> None:
    assert predicted_labels(bound(), 0.2, 0.1, 0.7) == [["Total"]]
    assert predicted_labels(bound(), 0.6, 0.1, 0.3) == []
    with pytest.raises(ValueError, match="2 probabilities for 2 labels"):
        predicted_labels(bound(), 0.5, 0.5)


SMART = TEMPLATE.replace('"box" toName="image"', '"box" toName="image" smart="true"')


def test_a_smart_rectangle_asks_for_the_text_in_it_and_the_answer_takes_its_place() -> None:
    """Label Studio sends the shape and its label with one id, with earlier shapes before them."""
    binding = bound(SMART)
    place = {"x": 20, "y": 40, "width": 30, "height": 20, "rotation": 0}
    context = [
        *line("old")[:2],
        part("box", "rectangle", "new", place),
        part("label", "labels", "new", labels=["Total"]),
    ]
    asked = binding.prompted(binding.model_input({"image": "x.png"}), context)
    assert isinstance(asked, TextLinesInput) and asked.part is not None
    drawn = DrawnPart(corners=(0.2, 0.4, 0.5, 0.6), id="new", label=1)
    assert asked.part.corners == pytest.approx(drawn.corners)
    assert asked.part == drawn.model_copy(update={"corners": asked.part.corners})
    read = TextLine(corners=drawn.corners, text="TOTAL 6.00", label_probabilities=(0.0, 0.0, 1.0), id="new")
    regions = binding.prediction(TextLines(lines=(read,), width=400, height=200), {}).regions
    assert [(region["id"], region["from_name"], region["value"].get("labels")) for region in regions] == [
        ("new", "box", None),
        ("new", "label", ["Total"]),
        ("new", "text", None),
    ]
    assert regions[2]["value"]["text"] == ["TOTAL 6.00"]


def test_a_shape_of_a_smart_tool_that_has_no_area_is_refused_with_the_reason() -> None:
    binding = bound(SMART)
    flat = part("box", "rectangle", "new", {**PLACE, "height": 0})
    with pytest.raises(UnreadableError, match="the drawn shape cannot be read"):
        binding.prompted(binding.model_input({"image": "x.png"}), [flat])


def test_annotators_agree_on_lines_by_place_text_and_label() -> None:
    nearly = (0.11, 0.1, 0.5, 0.2)
    first = TextLinesTarget(((TOP, "Bakery", 0), (LOW, "6.00", 1)))
    second = TextLinesTarget(((nearly, "Bakory", 0),))
    third = TextLinesTarget(((nearly, "Bakery", 1),))
    agreed = bound().aggregate([first, second, third])
    assert agreed.lines == ((nearly, "Bakery", 0),)
    assert bound().aggregate([third, first]) == first, "the newest decides where half of them say so"
    assert bound().aggregate([first, second]).lines == ((nearly, "Bakory", 0),)
