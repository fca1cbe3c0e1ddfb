"""Temperature scaling, so that predictions with a score of 0.8 are right in 8 of 10 cases.

One temperature per control tag is fitted on held-out tasks (https://arxiv.org/abs/1706.04599). It changes how
certain the predictions are, but not which label is predicted. Where a score says whether the answer is right, not
which label fits, an offset is fitted with it (Platt scaling; `Problem.has_offset`).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from lorabel.problems._label_scores import SMALLEST_PROBABILITY, tempered
from lorabel.problems.base import Case, Problem

BINS = 15
# Prior of the logarithm of the temperature: a normal distribution around 0 with this standard deviation. Without
# it, a dozen held-out tasks that are all right would give a temperature near 0, as if the model never erred.
LOG_TEMPERATURE_STD = 1.0
# The same of a label's temperature, around that of all labels.
OF_LABEL_STD = 0.5
# The same of an offset, around 0.
OFFSET_STD = 3.0
MAX_LOG_TEMPERATURE = math.log(20)


@dataclass(frozen=True)
class Calibration:
    """A fitted temperature with its effect on the expected calibration error (ECE).

    Args:
        temperature: 1.0 if nothing was fitted.
        tasks: number of held-out tasks.
        ece_before: ECE without temperature scaling; None if nothing was fitted.
        ece_after: ECE with it, cross-validated: each half of the tasks is scaled with the temperature that was
            fitted on the other half. None if nothing was fitted.
        reason: why nothing was fitted; empty otherwise.
        by_label: the temperature of each label that has cases of its own, see `Case.label`.
        offset: see `Problem.has_offset`.
    """

    temperature: float
    tasks: int
    ece_before: float | None
    ece_after: float | None
    reason: str
    by_label: dict[str, float] = field(default_factory=dict)
    offset: float = 0.0


@dataclass(frozen=True)
class _Temperatures:
    """One for all cases, and those of labels; and the offset, if there is one."""

    of_all: float
    by_label: dict[str, float]
    offset: float = 0.0

    @classmethod
    def of(cls, cases_by_task: Sequence[Sequence[Case]], has_offset: bool) -> "_Temperatures":
        """The most probable temperatures; that of a label lies near the one for all."""
        cases = [case for task_cases in cases_by_task for case in task_cases]
        if has_offset:
            temperature, offset = _fit_with_offset(cases)
            return cls(temperature, {}, offset)
        of_all = _fit(cases)
        labels = sorted({case.label for case in cases if case.label is not None})
        of_label = {label: [case for case in cases if case.label == label] for label in labels}
        return cls(of_all, {label: _fit(own, of_all, OF_LABEL_STD) for label, own in of_label.items()})

    def apply(self, case: Case) -> Case:
        """The case as it would be predicted with them."""
        temperature = self.of_all if case.label is None else self.by_label.get(case.label, self.of_all)
        distribution = tempered(case.distribution, temperature)
        if self.offset:
            distribution = tempered((distribution[0] * math.exp(self.offset), distribution[1]), 1.0)
        return Case(distribution, case.true_index)


def calibrate(
    problem: Problem, targets: Sequence[Any], outputs: Sequence[Any], min_tasks: int
) -> Calibration | None:
    """Fit the temperature for a control tag.

    Args:
        targets: one per held-out task.
        outputs: the model's, not calibrated, in the same order.
        min_tasks: with fewer held-out tasks nothing is fitted.

    Returns:
        None if the problem's outputs hold no probabilities.
    """
    cases_by_task = [_cases(problem, target, output) for target, output in zip(targets, outputs, strict=True)]
    if outputs and not any(problem.distributions(output) for output in outputs):
        return None
    if len(outputs) < max(2, min_tasks):
        return Calibration(1.0, len(outputs), None, None, f"{len(outputs)} held-out tasks, {min_tasks} needed")
    even, odd = cases_by_task[::2], cases_by_task[1::2]
    cross_validated = [
        temperatures.apply(case)
        for half, temperatures in (
            (even, _Temperatures.of(odd, problem.has_offset)),
            (odd, _Temperatures.of(even, problem.has_offset)),
        )
        for task_cases in half
        for case in task_cases
    ]
    ece_before = calibration_error([case for task_cases in cases_by_task for case in task_cases])
    ece_after = calibration_error(cross_validated)
    fitted = _Temperatures.of(cases_by_task, problem.has_offset)
    return Calibration(fitted.of_all, len(outputs), ece_before, ece_after, "", fitted.by_label, fitted.offset)


def calibration_error(cases: Sequence[Case]) -> float:
    """Return the expected calibration error: the mean difference between confidence and accuracy, in [0, 1].

    Cases are grouped by confidence, the probability of the predicted class, into 15 bins of equal width.
    """
    bins: dict[int, list[tuple[float, bool]]] = {}
    for case in cases:
        confidence = max(case.distribution)
        is_right = case.distribution.index(confidence) == case.true_index
        bins.setdefault(min(BINS - 1, int(confidence * BINS)), []).append((confidence, is_right))
    return sum(
        abs(sum(confidence for confidence, _ in members) - sum(is_right for _, is_right in members))
        for members in bins.values()
    ) / max(1, len(cases))


def _cases(problem: Problem, target: Any, output: Any) -> list[Case]:
    """Return the cases in which there is something to choose from."""
    return [case for case in problem.cases(output, target) if len(case.distribution) > 1]


def _fit(cases: Sequence[Case], centre: float = 1.0, std: float = LOG_TEMPERATURE_STD) -> float:
    """Return the most probable temperature, given the cases and the prior of its logarithm."""
    # SciPy takes a second to import, and only a training worker fits.
    import numpy as np
    from scipy.optimize import minimize_scalar

    # (cases, classes) float64; cases with fewer classes are padded with -inf.
    logits = np.full((len(cases), max((len(case.distribution) for case in cases), default=1)), -np.inf)
    for row, case in zip(logits, cases, strict=True):
        row[: len(case.distribution)] = np.log(np.maximum(case.distribution, SMALLEST_PROBABILITY))
    true_logits = logits[np.arange(len(cases)), [case.true_index for case in cases]] if cases else np.zeros(0)

    def negative_log_posterior(log_temperature: float) -> float:
        temperature = math.exp(log_temperature)
        losses = np.logaddexp.reduce(logits / temperature, axis=1) - true_logits / temperature
        return float(losses.sum()) + 0.5 * ((log_temperature - math.log(centre)) / std) ** 2

    bounds = (-MAX_LOG_TEMPERATURE, MAX_LOG_TEMPERATURE)
    return math.exp(float(minimize_scalar(negative_log_posterior, bounds=bounds, method="bounded").x))


def _fit_with_offset(cases: Sequence[Case]) -> tuple[float, float]:
    """Return the most probable temperature and offset of cases that are (right, not right)."""
    import numpy as np
    from scipy.optimize import minimize

    chances = np.maximum(np.array([case.distribution for case in cases]).reshape(-1, 2), SMALLEST_PROBABILITY)
    log_odds = np.log(chances[:, 0]) - np.log(chances[:, 1])
    signs = np.array([1.0 if case.true_index == 0 else -1.0 for case in cases])

    def negative_log_posterior(parameters: Any) -> float:
        log_temperature, offset = parameters
        losses = np.logaddexp(0.0, -signs * (log_odds / math.exp(log_temperature) + offset))
        prior = (log_temperature / LOG_TEMPERATURE_STD) ** 2 + (offset / OFFSET_STD) ** 2
        return float(losses.sum() + 0.5 * prior)

    bounds = [(-MAX_LOG_TEMPERATURE, MAX_LOG_TEMPERATURE), (None, None)]
    log_temperature, offset = minimize(negative_log_posterior, [0.0, 0.0], bounds=bounds).x
    return math.exp(float(log_temperature)), float(offset)
