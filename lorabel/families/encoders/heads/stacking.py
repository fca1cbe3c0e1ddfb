"""Weighs several sources of logits against each other, so that their sum is calibrated."""

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

STEPS, HALVINGS = 100, 30
# Most that the logarithm of a weight changes in a step.
LONGEST = 3.0
PRECISION = 1e-10


def weigh(sources: Array, shares: Array, modes: Array, shapes: Array) -> Array:
    """Find the weights, all above 0, with the lowest cross-entropy plus a penalty for moving from `modes`.

    The penalty of a weight w is `shape * (w / mode - log(w / mode))`: a gamma prior. It lets a weight grow more
    easily than a squared difference does, so that a single good source can win. The sum is convex and has a single
    minimum, which Newton's method finds in the logarithms of the weights.

    Args:
        sources: (sources, examples, labels) logits.
        shares: (examples, labels), each row sums to 1.
        modes: (sources,) weights without examples, above 0.
        shapes: (sources,) strengths of the penalty, above 0.

    Returns:
        (sources,).
    """
    sources, shares = np.ascontiguousarray(sources.transpose(0, 2, 1)), np.ascontiguousarray(shares.T)
    weights = modes.astype(np.float64)
    value, gradient, curvature = _loss(sources, shares, weights, modes, shapes)
    for _ in range(STEPS):
        slope = gradient * weights
        bend = curvature * np.outer(weights, weights) + np.diag(np.maximum(slope, 0.0))
        step = np.clip(np.linalg.solve(bend, slope), -LONGEST, LONGEST)
        for halving in range(HALVINGS):
            moved = weights * np.exp(-step / 2**halving)
            moved_loss = _loss(sources, shares, moved, modes, shapes)
            if moved_loss[0] <= value:
                break
        else:
            break
        change = np.abs(moved - weights).max()
        weights, (value, gradient, curvature) = moved, moved_loss
        if change < PRECISION:
            break
    return weights


def _loss(
    sources: Array, shares: Array, weights: Array, modes: Array, shapes: Array
) -> tuple[float, Array, Array]:
    """Compute the sum that is to be lowest, its gradient (sources,) and its curvature (sources, sources).

    Args:
        sources: (sources, labels, examples): sums over labels are several times as fast as with labels last.
        shares: (labels, examples).
    """
    logits = np.tensordot(weights, sources, 1)
    logits -= logits.max(0)
    exponentials = np.exp(logits)
    sums = exponentials.sum(0)
    probabilities = exponentials / sums
    ratios = weights / modes
    value = float((np.log(sums) - (shares * logits).sum(0)).sum() + (shapes * (ratios - np.log(ratios))).sum())
    gradient = np.tensordot(sources, probabilities - shares, 2) + shapes * (1 / modes - 1 / weights)
    expected = sources * probabilities
    means = expected.sum(1)
    curvature = np.tensordot(expected, sources, ((1, 2), (1, 2))) - means @ means.T + np.diag(shapes / weights**2)
    return value, gradient, curvature
