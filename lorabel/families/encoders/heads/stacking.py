"""Weighs several sources of logits against each other, so that their sum is calibrated."""

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

STEPS, HALVINGS = 50, 30
PRECISION = 1e-10


def weigh(sources: Array, shares: Array, prior: Array, strengths: Array) -> Array:
    """Find the weights, none below 0, with the lowest cross-entropy plus a penalty for moving from the prior.

    The penalty is half the sum of `strengths` times the squared differences. The sum is strictly convex and has a
    single minimum, which a projected Newton method finds (Bertsekas 1982).

    Args:
        sources: (sources, examples, labels) logits.
        shares: (examples, labels), each row sums to 1.
        prior: (sources,) weights without examples.
        strengths: (sources,), above 0.

    Returns:
        (sources,).
    """
    weights = np.maximum(prior, 0.0)
    value, gradient, curvature = _loss(sources, shares, weights, prior, strengths)
    for _ in range(STEPS):
        free = (weights > 0) | (gradient < 0)
        if not free.any() or np.abs(gradient[free]).max() < PRECISION * max(1.0, abs(value)):
            break
        step = np.zeros_like(weights)
        step[free] = np.linalg.solve(curvature[np.ix_(free, free)], gradient[free])
        for halving in range(HALVINGS):
            moved = np.maximum(weights - step / 2**halving, 0.0)
            moved_loss = _loss(sources, shares, moved, prior, strengths)
            if moved_loss[0] <= value:
                break
        else:
            break
        if np.abs(moved - weights).max() < PRECISION:
            break
        weights, (value, gradient, curvature) = moved, moved_loss
    return weights


def _loss(
    sources: Array, shares: Array, weights: Array, prior: Array, strengths: Array
) -> tuple[float, Array, Array]:
    """Compute the sum that is to be lowest, its gradient (sources,) and its curvature (sources, sources)."""
    logits = np.tensordot(weights, sources, 1)
    logits -= logits.max(1, keepdims=True)
    exponentials = np.exp(logits)
    sums = exponentials.sum(1, keepdims=True)
    probabilities = exponentials / sums
    distance = weights - prior
    value = float((np.log(sums[:, 0]) - (shares * logits).sum(1)).sum() + strengths @ distance**2 / 2)
    gradient = np.einsum("sil,il->s", sources, probabilities - shares) + strengths * distance
    means = np.einsum("sil,il->si", sources, probabilities)
    flat = (sources * np.sqrt(probabilities)).reshape(len(sources), -1)
    curvature = flat @ flat.T - means @ means.T + np.diag(strengths)
    return value, gradient, curvature
