"""Fits the head of segments of series: for each window and each label whether it fits. NumPy and SciPy only.

The logit of a label is `features @ weights + bias`: the maximum a posteriori of a logistic regression on the
windows of all series, whose features are standardized.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize

from lorabel.families.encoders.heads.even_basis import EvenBasis
from lorabel.families.encoders.heads.linear_head import Array, LinearHead
from lorabel.families.encoders.heads.ridge import Float64
from lorabel.series_contracts import SeriesTarget

# Precisions of the prior, for features that have length 1 on average.
OF_WEIGHTS, OF_BIAS = 0.1, 0.01
# Most windows that a head is fitted on. Of more, every second, third, ... of each series is taken.
MOST_ROWS = 6000
# Mean of p (1 - p), by which the curvature of the loss is guessed: how fast the maximum is found, not where it is.
CURVATURE = 0.05
MOST_STEPS = 100
INSTANT, RANGE = "instant", "range"


@dataclass(frozen=True)
class AnnotatedSeries:
    """A series as a head learns from it.

    Args:
        features: (windows, dim).
        shares: (windows, labels) in [0, 1]: what is right about each window.
        group: two series of the same group are taken for one series.
    """

    features: Array
    shares: Array
    target: SeriesTarget
    group: Hashable


def fit_series(examples: Sequence[AnnotatedSeries]) -> LinearHead | None:
    """Fit the head; None if no series has a segment, or there are fewer than two series.

    Labels that no series has are not learned. A label marks instants if most of its segments are instants; the
    slots of the head say so.
    """
    step = -(-sum(len(example.features) for example in examples) // MOST_ROWS)
    truth = np.concatenate([example.shares[::step] for example in examples]).astype(np.float64)
    is_learned = np.any(truth, axis=0)
    if len({example.group for example in examples}) < 2 or not is_learned.any():
        return None
    features = np.concatenate([example.features[::step] for example in examples]).astype(np.float64)
    centre, deviation = features.mean(axis=0), features.std(axis=0)
    scale = np.where(deviation > 1e-6, deviation, 1.0) * np.sqrt(features.shape[1])
    inputs = np.column_stack([(features - centre) / scale, np.ones(len(features))])
    fitted = _fit(inputs, truth[:, is_learned])
    weights = np.zeros((len(centre), len(is_learned)))
    bias = np.zeros(len(is_learned))
    weights[:, is_learned] = fitted[:-1] / scale[:, None]
    bias[is_learned] = fitted[-1] - centre @ weights[:, is_learned]
    return LinearHead(
        weights.astype(np.float32),
        bias.astype(np.float32),
        0.0,
        is_learned,
        slots=tuple(_slot([example.target for example in examples], label) for label in range(len(is_learned))),
    )


def _fit(features: Float64, truth: Float64) -> Float64:
    """Weights and bias, (dim + 1, labels)."""
    basis = EvenBasis.of(features, OF_WEIGHTS, OF_BIAS, CURVATURE)
    rows, precision, labels = features @ basis.matrix, basis.precision[:, None], truth.shape[1]

    def loss(parameters: Float64) -> tuple[float, Float64]:
        weights = parameters.reshape(-1, labels)
        logits = rows @ weights
        errors = 0.5 * (1 + np.tanh(0.5 * logits)) - truth
        cross_entropy = (np.logaddexp(0, logits) - truth * logits).sum()
        prior = 0.5 * (precision * weights**2).sum()
        return float(cross_entropy + prior), (rows.T @ errors + precision * weights).ravel()

    start = np.zeros(features.shape[1] * labels)
    found = minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": MOST_STEPS}).x
    return np.asarray(basis.matrix @ found.reshape(-1, labels))


def _slot(targets: Sequence[SeriesTarget], label: int) -> str:
    marked = [(start, end) for target in targets for start, end, index in target.segments if index == label]
    instants = sum(start == end for start, end in marked)
    return INSTANT if 2 * instants > len(marked) else RANGE
