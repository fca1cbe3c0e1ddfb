"""Which of two sets of boxes are the same things: by intersection over union (IoU)."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from lorabel.space_contracts import Corners


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


def agreed_places(drawn: Sequence[Sequence[Corners]]) -> list[dict[int, int]]:
    """Return the places at which more than half of the annotators drew a box; the newest decides on exactly half.

    A box belongs to the place of the first box, from the newest annotator on, that it matches (`match_boxes`).

    Args:
        drawn: the boxes of each annotator, the newest last.

    Returns:
        For each place the annotators and their boxes, as indices, the newest first.
    """
    places: list[dict[int, int]] = []
    for annotator in reversed(range(len(drawn))):
        seeds = [drawn[first][box] for first, box in (next(iter(place.items())) for place in places)]
        pairs = dict(match_boxes(drawn[annotator], seeds))
        for box, place in pairs.items():
            places[place][annotator] = box
        places += [{annotator: box} for box in range(len(drawn[annotator])) if box not in pairs]
    newest = len(drawn) - 1
    return [place for place in places if 2 * len(place) + (newest in place) > len(drawn)]
