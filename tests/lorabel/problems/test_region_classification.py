"""Questions about each region of a picture; results are as Label Studio 1.23.2's editor stores them."""

from typing import Any

import pytest

from lorabel.contracts import LabelScores, LabelTarget
from lorabel.errors import MissingTargetError
from lorabel.labeling.regions import Region
from lorabel.labeling.visible_when import regions_shown_to
from lorabel.problems.base import Problem
from lorabel.problems.binding import bind
from lorabel.region_contracts import EachLabelScores, EachLabelsInput

DATA = {"image": "/data/upload/1/parts.png"}
GRADES = '<Choice value="A"/><Choice value="B"/>'
BOXES = '<RectangleLabels name="box" toName="image"><Label value="Nut"/><Label value="Bolt"/></RectangleLabels>'


def config(attributes: str = "", boxes: str = BOXES, more: str = "") -> str:
    choices = f'<Choices name="grade" toName="image" perRegion="true" {attributes}>{GRADES}</Choices>'
    return f'<View><Image name="image" value="$image"/>{boxes}{choices}{more}</View>'


def binding_of(label_config: str, name: str = "grade") -> Problem:
    return next(binding for binding in bind(label_config).bindings if binding.from_name == name)


def place(x: float = 10.0, y: float = 20.0, width: float = 30.0, **value: Any) -> dict[str, Any]:
    return {"x": x, "y": y, "width": width, "height": 40.0, "rotation": 0, **value}


def region(id_: str | None, from_name: str, kind: str, value: dict[str, Any]) -> Region:
    picture = {"original_width": 200, "original_height": 100, "image_rotation": 0}
    id_field = {} if id_ is None else {"id": id_}
    return {**id_field, "from_name": from_name, "to_name": "image", "type": kind, "value": value, **picture}


def box(id_: str | None, label: str = "Nut", **where: Any) -> Region:
    return region(id_, "box", "rectanglelabels", place(**where, rectanglelabels=[label]))


def grade(id_: str | None, *choices: str, **where: Any) -> Region:
    return region(id_, "grade", "choices", place(**where, choices=list(choices)))


def targets(binding: Problem, result: list[Region]) -> list[tuple[float, LabelTarget]]:
    """The left side of each answered region, and the answer."""
    return [(answer.corners[0], answer.target) for answer in binding.target(result, DATA).regions]


def test_answers_are_learned_with_the_place_of_their_region() -> None:
    result = [box("1"), box("2", x=60, y=5), grade("2", "B", x=60, y=5), grade("1", "A"), box("3", y=50)]
    assert targets(binding_of(config()), result) == [
        (0.6, LabelTarget((1,))),
        (0.1, LabelTarget((0,))),
    ], "the region without an answer is no example"


def test_regions_without_ids_belong_together_by_their_place() -> None:
    """Label Studio's action "Create Annotations From Predictions" leaves ids out."""
    result = [box(None), box(None, x=60), grade(None, "B", x=60), grade(None, "A")]
    assert targets(binding_of(config()), result) == [(0.1, LabelTarget((0,))), (0.6, LabelTarget((1,)))]


def test_in_multiple_choice_a_region_without_an_answer_has_none_of_the_labels() -> None:
    result = [box("1"), box("2", x=60), grade("2", "A", "B", x=60)]
    assert targets(binding_of(config('choice="multiple"')), result) == [
        (0.1, LabelTarget(())),
        (0.6, LabelTarget((0, 1))),
    ]


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        ([region("9", "grade", "choices", {"choices": ["A"]})], "no region of box has its id"),
        ([box("9", width=0.0), grade("9", "A", width=0.0)], "no area"),
        ([box("9", height=0.0, rotation=30), grade("9", "A", height=0.0, rotation=30)], "no area"),
        ([box("9", x=120.0), grade("9", "A", x=120.0)], "no area within the picture"),
        ([box("9", x=60), grade("9", "C", x=60)], "the label config no longer has"),
        ([box("9", x=60), grade("9", "A", "B", x=60)], "2 choices"),
        ([{**box("9"), "id": 9}], "has the id 9"),
    ],
)
def test_a_region_that_cannot_be_used_is_left_out_with_a_reason_and_the_others_are_learned(
    broken: list[Region], reason: str
) -> None:
    binding = binding_of(config())
    target = binding.target([*broken, box("1"), grade("1", "B")], DATA)
    assert [answer.target for answer in target.regions] == [LabelTarget((1,))]
    (why,) = binding.left_out(target)
    assert reason in why
    with pytest.raises(MissingTargetError, match=reason):
        binding.target(broken, DATA)


def test_an_annotation_without_any_answer_has_a_reason() -> None:
    with pytest.raises(MissingTargetError, match="no region was answered in 'grade'"):
        binding_of(config()).target([box("1")], DATA)


