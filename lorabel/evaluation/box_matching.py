"""Which of two sets of boxes, or of masks, are the same things: by intersection over union (IoU)."""

from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from lorabel.space_contracts import Corners

Place = TypeVar("Place")
Overlaps = Callable[[Sequence[Place], Sequence[Place]], NDArray[np.float64]]
"""Returns the IoU of each place of the first set with each of the second."""


def iou_matrix(
    first: Sequence[Corners] | NDArray[np.float64], second: Sequence[Corners] | NDArray[np.float64]
) -> NDArray[np.float64]:
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
    """Pair the boxes of two sets so that the sum of the pairs' IoU is largest; see `match_places`."""
    return match_places(iou_matrix(first, second), minimum)


def match_places(overlaps: NDArray[np.float64], minimum: float = 0.5) -> list[tuple[int, int]]:
    """Pair the places of two sets so that the sum of the pairs' IoU is largest.

    Args:
        overlaps: (first, second).
        minimum: pairs with a smaller IoU are not made.

    Returns:
        (index in first, index in second) of each pair; each place is in one pair at most.
    """
    from scipy.optimize import linear_sum_assignment

    rows, columns = linear_sum_assignment(np.where(overlaps >= minimum, -overlaps, 0.0))
    return [(int(i), int(j)) for i, j in zip(rows, columns, strict=True) if overlaps[i, j] >= minimum]


def agreed_places(drawn: Sequence[Sequence[Place]], overlaps: Overlaps[Place]) -> list[dict[int, int]]:
    """Return the places at which more than half of the annotators drew; the newest decides on exactly half.

    A box or a mask belongs to the place of the first, from the newest annotator on, that it matches
    (`match_places`).

    Args:
        drawn: what each annotator drew, the newest last.

    Returns:
        For each place the annotators and what they drew there, as indices, the newest first.
    """
    places: list[dict[int, int]] = []
    for annotator in reversed(range(len(drawn))):
        seeds = [drawn[first][index] for first, index in (next(iter(place.items())) for place in places)]
        pairs = dict(match_places(overlaps(drawn[annotator], seeds)))
        for index, place in pairs.items():
            places[place][annotator] = index
        places += [{annotator: index} for index in range(len(drawn[annotator])) if index not in pairs]
    newest = len(drawn) - 1
    return [place for place in places if 2 * len(place) + (newest in place) > len(drawn)]
