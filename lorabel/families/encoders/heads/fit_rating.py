"""Fits the head of ratings: ridge regression on the internal scale, shrunk towards the mean of the annotations.

The estimate is the mean + sum of c_k * ridge_k. The factors c are fitted on scores of left out tasks, with a
penalty, and are not negative. So where the features say nothing, the estimate is the mean. The expected error is
that of left out tasks.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from lorabel.families.encoders.heads.factors import fit_least_squares
from lorabel.families.encoders.heads.fusion_choice import Rows
from lorabel.families.encoders.heads.linear_head import Array, LinearHead
from lorabel.families.encoders.heads.ridge import Float64, Groups, Ridge, Scaling

STRENGTHS = (0.01, 0.1, 1.0, 10.0)
# Rows that the prior of the factors counts as: with fewer tasks the estimate stays near the mean.
PRIOR_ROWS = 2.0
FEWEST = 2
# With fewer tasks the estimate is the mean: scores of left out tasks say nothing yet.
FEWEST_FOR_FEATURES = 5


@dataclass(frozen=True)
class RatingFit:
    """Fits heads of ratings, see `HeadFit`. The loss is the squared error.

    Args:
        positions: (tasks,) on the internal scale.
        groups: (tasks,).
    """

    positions: Float64
    groups: Sequence[Hashable]

    def fit(self, features: Array, rows: Rows) -> LinearHead | None:
        """Fit a head on some tasks; see `HeadFit.fit`."""
        return fit_rating(features, self.positions[rows], [self.groups[row] for row in rows])

    def losses(self, head: LinearHead | None, features: Array, rows: Rows) -> Float64:
        """Return the squared error of each task; see `HeadFit.losses`."""
        estimates = 0.0 if head is None else head.logits(features, np.zeros((len(features), 1), np.float32))[:, 0]
        return np.asarray((self.positions[rows] - estimates) ** 2, np.float64)


def fit_rating(features: Array, positions: Float64, groups: Sequence[Hashable] | None = None) -> LinearHead | None:
    """Fit the head; None for fewer than FEWEST tasks.

    Args:
        features: (tasks, features).
        positions: (tasks,) on the internal scale.
        groups: (tasks,): tasks that are left out together; None: each alone.
    """
    if len(positions) < FEWEST:
        return None
    truth = positions[:, None]
    scaling = Scaling.of(features.astype(np.float64))
    ridge = Ridge(scaling.apply(features.astype(np.float64)), has_intercept=True)
    left_out = Groups.of(range(len(truth)) if groups is None else groups)
    means = _left_out_means(truth, left_out)
    scores = [ridge.left_out(truth, strength, left_out) - means for strength in STRENGTHS]
    factors = fit_least_squares(np.concatenate(scores, axis=1), (truth - means)[:, 0], PRIOR_ROWS)
    if len(truth) < FEWEST_FOR_FEATURES:
        factors = np.zeros_like(factors)
    factors = factors * _certainty(np.concatenate(scores, axis=1) @ factors, (truth - means)[:, 0])
    estimates = means[:, 0] + np.concatenate(scores, axis=1) @ factors
    weights = sum(
        factor * ridge.weights(truth, strength) for factor, strength in zip(factors, STRENGTHS, strict=True)
    )
    assert isinstance(weights, np.ndarray)
    weights, bias = scaling.undo(weights, truth.mean(0))
    return LinearHead(
        weights.astype(np.float32),
        bias.astype(np.float32),
        0.0,
        np.ones(1, np.bool_),
        expected_error=float(np.abs(truth[:, 0] - estimates).mean()),
    )


def _left_out_means(truth: Float64, groups: Groups) -> Float64:
    """(tasks, 1): the mean of all tasks but those of the task's group; the overall mean if there are no others."""
    total, count = truth.sum(0), len(truth)
    means = np.asarray((total - truth) / max(count - 1, 1))
    for group in groups.larger:
        others = count - len(group)
        means[group] = (total - truth[group].sum(0)) / others if others else truth.mean(0)
    return means


def _certainty(scores: Float64, distances: Float64) -> float:
    """How much of the left out scores to believe, in [0, 1]: 0 if they are no better than the mean.

    1 - (standard error of the gain / gain)², the positive part estimator of James and Stein.
    """
    gains = distances**2 - (distances - scores) ** 2
    gain, error = float(gains.mean()), float(gains.std(ddof=1) / np.sqrt(len(gains)))
    return max(0.0, 1 - (error / gain) ** 2) if gain > 0 else 0.0
