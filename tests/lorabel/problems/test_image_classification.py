import pytest

from lorabel.contracts import LabelScores, LabelTarget
from lorabel.errors import LabelConfigError, MissingTargetError, UnreadableError
from lorabel.problems.base import Problem
from lorabel.problems.binding import bind


def config(attributes: str = "", image: str = '<Image name="image" value="$image"/>') -> str:
    choices = "".join(f'<Choice value="{value}"/>' for value in ("red", "blue", "green"))
    return f'<View>{image}<Choices name="label" toName="image" {attributes}>{choices}</Choices></View>'


def binding(attributes: str = "") -> Problem:
    (found,) = bind(config(attributes)).bindings
    return found


def choices(*values: str) -> list[dict[str, object]]:
    return [{"from_name": "label", "to_name": "image", "type": "choices", "value": {"choices": list(values)}}]


@pytest.mark.parametrize(
    "attributes", ['perRegion="true"', 'perItem="true"', 'value="$options"', 'visibleWhen="region-selected"']
)
def test_choices_that_mean_something_else_are_left_alone(attributes: str) -> None:
    found = bind(config(attributes))
    assert found.bindings == ()
    assert [one.control.name for one in found.unclaimed] == ["label"]


def test_choices_over_what_nobody_reads_are_left_alone() -> None:
    assert bind(config(image='<TimeSeries name="image" value="$image"/>')).bindings == ()


def test_a_choice_attribute_that_label_studio_does_not_know_is_refused() -> None:
    with pytest.raises(LabelConfigError, match="'label' has choice='some', expected single, single-radio or"):
        bind(config('choice="some"'))


def test_the_best_label_is_predicted_with_its_probability_as_score() -> None:
    found = binding().prediction(LabelScores(probabilities=(0.2, 0.7, 0.1)), {})
    assert (found.regions, found.score) == (choices("blue"), 0.7)


def test_of_several_every_likely_label_is_predicted_and_certain_refusals_count_as_confidence() -> None:
    several = binding('choice="multiple"')
    found = several.prediction(LabelScores(probabilities=(0.9, 0.6, 0.1)), {})
    assert found.regions == choices("red", "blue")
    assert found.score == pytest.approx((0.9 + 0.6 + 0.9) / 3)
    none = several.prediction(LabelScores(probabilities=(0.1, 0.1, 0.1)), {})
    assert none.regions == [] and none.score == pytest.approx(0.9)


def test_targets_are_indices_of_labels() -> None:
    assert binding().target(choices("green"), {}) == LabelTarget((2,))
    assert binding('choice="multiple"').target(choices("green", "red"), {}) == LabelTarget((0, 2))
    assert binding('choice="multiple"').target([], {}) == LabelTarget(())


@pytest.mark.parametrize(
    ("result", "reason"),
    [
        ([], "no choice was made in 'label'"),
        (choices("purple"), r"'label' was answered \['purple'\], which the label config no longer has"),
        (choices("red", "blue"), "'label' has 2 choices"),
    ],
)
def test_an_annotation_that_teaches_nothing_says_why(result: list[dict[str, object]], reason: str) -> None:
    with pytest.raises(MissingTargetError, match=reason):
        binding().target(result, {})


@pytest.mark.parametrize("data", [{}, {"image": None}, {"image": ""}, {"image": 7}, {"picture": "a.png"}])
def test_a_task_without_a_picture_can_never_be_read(data: dict[str, object]) -> None:
    with pytest.raises(UnreadableError, match="task data has no picture under 'image'") as caught:
        binding().model_input(data)
    assert caught.value.is_permanent


def test_metrics_are_those_of_the_confusion_matrix() -> None:
    def sure(index: int) -> LabelScores:
        return LabelScores(probabilities=tuple(float(i == index) for i in range(3)))

    found = binding().metrics([LabelTarget((i,)) for i in (0, 0, 1, 1)], [sure(i) for i in (0, 1, 1, 1)])
    assert (found.primary, found.values["accuracy"], found.values["tasks"]) == ("accuracy", 0.75, 4)
    assert found.values["confusion"] == [[1, 1, 0], [0, 2, 0], [0, 0, 0]]
    assert found.values["macro_precision"] == pytest.approx((1 + 2 / 3) / 2), "green occurs nowhere: not averaged"
    assert found.values["macro_recall"] == pytest.approx((0.5 + 1) / 2)
    assert found.values["per_class"]["red"] == {
        "precision": 1.0,
        "recall": 0.5,
        "f1": pytest.approx(2 / 3),
        "roc_auc": 0.75,
        "support": 2,
    }


def test_metrics_of_several_labels_count_each_label() -> None:
    several = binding('choice="multiple"')
    targets = [LabelTarget((0, 1)), LabelTarget(())]
    outputs = [LabelScores(probabilities=(0.9, 0.1, 0.1)), LabelScores(probabilities=(0.1, 0.1, 0.1))]
    found = several.metrics(targets, outputs)
    assert found.values["accuracy"] == 0.5
    assert found.values["confusion"] == [[[1, 0], [0, 1]], [[1, 0], [1, 0]], [[2, 0], [0, 0]]]


def test_a_caption_that_is_only_shown_may_be_missing() -> None:
    (found,) = bind(config(image='<Image name="image" value="$image"/><Text name="t" value="$caption"/>')).bindings
    assert type(found).__name__ == "ImageTextClassification"
    whole = found.model_input({"image": "/a.png", "caption": "A cup."})
    assert [content.text for content in whole.contents] == [None, "A cup."]
    assert len(found.model_input({"image": "/a.png", "caption": None}).contents) == 1
