"""Which of two sets of boxes are the same things: by intersection over union (IoU)."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Corners = tuple[float, float, float, float]


def iou_matrix(first: Sequence[Corners], second: Sequence[Corners]) -> NDArray[np.float64]:
    """Return the IoU of each box of the first set with each of the second.

    Args:
        first: (left, top, right, bottom), all in the same unit, in which a pixel is as wide as it is high or not:
            IoU does not depend on it.

    Returns:
        (first, second), in [0, 1].
    """
    a, b = (np.asarray(boxes, float).reshape(-1, 4) for boxes in (first, second))
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    common = np.prod(np.clip(high - low, 0, None), axis=2)
    areas = [np.prod(np.clip(boxes[:, 2:] - boxes[:, :2], 0, None), axis=1) for boxes in (a, b)]
    union = areas[0][:, None] + areas[1][None] - common
    overlaps: NDArray[np.float64] = np.divide(common, union, out=np.zeros_like(common), where=union > 0)
    return overlaps


def match_boxes(
    first: Sequence[Corners], second: Sequence[Corners], minimum: float = 0.5
) -> list[tuple[int, int]]:
    """Pair the boxes of two sets so that the sum of the pairs' IoU is largest.

    Args:
        minimum: pairs with a smaller IoU are not made.

    Returns:
        (index in first, index in second) of each pair; each box is in one pair at most.
    """
    from scipy.optimize import linear_sum_assignment

    overlaps = iou_matrix(first, second)
    rows, columns = linear_sum_assignment(np.where(overlaps >= minimum, -overlaps, 0.0))
    return [(int(i), int(j)) for i, j in zip(rows, columns, strict=True) if overlaps[i, j] >= minimum]
