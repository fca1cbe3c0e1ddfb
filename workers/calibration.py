"""Temperature scaling: a score of 0.8 is to be right in 8 cases of 10 (https://arxiv.org/abs/1706.04599).

One number per control tag, fitted on held-out tasks. It changes how certain the answers are, never which they are.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lorabel.problems._label_scores import LEAST, tempered
from lorabel.problems.base import Problem

BINS = 15
# Held-out tasks are few: a dozen that are all right would else mean that the model never errs. The temperature's
# logarithm is thought to be 0 give or take this much, until the tasks say otherwise.
DOUBT = 1.0
LARGEST_LOGARITHM = math.log(20)


@dataclass(frozen=True)
class Case:
    """A distribution over answers that exclude each other, and the place of the right one."""

    distribution: tuple[float, ...]
    right: int


@dataclass(frozen=True)
class Calibration:
    """`tasks` are the held-out ones. The expected calibration error before and, measured on tasks that the
    temperature was not fitted on, after; None where `reason` says why nothing was fitted."""

    temperature: float
    tasks: int
    ece_before: float | None
    ece_after: float | None
    reason: str


def calibrate(
    problem: Problem, targets: Sequence[Any], outputs: Sequence[Any], least_tasks: int
) -> Calibration | None:
    """From held-out tasks; None if the problem answers without probabilities."""
    tasks = [_cases(problem, target, output) for target, output in zip(targets, outputs, strict=True)]
    if outputs and not any(problem.distributions(output) for output in outputs):
        return None
    if len(tasks) < max(2, least_tasks):
        return Calibration(1.0, len(tasks), None, None, f"{len(tasks)} held-out tasks, {least_tasks} needed")
    halves = tasks[::2], tasks[1::2]
    unseen = [
        Case(tempered(case.distribution, temperature), case.right)
        for half, temperature in zip(halves, (_fit(halves[1]), _fit(halves[0])), strict=True)
        for cases in half
        for case in cases
    ]
    before = calibration_error([case for cases in tasks for case in cases])
    return Calibration(_fit(tasks), len(tasks), before, calibration_error(unseen), "")


def calibration_error(cases: Sequence[Case]) -> float:
    """How far confidence and accuracy lie apart, in bins of the confidence (ECE, 15 bins of equal width)."""
    bins: dict[int, list[tuple[float, bool]]] = {}
    for case in cases:
        confidence = max(case.distribution)
        place = min(BINS - 1, int(confidence * BINS))
        bins.setdefault(place, []).append((confidence, case.distribution.index(confidence) == case.right))
    return sum(
        abs(sum(confidence for confidence, _ in members) - sum(is_right for _, is_right in members))
        for members in bins.values()
    ) / max(1, len(cases))


def _cases(problem: Problem, target: Any, output: Any) -> list[Case]:
    pairs = zip(problem.distributions(output), problem.right_answers(target), strict=True)
    return [Case(tuple(one), right) for one, right in pairs if right is not None and len(one) > 1]


def _fit(tasks: Sequence[Sequence[Case]]) -> float:
    """The temperature under which the right answers are likeliest."""
    # They take long to import, and only a training worker fits.
    import numpy as np
    from scipy.optimize import minimize_scalar

    cases = [case for found in tasks for case in found]
    logits = np.full((len(cases), max((len(case.distribution) for case in cases), default=1)), -np.inf)
    for row, case in zip(logits, cases, strict=True):
        row[: len(case.distribution)] = np.log(np.maximum(case.distribution, LEAST))
    right = logits[np.arange(len(cases)), [case.right for case in cases]] if cases else np.zeros(0)

    def surprise(logarithm: float) -> float:
        temperature = math.exp(logarithm)
        wrong = np.logaddexp.reduce(logits / temperature, axis=1) - right / temperature
        return float(wrong.sum()) + 0.5 * (logarithm / DOUBT) ** 2

    bounds = (-LARGEST_LOGARITHM, LARGEST_LOGARITHM)
    return math.exp(float(minimize_scalar(surprise, bounds=bounds, method="bounded").x))
