import pytest

from lorabel.contracts import LabelScores, LabelTarget
from lorabel.errors import LabelConfigError, MissingTargetError, UnreadableError
from lorabel.problems.base import Problem
from lorabel.problems.binding import bind


def config(attributes: str = "", image: str = '<Image name="image" value="$image"/>') -> str:
    choices = "".join(f'<Choice value="{value}"/>' for value in ("red", "blue", "green"))
    return f'<View>{image}<Choices name="label" toName="image" {attributes}>{choices}</Choices></View>'


def binding(attributes: str = "") -> Problem:
    (problem,) = bind(config(attributes)).bindings
    return problem


def choices(*values: str) -> list[dict[str, object]]:
    return [{"from_name": "label", "to_name": "image", "type": "choices", "value": {"choices": list(values)}}]


@pytest.mark.parametrize(
    "attributes", ['perRegion="true"', 'perItem="true"', 'value="$options"', 'visibleWhen="region-selected"']
)
def test_choices_with_an_attribute_that_changes_their_meaning_are_not_served(attributes: str) -> None:
    bound = bind(config(attributes))
    assert bound.bindings == ()
    assert [tag.control.name for tag in bound.unclaimed] == ["label"]


def test_choices_on_an_object_that_no_family_reads_are_not_served() -> None:
    assert bind(config(image='<TimeSeries name="image" value="$image"/>')).bindings == ()


def test_an_unknown_value_of_the_attribute_choice_is_an_error() -> None:
    with pytest.raises(LabelConfigError, match="'label' has choice='some', expected single, single-radio or"):
        bind(config('choice="some"'))


def test_the_best_label_is_predicted_with_its_probability_as_score() -> None:
    prediction = binding().prediction(LabelScores(probabilities=(0.2, 0.7, 0.1)), {})
    assert (prediction.regions, prediction.score) == (choices("blue"), 0.7)


def test_multiple_choice_predicts_every_likely_label_with_the_mean_confidence_over_all_labels() -> None:
    multiple = binding('choice="multiple"')
    prediction = multiple.prediction(LabelScores(probabilities=(0.9, 0.6, 0.1)), {})
    assert prediction.regions == choices("red", "blue")
    assert prediction.score == pytest.approx((0.9 + 0.6 + 0.9) / 3)
    no_label = multiple.prediction(LabelScores(probabilities=(0.1, 0.1, 0.1)), {})
    assert no_label.regions == [] and no_label.score == pytest.approx(0.9)


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
def test_an_annotation_without_a_valid_choice_has_no_target_and_the_error_says_why(
    result: list[dict[str, object]], reason: str
) -> None:
    with pytest.raises(MissingTargetError, match=reason):
        binding().target(result, {})


@pytest.mark.parametrize("data", [{}, {"image": None}, {"image": ""}, {"image": 7}, {"picture": "a.png"}])
def test_a_task_without_a_picture_is_permanently_unreadable(data: dict[str, object]) -> None:
    with pytest.raises(UnreadableError, match="task data has no picture under 'image'") as caught:
        binding().model_input(data)
    assert caught.value.is_permanent


def test_metrics_are_those_of_the_confusion_matrix() -> None:
    def certain(index: int) -> LabelScores:
        return LabelScores(probabilities=tuple(float(i == index) for i in range(3)))

    metrics = binding().metrics([LabelTarget((i,)) for i in (0, 0, 1, 1)], [certain(i) for i in (0, 1, 1, 1)])
    assert (metrics.primary, metrics.values["accuracy"], metrics.values["tasks"]) == ("accuracy", 0.75, 4)
    assert metrics.values["confusion"] == [[1, 1, 0], [0, 2, 0], [0, 0, 0]]
    assert metrics.values["macro_precision"] == pytest.approx((1 + 2 / 3) / 2), (
        "green occurs nowhere: not averaged"
    )
    assert metrics.values["macro_recall"] == pytest.approx((0.5 + 1) / 2)
    assert metrics.values["per_class"]["red"] == {
        "precision": 1.0,
        "recall": 0.5,
        "f1": pytest.approx(2 / 3),
        "roc_auc": 0.75,
        "support": 2,
    }


def test_metrics_of_multiple_choice_have_a_confusion_matrix_for_each_label() -> None:
    multiple = binding('choice="multiple"')
    targets = [LabelTarget((0, 1)), LabelTarget(())]
    outputs = [LabelScores(probabilities=(0.9, 0.1, 0.1)), LabelScores(probabilities=(0.1, 0.1, 0.1))]
    metrics = multiple.metrics(targets, outputs)
    assert metrics.values["accuracy"] == 0.5
    assert metrics.values["confusion"] == [[[1, 0], [0, 1]], [[1, 0], [1, 0]], [[2, 0], [0, 0]]]


def test_a_task_may_lack_a_caption_that_is_context() -> None:
    (problem,) = bind(
        config(image='<Image name="image" value="$image"/><Text name="t" value="$caption"/>')
    ).bindings
    assert type(problem).__name__ == "ImageTextClassification"
    with_caption = problem.model_input({"image": "/a.png", "caption": "A cup."})
    assert [content.text for content in with_caption.contents] == [None, "A cup."]
    assert len(problem.model_input({"image": "/a.png", "caption": None}).contents) == 1