def test_each_region_is_cut_out_with_a_margin() -> None:
    binding = binding_of(config())
    target = binding.target([box("1"), grade("1", "A")], DATA)
    question = binding.asked_for(binding.model_input(DATA), target)
    assert isinstance(question, EachLabelsInput) and question.labels == (("A",), ("B",))
    (content,) = question.contents
    assert content.media is not None and content.media.url == DATA["image"]
    part = content.part
    assert part is not None
    assert (part.x, part.y, part.width, part.height) == pytest.approx((0.25, 0.4, 0.48, 0.64))


def test_a_turned_region_keeps_its_turn() -> None:
    """60 x 40 pixels at (20, 20), turned by 90 degrees clockwise around that corner: its middle is at (0, 50)."""
    binding = binding_of(config())
    turned = {"rotation": 90}
    target = binding.target([box("1", **turned), grade("1", "A", **turned)], DATA)
    (answer,) = target.regions
    part = answer.part
    assert (part.x * 200, part.y * 100) == pytest.approx((0, 50))
    assert (part.width, part.height, part.rotation) == pytest.approx((0.3, 0.4, 90))


def test_answers_are_predicted_with_id_and_place_of_the_region() -> None:
    binding = binding_of(config()).about([box("a"), box("b", x=60), region("c", "other", "rectangle", place())])
    assert binding is not None
    question = binding.model_input(DATA)
    assert len(question.contents) == 2
    output = EachLabelScores(
        answers=(LabelScores(probabilities=(0.9, 0.1)), LabelScores(probabilities=(0.3, 0.7)))
    )
    prediction = binding.prediction(output, DATA)
    assert prediction.regions == [grade("a", "A"), grade("b", "B", x=60)]
    assert prediction.score == pytest.approx(0.8)
    assert binding_of(config()).about([region("c", "other", "rectangle", place())]) is None


def test_annotators_agree_on_regions_that_overlap_and_the_majority_decides() -> None:
    binding = binding_of(config())
    answers = [
        [box("1"), grade("1", "A")],
        [box("2", x=11), grade("2", "B", x=11), box("3", x=60), grade("3", "A", x=60)],
        [box("4", x=12), grade("4", "A", x=12)],
    ]
    combined = binding.aggregate([binding.target(answer, DATA) for answer in answers])
    ((corners, indices),) = [(answer.corners, answer.target.indices) for answer in combined.regions]
    assert corners[0] == pytest.approx(0.12) and indices == (0,)


@pytest.mark.parametrize(
    "attributes",
    [
        'whenLabelValue="Bolt"',
        'visibleWhen="region-selected" whenLabelValue="Bolt"',
        'visibleWhen="region-selected" whenTagName="box" whenLabelValue="Screw,Bolt"',
        'visibleWhen="choice-selected" whenTagName="kind" whenChoiceValue="hex"',
    ],
)
def test_a_region_beside_which_the_tag_is_hidden_is_no_example(attributes: str) -> None:
    kind = (
        '<Choices name="kind" toName="image" perRegion="true"><Choice value="hex"/><Choice value="x"/></Choices>'
    )
    bound = bind(config(f'choice="multiple" {attributes}', more=kind))
    hidden = [box("1", "Nut"), region("1", "kind", "choices", place(choices=["x"]))]
    shown = [box("2", "Bolt", x=60), region("2", "kind", "choices", place(x=60, choices=["hex"]))]
    result = regions_shown_to(bound.config, "grade", [*hidden, *shown])
    assert result == shown
    assert regions_shown_to(bound.config, "kind", [*hidden, *shown]) == [*hidden, *shown]


def test_without_a_tag_that_draws_regions_nothing_is_asked() -> None:
    (unclaimed,) = bind(config(boxes="")).unclaimed
    assert "no control tag draws boxes, ellipses or polygons on 'image'" in unclaimed.reason


@pytest.mark.parametrize(
    ("boxes", "drawn_by"),
    [
        ('<EllipseLabels name="e" toName="image"><Label value="x"/></EllipseLabels>', "e"),
        ('<Rectangle name="r" toName="image"/><Labels name="l" toName="image"><Label value="x"/></Labels>', "r"),
        ('<Polygon name="p" toName="image"/>', "p"),
    ],
)
def test_the_regions_of_every_tag_that_draws_an_outline_are_asked_about(boxes: str, drawn_by: str) -> None:
    binding = binding_of(config(boxes=boxes))
    regions = [region("1", drawn_by, "anything", place())]
    assert binding.about(regions) is not None


def test_the_figures_count_regions_and_tasks() -> None:
    binding = binding_of(config())
    first = binding.target([box("1"), grade("1", "A"), box("2", x=60), grade("2", "B", x=60)], DATA)
    second = binding.target([box("1"), grade("1", "B")], DATA)
    sure_of_a = LabelScores(probabilities=(1.0, 0.0))
    outputs = [EachLabelScores(answers=(sure_of_a, sure_of_a)), EachLabelScores(answers=(sure_of_a,))]
    values = binding.metrics([first, second], outputs).values
    assert (values["tasks"], values["regions"]) == (2, 3)
    assert values["accuracy"] == pytest.approx(1 / 3)
