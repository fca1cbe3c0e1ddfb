"""Scores that are known to be too certain, or not certain enough, and the temperature that mends them."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from lorabel.contracts import LabelScores, LabelTarget
from lorabel.problems._choices import ChoicesProblem
from lorabel.problems.base import Problem
from lorabel.problems.binding import bind
from workers.calibration import Calibration, Case, calibrate, calibration_error

LABELS = 3


def binding(attributes: str = "") -> Problem:
    choices = "".join(f'<Choice value="{value}"/>' for value in ("red", "blue", "green"))
    config = f'<View><Image name="image" value="$image"/><Choices name="label" toName="image" {attributes}>'
    (found,) = bind(f"{config}{choices}</Choices></View>").bindings
    return found


def drawn(count: int, temperature: float) -> tuple[list[LabelTarget], list[LabelScores]]:
    """The right answers are drawn from probabilities; the model says the logits times `temperature`."""
    dice = np.random.default_rng(3)
    logits = dice.normal(0, 1.5, (count, LABELS))
    true = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    said = np.exp(temperature * logits) / np.exp(temperature * logits).sum(1, keepdims=True)
    targets = [LabelTarget((int(dice.choice(LABELS, p=row)),)) for row in true]
    return targets, [LabelScores(probabilities=tuple(row)) for row in said.tolist()]


def fitted(targets: Sequence[LabelTarget], outputs: Sequence[LabelScores], least: int = 10) -> Calibration:
    found = calibrate(binding(), targets, outputs, least)
    assert found is not None
    return found


@pytest.mark.parametrize("temperature", [0.4, 1.0, 3.0])
def test_the_temperature_that_spoiled_the_scores_is_found_again(temperature: float) -> None:
    found = fitted(*drawn(2000, temperature))
    assert found.temperature == pytest.approx(temperature, rel=0.1)
    assert (found.tasks, found.reason) == (2000, "")
    assert found.ece_after is not None and found.ece_after < 0.04
    if temperature != 1.0:
        assert found.ece_before is not None and found.ece_before > 3 * found.ece_after


def test_a_dozen_tasks_that_are_all_right_do_not_make_the_model_certain() -> None:
    outputs = [LabelScores(probabilities=(0.6, 0.3, 0.1))] * 12
    found = fitted([LabelTarget((0,))] * 12, outputs)
    assert 0.2 < found.temperature < 1.0
    assert binding().prediction(binding().calibrated(outputs[0], found.temperature), {}).score < 0.99


def test_too_few_held_out_tasks_leave_the_scores_as_they_are_and_say_so() -> None:
    found = fitted(*drawn(9, 3.0))
    assert found == Calibration(1.0, 9, None, None, "9 held-out tasks, 10 needed")


def test_several_labels_are_calibrated_as_as_many_questions() -> None:
    several = binding('choice="multiple"')
    dice = np.random.default_rng(5)
    logits = dice.normal(0, 1.5, (600, LABELS))
    targets = [
        LabelTarget(tuple(np.flatnonzero(row).tolist()))
        for row in dice.random((600, LABELS)) < 1 / (1 + np.exp(-logits))
    ]
    outputs = [LabelScores(probabilities=tuple(row)) for row in (1 / (1 + np.exp(-3 * logits))).tolist()]
    found = calibrate(several, targets, outputs, 10)
    assert found is not None and found.temperature == pytest.approx(3.0, rel=0.1)


def test_a_problem_without_probabilities_is_not_calibrated(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("distributions", "right_answers", "calibrated"):
        monkeypatch.setattr(ChoicesProblem, name, getattr(Problem, name))
    assert calibrate(binding(), *drawn(20, 2.0), 10) is None
    assert binding().calibrated(LabelScores(probabilities=(0.9, 0.1)), 2.0).probabilities == (0.9, 0.1)


def test_the_calibration_error_is_how_far_confidence_and_accuracy_lie_apart() -> None:
    sure = Case((0.9, 0.1), 0)
    assert calibration_error([sure] * 9 + [replace(sure, right=1)]) == pytest.approx(0.0)
    assert calibration_error([sure] * 5 + [replace(sure, right=1)] * 5) == pytest.approx(0.4)
    half = Case((0.5, 0.5), 1)
    assert calibration_error([sure, half]) == pytest.approx((abs(0.9 - 1) + abs(0.5 - 0)) / 2)
