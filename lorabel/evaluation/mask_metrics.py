"""How well predicted masks fit the right ones."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from lorabel.evaluation.metrics import Metrics
from lorabel.labeling.bit_masks import BitMask, bounds, mask_of
from lorabel.mask_contracts import Masks, MasksTarget

# Edges that are as near as this share of the picture's diagonal are the same, as in DAVIS's measure F
# (https://davischallenge.org/davis2016/code.html).
EDGE_TOLERANCE = 0.008


def masks(targets: Sequence[MasksTarget], outputs: Sequence[Masks]) -> Metrics:
    """Mean IoU, and mean F of the edges, over all masks of all pictures.

    The masks of an output stand in the order of its target's. A mask that is missing, or of a picture of another
    size, counts 0.
    """
    ious: list[float] = []
    edges: list[float] = []
    for target, output in zip(targets, outputs, strict=True):
        is_same_size = (target.width, target.height) == (output.width, output.height)
        for index, (runs, _) in enumerate(target.masks):
            if not is_same_size or index >= len(output.masks):
                ious.append(0.0)
                edges.append(0.0)
                continue
            right, predicted = (
                mask_of(each, target.width, target.height) for each in (runs, output.masks[index].runs)
            )
            ious.append(iou(right, predicted))
            edges.append(boundary_f(right, predicted))
    values: dict[str, Any] = {"mean_iou": _mean(ious), "boundary_f": _mean(edges), "masks": len(ious)}
    return Metrics("mean_iou", values)


def iou(first: BitMask, second: BitMask) -> float:
    """Return intersection over union of two masks; 1 if both are empty."""
    union = int((first | second).sum())
    return int((first & second).sum()) / union if union else 1.0


def boundary_f(right: BitMask, predicted: BitMask) -> float:
    """Return the harmonic mean of the shares of each mask's edge that are near the other's edge."""
    from scipy.ndimage import distance_transform_edt

    if not right.any() or not predicted.any():
        return float(right.any() == predicted.any())
    near_px = math.ceil(EDGE_TOLERANCE * math.hypot(*right.shape))
    # Distances take 33 bytes for each pixel, so only those in the box around both masks are computed.
    box = bounds(right | predicted)
    right_edge, predicted_edge = _edge(right[box]), _edge(predicted[box])
    precision = float((distance_transform_edt(~right_edge)[predicted_edge] <= near_px).mean())
    recall = float((distance_transform_edt(~predicted_edge)[right_edge] <= near_px).mean())
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def _edge(mask: BitMask) -> BitMask:
    """The pixels of a mask that have a neighbour outside it; what is outside the array is outside."""
    padded = np.pad(mask, 1)
    inner = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return mask & ~inner


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0
