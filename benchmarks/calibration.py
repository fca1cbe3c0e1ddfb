"""How far probabilities are from how often they are right."""

import numpy as np
from numpy.typing import ArrayLike

BINS = 15


def calibration_error(confidences: ArrayLike, is_right: ArrayLike) -> float:
    """Compute the expected calibration error over bins of the confidence (Guo et al. 2017).

    Args:
        confidences: (answers,) in [0, 1]: the probability that the answer is right.
        is_right: (answers,).
    """
    confidence, right = np.asarray(confidences, float), np.asarray(is_right, bool)
    bins = np.minimum((confidence * BINS).astype(int), BINS - 1)
    errors = [
        abs(right[bins == number].mean() - confidence[bins == number].mean()) * (bins == number).mean()
        for number in np.unique(bins)
    ]
    return float(sum(errors))
