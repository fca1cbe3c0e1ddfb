"""Calibrates logits by a factor and a shift: of ten findings with a score of 0.8, eight are right. NumPy only.

Platt scaling, with a prior that holds factor and shift where they are while there is little to go by.
"""

from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Float64 = NDArray[np.float64]

# Precisions of the prior of factor and shift, and how many times as large they are for a label beside all labels.
OF_FACTOR, OF_SHIFT = 4.0, 1.0
OF_LABEL = 4.0
LEAST_FACTOR = 0.1
# Scores of findings are calibrated from so many tasks on. With fewer, a head that lacks a fold finds much less,
# and scores would be too low.
FEWEST_CALIBRATED, FOLDS = 10, 5
# Most groups of tasks in which is looked for findings: a few hundred findings say enough.
MOST_TESTED = 100
# Scores are not believed to be surer than this.
SMALLEST = 1e-3


class Scale(NamedTuple):
    """What a logit is multiplied with, and what is added then."""

    factor: float = 1.0
    shift: float = 0.0


SAME = Scale()


class ScoredFinding(NamedTuple):
    """What was found in a task that nothing was learned from, and whether it is right.

    Args:
        score: in [0, 1].
        label: index of the label.
    """

    score: float
    is_right: bool
    label: int


def platt(
    logits: NDArray[np.floating],
    truth: NDArray[np.floating] | NDArray[np.bool_],
    centre: Scale = SAME,
    tightness: float = 1.0,
) -> Scale:
    """Return the scale with which the logits predict the truth best.

    Args:
        logits: (cases,).
        truth: (cases,): 1 where the answer is right.
        centre: of the prior.
        tightness: factor of the prior's precisions.
    """
    from scipy.optimize import minimize

    def loss(values: Float64) -> float:
        scaled = values[0] * logits + values[1]
        away = values - np.array(centre)
        prior = 0.5 * tightness * (OF_FACTOR * away[0] ** 2 + OF_SHIFT * away[1] ** 2)
        return float((np.logaddexp(0, scaled) - truth * scaled).sum() + prior)

    bounds = [(LEAST_FACTOR, None), (None, None)]
    factor, shift = minimize(loss, np.array(centre), method="L-BFGS-B", bounds=bounds).x
    return Scale(float(factor), float(shift))


def score_scales(
    groups: Sequence[int], labels: int, found_without: Callable[[int], Iterable[ScoredFinding]]
) -> tuple[Scale, ...]:
    """Return the scale of each label's scores: near that of all labels together while its own findings are few.

    Args:
        groups: of each task, numbered from 0; those of a group are left out together, in fold `group % FOLDS`.
        labels: how many there are. Those without a finding keep their scores.
        found_without: what a head finds in the tasks of a fold, of groups below MOST_TESTED, that was fitted on
            all others.

    Returns:
        Nothing if the tasks are few or nothing was found in them.
    """
    if max(groups, default=0) + 1 < FEWEST_CALIBRATED:
        return ()
    findings = [finding for fold in range(FOLDS) for finding in found_without(fold)]
    if not findings:
        return ()
    logits = np.array([log_odds(finding.score) for finding in findings])
    is_right = np.array([finding.is_right for finding in findings])
    of_all, of_label = platt(logits, is_right), np.array([finding.label for finding in findings])
    return tuple(
        platt(logits[own], is_right[own], of_all, OF_LABEL) if own.any() else SAME
        for own in (of_label == label for label in range(labels))
    )


def group_numbers(groups: Iterable[Hashable]) -> list[int]:
    """Return the number of each group, in the order in which they come."""
    numbers: dict[Hashable, int] = {}
    return [numbers.setdefault(group, len(numbers)) for group in groups]


def scaled(probability: float, scales: Sequence[Scale], label: int) -> float:
    """Return a score as the scales of a head calibrate it.

    Args:
        scales: of each label; empty if nothing was calibrated.
    """
    if not scales or scales[label] == SAME:
        return probability
    factor, shift = scales[label]
    return float(0.5 * (1 + np.tanh(0.5 * (factor * log_odds(probability) + shift))))


def log_odds(probability: float) -> float:
    """Return the logit of a score, which is kept away from 0 and 1."""
    chance = min(max(probability, SMALLEST), 1 - SMALLEST)
    return float(np.log(chance) - np.log1p(-chance))
