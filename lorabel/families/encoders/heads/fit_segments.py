"""Fits the head of segments: for each window of a recording and each label whether it fits. NumPy and SciPy only.

The logit of a label is `zero_shot_weight * zero_shot + features @ weights + bias`. It is the mean of two logistic
regressions on the windows of all recordings, each at its maximum a posteriori. The prior of one is the base
model's own logit, that of the other nothing: what the label texts say wrongly is hard to unlearn for the first,
and the second knows too little after few annotations. docs/decisions/0040 has figures.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from lorabel.families.encoders.heads.even_basis import EvenBasis
from lorabel.families.encoders.heads.linear_head import Array, LinearHead
from lorabel.families.encoders.heads.ridge import Float64

# Precisions of the prior, for features that are centred and have length 1 on average. The weight of the zero-shot
# logit is near 1 before anything is known, and everything else near 0.
OF_WEIGHTS, OF_BIAS, OF_ZERO_SHOT = 0.03, 0.01, 1.0
# Most windows that a head is fitted on. Of more, every second, third, ... of each recording is taken: neighbours
# are much alike.
MOST_ROWS = 4000
# Mean of p (1 - p), by which the curvature of the loss is guessed: how fast the maximum is found, not where it is.
CURVATURE = 0.05
MOST_STEPS = 100


@dataclass(frozen=True)
class AnnotatedRecording:
    """A sound or a video as a head learns from it.

    Args:
        features: (windows, dim).
        zero_shot: (windows, labels): the base model's logits.
        truth: (windows, labels), see `window_truth`.
        group: two recordings of the same group are taken for one.
    """

    features: Array
    zero_shot: Array
    truth: Array
    group: Hashable


def fit_segments(recordings: Sequence[AnnotatedRecording]) -> LinearHead | None:
    """Fit the head; None if no recording has a segment, or there are fewer than two.

    Labels that no recording has are not learned: they keep their zero-shot probability.
    """
    step = -(-sum(len(recording.features) for recording in recordings) // MOST_ROWS)
    truth = np.concatenate([recording.truth[::step] for recording in recordings])
    is_learned: NDArray[np.bool_] = np.any(truth, axis=0)
    if len({recording.group for recording in recordings}) < 2 or not is_learned.any():
        return None
    features = np.concatenate([recording.features[::step] for recording in recordings]).astype(np.float64)
    zero_shot = np.concatenate([recording.zero_shot[::step] for recording in recordings])[:, is_learned].astype(
        np.float64
    )
    centre = features.mean(0)
    scale = float(np.linalg.norm(features - centre, axis=1).mean()) or 1.0
    inputs = np.column_stack([(features - centre) / scale, np.ones(len(features))])
    learned = truth[:, is_learned].astype(np.float64)
    with_texts, zero_shot_weight = _fit(inputs, zero_shot, learned)
    without_texts, _ = _fit(inputs, np.zeros_like(zero_shot), learned)
    weights, zero_shot_weight = (with_texts + without_texts) / 2, zero_shot_weight / 2
    return _head(weights[:-1] / scale, weights[-1], zero_shot_weight, centre, is_learned)


def _fit(features: Float64, zero_shot: Float64, truth: Float64) -> tuple[Float64, Float64]:
    """Weights and bias, (dim + 1, labels), and the weight of the zero-shot logit of each label, (labels,)."""
    basis = EvenBasis.of(features, OF_WEIGHTS, OF_BIAS, CURVATURE)
    dim, labels = features.shape[1], truth.shape[1]
    rows, precision = features @ basis.matrix, basis.precision[:, None]

    def loss(parameters: Float64) -> tuple[float, Float64]:
        weights, zero_shot_weight = parameters[:-labels].reshape(dim, labels), parameters[-labels:]
        logits = zero_shot_weight * zero_shot + rows @ weights
        errors, moved = 0.5 * (1 + np.tanh(0.5 * logits)) - truth, zero_shot_weight - 1
        cross_entropy = (np.logaddexp(0, logits) - truth * logits).sum()
        prior = (precision * weights**2).sum() + OF_ZERO_SHOT * (moved**2).sum()
        of_weights = rows.T @ errors + precision * weights
        of_zero_shot = (errors * zero_shot).sum(0) + OF_ZERO_SHOT * moved
        return float(cross_entropy + 0.5 * prior), np.concatenate([of_weights.ravel(), of_zero_shot])

    start = np.concatenate([np.zeros(dim * labels), np.ones(labels)])
    found = minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": MOST_STEPS}).x
    return basis.matrix @ found[:-labels].reshape(dim, labels), found[-labels:]


def _head(
    weights: Float64, bias: Float64, zero_shot_weight: Float64, centre: Float64, is_learned: NDArray[np.bool_]
) -> LinearHead:
    """Put the learned labels between those that keep their zero-shot probability.

    Args:
        weights: (dim, learned labels), of features that are centred.
    """
    labels = len(is_learned)
    all_weights, all_bias = np.zeros((len(centre), labels), np.float32), np.zeros(labels, np.float32)
    all_factors = np.ones(labels, np.float32)
    all_weights[:, is_learned], all_bias[is_learned] = weights, bias - centre @ weights
    all_factors[is_learned] = zero_shot_weight
    return LinearHead(all_weights, all_bias, all_factors, is_learned)
