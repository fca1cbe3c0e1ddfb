"""Fits the head of a single choice with differential privacy: a function of noisy sums of features by label.

The Gaussian mechanism (Dwork and Roth, https://doi.org/10.1561/0400000042, appendix A) on sufficient statistics,
as for private linear regression (Wang, https://arxiv.org/abs/1803.02596); see
docs/decisions/0069-differential-privacy.md.

Each task adds the outer product of its shares of labels, of length at most 1, and of a row of length at most 1
(its features, a count, and whether the base model was right). So a task that is added or removed changes all sums
together by at most 1. All else here is computed from the noisy sums.
"""

import numpy as np

from lorabel.families.encoders.heads.linear_head import Array, LinearHead
from lorabel.families.encoders.heads.ridge import TINY, Float64

# Parts of a task's row, beside its features of length 1 at most: a count, and whether the base model was right.
COUNT_PART = RIGHT_PART = 0.5
ROW_LENGTH = float(np.sqrt(1 + COUNT_PART**2 + RIGHT_PART**2))
# A label counts as annotated if its noisy count is so many standard deviations of the noise above 0.
LEAST_DEVIATIONS = 2.0
# Features vary more in the directions that matter than they do on average, by about so much.
UNEVENNESS = 8.0


def fit_private_choices(
    features: Array, zero_shot: Array, shares: Array, noise_multiplier: float, generator: np.random.Generator
) -> LinearHead | None:
    """Fit the head of tasks of which each adds or removes one row.

    Args:
        features: (tasks, dim); longer rows than 1 are shortened.
        zero_shot: (tasks, labels) logits of the base model, which has not seen the tasks' annotations.
        shares: (tasks, labels), at least 0; rows whose sum is above 1 are divided by it.
        noise_multiplier: standard deviation of the noise, where a task changes the sums by at most 1.
        generator: of the noise; seeded by the system, except in tests.

    Returns:
        None if the noisy sums tell fewer than two labels from the noise.
    """
    dim = features.shape[1]
    sums = noisy_sums(features, zero_shot, shares, noise_multiplier, generator)
    deviation = noise_multiplier * ROW_LENGTH
    counts = sums[:, dim] / COUNT_PART
    is_learned = counts > max(1.0, LEAST_DEVIATIONS * deviation / COUNT_PART)
    if is_learned.sum() < 2:
        return None
    weights, bias = np.zeros((dim, len(counts))), np.zeros(len(counts))
    weights[:, is_learned], bias[is_learned] = _discriminant(sums[is_learned, :dim], counts[is_learned], deviation)
    accuracy = float(sums[is_learned, dim + 1].sum() / RIGHT_PART / counts[is_learned].sum())
    guessing = 1 / len(counts)
    zero_shot_weight = float(np.clip((accuracy - guessing) / (1 - guessing), 0.0, 1.0))
    return LinearHead(weights.astype(np.float32), bias.astype(np.float32), zero_shot_weight, is_learned)


def noisy_sums(
    features: Array, zero_shot: Array, shares: Array, noise_multiplier: float, generator: np.random.Generator
) -> Float64:
    """The sums of all tasks' rows by label, (labels, dim + 2), with noise. Nothing else here reads the tasks.

    What one task can change of them, and so a unit of the noise, has the length ROW_LENGTH.
    """
    rows = features.astype(np.float64)
    rows = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1.0)
    targets = np.maximum(shares.astype(np.float64), 0.0)
    targets = targets / np.maximum(targets.sum(1, keepdims=True), 1.0)
    is_right = zero_shot.argmax(1) == targets.argmax(1)
    counts = np.full(len(rows), COUNT_PART)
    extended = np.column_stack([rows, counts, RIGHT_PART * is_right]) / ROW_LENGTH
    sums = targets.T @ extended
    noise = noise_multiplier * generator.standard_normal(sums.shape)
    return np.asarray(ROW_LENGTH * (sums + noise))


def _discriminant(sums: Float64, counts: Float64, deviation: float) -> tuple[Float64, Float64]:
    """Weights, (dim, labels), and biases of a discriminant analysis whose means are shrunk for the noise.

    A label's mean is its distance from the mean of all. The distances are normal with the same spread in every
    direction, which is estimated from what the noise leaves of them (empirical Bayes); tasks spread around them as
    features of length 1 do.

    Args:
        deviation: standard deviation of the noise in the sums.
    """
    dim, total = sums.shape[1], counts.sum()
    centre = sums.sum(0) / total
    length = max(0.0, float(centre @ centre) - dim * len(counts) * (deviation / total) ** 2)
    within = max(1.0 - length, TINY) / dim
    observed = sums / counts[:, None] - centre
    noise = (deviation / counts) ** 2 + within / counts
    weights = counts / total
    between = max(0.0, float(weights @ (np.square(observed).mean(1) - noise)))
    means = observed * (between / (between + noise))[:, None]
    scale = 1 / (UNEVENNESS * within)
    matrix = scale * means.T
    bias = -scale * (0.5 * np.square(means).sum(1) + means @ centre) + np.log(weights)
    return matrix, bias
