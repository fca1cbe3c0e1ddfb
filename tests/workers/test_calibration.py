"""Scores that are known to be too certain, or not certain enough, and the temperature that corrects them."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from lorabel.contracts import LabelScores, LabelTarget
from lorabel.problems._choices import ChoicesProblem
from lorabel.problems.base import Problem
from lorabel.problems.binding import bind
from lorabel.space_contracts import Box, Boxes, BoxTarget
from lorabel.text_contracts import TextTarget, WrittenText
from workers.calibration import Calibration, Case, calibrate, calibration_error

LABELS = 3


def binding(attributes: str = "") -> Problem:
    choices = "".join(f'<Choice value="{value}"/>' for value in ("red", "blue", "green"))
    config = f'<View><Image name="image" value="$image"/><Choices name="label" toName="image" {attributes}>'
    (problem,) = bind(f"{config}{choices}</Choices></View>").bindings
    return problem


def sampled(count: int, temperature: float) -> tuple[list[LabelTarget], list[LabelScores]]:
    """Targets drawn from known probabilities, and outputs that this temperature turns into these probabilities."""
    rng = np.random.default_rng(3)
    logits = rng.normal(0, 1.5, (count, LABELS))
    true = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    predicted = np.exp(temperature * logits) / np.exp(temperature * logits).sum(1, keepdims=True)
    targets = [LabelTarget((int(rng.choice(LABELS, p=row)),)) for row in true]
    return targets, [LabelScores(probabilities=tuple(row)) for row in predicted.tolist()]


def fitted(targets: Sequence[LabelTarget], outputs: Sequence[LabelScores], min_tasks: int = 10) -> Calibration:
    calibration = calibrate(binding(), targets, outputs, min_tasks)
    assert calibration is not None
    return calibration


@pytest.mark.parametrize("temperature", [0.4, 1.0, 3.0])
def test_the_temperature_that_distorted_the_scores_is_recovered(temperature: float) -> None:
    calibration = fitted(*sampled(2000, temperature))
    assert calibration.temperature == pytest.approx(temperature, rel=0.1)
    assert (calibration.tasks, calibration.reason) == (2000, "")
    assert calibration.ece_after is not None and calibration.ece_after < 0.04
    if temperature != 1.0:
        assert calibration.ece_before is not None and calibration.ece_before > 3 * calibration.ece_after


def test_each_label_of_boxes_has_a_temperature_of_its_own() -> None:
    """One label's scores are too certain, the other's not certain enough. Before, both had one temperature."""
    config = '<View><Image name="image" value="$image"/><RectangleLabels name="box" toName="image">'
    (problem,) = bind(f'{config}<Label value="sure"/><Label value="shy"/></RectangleLabels></View>').bindings
    rng, distortions = np.random.default_rng(5), (3.0, 0.5)
    targets, outputs = [], []
    for _ in range(400):
        boxes, right = [], []
        for label, distortion in enumerate(distortions):
            for column in range(3):
                logit = float(rng.normal(0, 1.5))
                corners = (0.3 * column, 0.5 * label, 0.3 * column + 0.2, 0.5 * label + 0.2)
                probability = float(1 / (1 + np.exp(-distortion * logit)))
                boxes.append(Box(corners=corners, label=label, probability=probability))
                if rng.random() < 1 / (1 + np.exp(-logit)):
                    right.append((corners, label))
        targets.append(BoxTarget(tuple(sorted(right))))
        outputs.append(Boxes(boxes=tuple(boxes), width=10, height=10))
    calibration = calibrate(problem, targets, outputs, 10)
    assert calibration is not None and calibration.ece_before is not None and calibration.ece_after is not None
    assert calibration.by_label == {
        "sure": pytest.approx(3.0, rel=0.15),
        "shy": pytest.approx(0.5, rel=0.15),
    }
    assert calibration.ece_after < 0.04 < calibration.ece_before


def test_a_dozen_tasks_that_are_all_right_do_not_make_the_scores_certain() -> None:
    outputs = [LabelScores(probabilities=(0.6, 0.3, 0.1))] * 12
    calibration = fitted([LabelTarget((0,))] * 12, outputs)
    assert 0.2 < calibration.temperature < 1.0
    assert binding().prediction(binding().calibrated(outputs[0], calibration.temperature), {}).score < 0.99


def test_too_few_held_out_tasks_leave_the_scores_as_they_are_and_say_so() -> None:
    calibration = fitted(*sampled(9, 3.0))
    assert calibration == Calibration(1.0, 9, None, None, "9 held-out tasks, 10 needed")


def test_multiple_choice_calibrates_each_label_as_a_yes_or_no_question() -> None:
    multiple = binding('choice="multiple"')
    rng = np.random.default_rng(5)
    logits = rng.normal(0, 1.5, (600, LABELS))
    targets = [
        LabelTarget(tuple(np.flatnonzero(row).tolist()))
        for row in rng.random((600, LABELS)) < 1 / (1 + np.exp(-logits))
    ]
    outputs = [LabelScores(probabilities=tuple(row)) for row in (1 / (1 + np.exp(-3 * logits))).tolist()]
    calibration = calibrate(multiple, targets, outputs, 10)
    assert calibration is not None and calibration.temperature == pytest.approx(3.0, rel=0.1)


def test_a_problem_without_probabilities_is_not_calibrated(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("distributions", "true_indices", "calibrated"):
        monkeypatch.setattr(ChoicesProblem, name, getattr(Problem, name))
    assert calibrate(binding(), *sampled(20, 2.0), 10) is None
    assert binding().calibrated(LabelScores(probabilities=(0.9, 0.1)), 2.0).probabilities == (0.9, 0.1)


def test_the_calibration_error_is_the_difference_between_confidence_and_accuracy() -> None:
    right = Case((0.9, 0.1), 0)
    wrong = replace(right, true_index=1)
    assert calibration_error([right] * 9 + [wrong]) == pytest.approx(0.0)
    assert calibration_error([right] * 5 + [wrong] * 5) == pytest.approx(0.4)
    undecided = Case((0.5, 0.5), 1)
    assert calibration_error([right, undecided]) == pytest.approx((abs(0.9 - 1) + abs(0.5 - 0)) / 2)


def test_the_probability_that_a_text_is_right_is_recovered_from_scores_that_say_little() -> None:
    """All texts have a mean token probability above 0.6, and most are wrong."""
    config = '<View><Text name="text" value="$text"/><TextArea name="summary" toName="text"/></View>'
    (problem,) = bind(config).bindings
    rng = np.random.default_rng(7)
    log_odds = rng.uniform(0.5, 4.0, 3000)
    chances = 1 / (1 + np.exp(-(2.0 * log_odds - 6.0)))
    is_right = rng.uniform(size=len(chances)) < chances
    targets = [TextTarget("pump P3 leaks")] * len(chances)
    outputs = [
        WrittenText(text="pump P3 leaks" if right else "all is well", probability=probability)
        for right, probability in zip(is_right, 1 / (1 + np.exp(-log_odds)), strict=True)
    ]
    calibration = calibrate(problem, targets, outputs, 10)
    assert calibration is not None
    assert calibration.temperature == pytest.approx(0.5, rel=0.1)
    assert calibration.offset == pytest.approx(-6.0, rel=0.1)
    assert calibration.ece_before is not None and calibration.ece_before > 0.3
    assert calibration.ece_after is not None and calibration.ece_after < 0.04
    scores = [
        problem.calibrated_with_offset(output, calibration.temperature, calibration.offset).probability
        for output in outputs
    ]
    assert np.abs(np.array(scores) - chances).mean() < 0.03


def test_what_counts_as_a_right_text_is_the_projects_choice() -> None:
    config = '<View><Text name="text" value="$text"/><TextArea name="summary" toName="text"/></View>'
    (problem,) = bind(config).bindings
    output, target = (
        WrittenText(text="pump leaks", probability=0.9),
        TextTarget("the pump leaks", others=("leak",)),
    )
    assert [case.true_index for case in problem.cases(output, target)] == [0], "ROUGE-L is 0.8"
    strict = problem.for_project({"right_from": {"summary": 1}})
    assert [case.true_index for case in strict.cases(output, target)] == [1]
    assert problem.for_project({"right_from": True}) == problem.for_project({"right_from": "x"}) == problem
    assert not problem.cases(WrittenText(text="", probability=0.9), target)


def test_without_held_out_tasks_the_scores_of_texts_stay_as_they_are() -> None:
    config = '<View><Text name="text" value="$text"/><TextArea name="summary" toName="text"/></View>'
    (problem,) = bind(config).bindings
    calibration = calibrate(problem, [TextTarget("a")], [WrittenText(text="a", probability=0.9)], 10)
    assert calibration is not None and calibration.reason and calibration.offset == 0.0
