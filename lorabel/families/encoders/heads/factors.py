"""Fits how much each source of logits counts, by penalised maximum likelihood: Newton's method on few numbers."""

from collections.abc import Callable

import numpy as np

from lorabel.families.encoders.heads.ridge import TINY, Float64

STEPS = 30
ENOUGH = 1e-9
# Smallest step that is tried, as a part of Newton's.
SMALLEST_STEP = 1e-6


def size_of(scores: Float64, row_weights: Float64 | None = None) -> float:
    """Return the root mean square of scores, to divide by; infinite if all of them are 0, so that they count as 0.

    Args:
        scores: (rows, outputs).
        row_weights: (rows,); None: all equal.
    """
    size = float(np.sqrt(np.average((scores**2).mean(1), weights=row_weights)))
    return size if size > TINY else np.inf


def fit_logistic(
    sources: Float64,
    offsets: Float64,
    targets: Float64,
    row_weights: Float64,
    prior: Float64,
    precision: Float64,
) -> Float64:
    """Minimise the weighted cross-entropy of sigmoid(offsets + sources @ factors), plus a penalty of the factors.

    The penalty is sum(precision * (factors - prior)²) / 2. Factors are not negative.

    Args:
        sources: (rows, factors).
        offsets: (rows,).
        targets: (rows,) in [0, 1].
        row_weights: (rows,).
        prior: (factors,), not negative.
        precision: (factors,), above 0.

    Returns:
        (factors,).
    """

    def loss(factors: Float64) -> float:
        logits = offsets + sources @ factors
        entropies = np.logaddexp(0, logits) - targets * logits
        return float(row_weights @ entropies + precision @ (factors - prior) ** 2 / 2)

    def derivatives(factors: Float64) -> tuple[Float64, Float64]:
        probabilities = sigmoid(offsets + sources @ factors)
        gradient = sources.T @ (row_weights * (probabilities - targets)) + precision * (factors - prior)
        curvatures = row_weights * probabilities * (1 - probabilities)
        return gradient, (sources.T * curvatures) @ sources + np.diag(precision)

    return _minimise(loss, derivatives, prior)


def fit_softmax(sources: Float64, shares: Float64, prior: Float64, precision: Float64) -> Float64:
    """Minimise the cross-entropy of softmax(sum of factor * source), plus a penalty of the factors.

    The penalty is sum(precision * (factors - prior)²) / 2. Factors are not negative.

    Args:
        sources: (factors, rows, classes).
        shares: (rows, classes); each row sums to 1.
        prior: (factors,), not negative.
        precision: (factors,), above 0.

    Returns:
        (factors,).
    """

    def probabilities(factors: Float64) -> tuple[Float64, float]:
        logits = np.tensordot(factors, sources, 1)
        logits = logits - logits.max(1, keepdims=True)
        sums = np.exp(logits).sum(1, keepdims=True)
        return np.exp(logits) / sums, float((np.log(sums[:, 0]) - (shares * logits).sum(1)).sum())

    def loss(factors: Float64) -> float:
        return probabilities(factors)[1] + float(precision @ (factors - prior) ** 2 / 2)

    def derivatives(factors: Float64) -> tuple[Float64, Float64]:
        expected, _ = probabilities(factors)
        gradient = np.einsum("srl,rl->s", sources, expected - shares) + precision * (factors - prior)
        means = np.einsum("srl,rl->sr", sources, expected)
        flat = (sources * np.sqrt(expected)).reshape(len(sources), -1)
        return gradient, flat @ flat.T - means @ means.T + np.diag(precision)

    return _minimise(loss, derivatives, prior)


def fit_least_squares(sources: Float64, targets: Float64, prior_rows: float) -> Float64:
    """Minimise the squared error of sources @ factors, plus a penalty that draws the factors to 0.

    The sum of the factors, which are not negative, is drawn to 0 as if by `prior_rows` more rows in which every
    source has its root mean square and the target is 0.

    Args:
        sources: (rows, factors): what is expected of left out rows.
        targets: (rows,).

    Returns:
        (factors,).
    """
    size, count = max(float(np.mean(sources**2)), TINY), sources.shape[1]
    hessian = sources.T @ sources + prior_rows * size * np.ones((count, count)) + TINY * np.eye(count)
    linear = sources.T @ targets

    def loss(factors: Float64) -> float:
        return float(factors @ hessian @ factors / 2 - linear @ factors)

    return _minimise(loss, lambda factors: (hessian @ factors - linear, hessian), np.zeros(count))


def _minimise(
    loss: Callable[[Float64], float], derivatives: Callable[[Float64], tuple[Float64, Float64]], start: Float64
) -> Float64:
    """Newton's method for a convex function, projected onto factors that are not negative."""
    factors, current = start.copy(), loss(start)
    for _ in range(STEPS):
        gradient, hessian = derivatives(factors)
        free = (factors > 0) | (gradient < 0)
        direction = np.zeros_like(factors)
        if free.any():
            direction[free] = -np.linalg.solve(hessian[np.ix_(free, free)], gradient[free])
        step = 1.0
        while step > SMALLEST_STEP:
            tried = np.maximum(factors + step * direction, 0.0)
            value = loss(tried)
            if value <= current:
                break
            step /= 2
        if step <= SMALLEST_STEP or current - value < ENOUGH * (abs(current) + TINY):
            break
        factors, current = tried, value
    return factors


def sigmoid(logits: Float64) -> Float64:
    """Return 1 / (1 + exp(-logits)) without overflow."""
    return np.asarray(0.5 * (1 + np.tanh(0.5 * logits)))
