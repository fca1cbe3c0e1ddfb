"""How well predicted masks fit the right ones."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lorabel.evaluation.average_precision import Finding, Picture, average_precisions, right_findings
from lorabel.evaluation.box_matching import match_places
from lorabel.evaluation.metrics import Metrics
from lorabel.labeling.bit_masks import BitMask, bounds, mask_of
from lorabel.mask_contracts import Masks, MasksTarget, Runs

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
    return Metrics("mean_iou", {"tasks": len(targets), **values})


def labelled_masks(targets: Sequence[MasksTarget], outputs: Sequence[Masks], labels: Sequence[str]) -> Metrics:
    """Compute `average_precisions` of masks; `map`, the mean over stricter and stricter IoUs, is primary.

    `mean_iou` and `boundary_f` are means over the pairs of a right mask and a mask of the same label that is
    shown, with an IoU of at least 0.5; `matched` is the number of the pairs. Both are 0 if there is no pair, and 1
    if no picture has a right mask.
    """
    pictures = [_picture(target, output) for target, output in zip(targets, outputs, strict=True)]
    ious, edges = [], []
    for target, picture in zip(targets, pictures, strict=True):
        for right_runs, found_runs in _matched(picture):
            right, predicted = (mask_of(runs, target.width, target.height) for runs in (right_runs, found_runs))
            ious.append(iou(right, predicted))
            edges.append(boundary_f(right, predicted))
    is_empty = not any(target.masks for target in targets)
    figures: dict[str, Any] = {
        "mean_iou": 1.0 if is_empty else _mean(ious),
        "boundary_f": 1.0 if is_empty else _mean(edges),
        "matched": len(ious),
    }
    return Metrics("map", {**average_precisions(pictures, labels, mask_ious), **figures})


def right_masks(target: MasksTarget, output: Masks) -> list[bool | None]:
    """Return for each mask of the output whether it is right, that is, the likeliest on a true mask of its own.

    None if nobody knows.
    """
    return right_findings(_picture(target, output), mask_ious)


def mask_ious(first: Sequence[Runs], second: Sequence[Runs]) -> NDArray[np.float64]:
    """Return the IoU of each mask of the first set with each of the second; 0 if both are empty.

    All are of pictures of the same size. The masks are not expanded: the time depends on their runs alone.

    Returns:
        (first, second), in [0, 1].
    """
    ious = np.zeros((len(first), len(second)))
    areas = [sum(runs[1::2]) for runs in second]
    edges = [np.cumsum(runs) for runs in second]
    for row, runs in enumerate(first):
        # How many pixels of the mask come before each end of a run; in between the number grows evenly.
        ends = np.concatenate([[0], np.cumsum(runs)])
        inside = np.concatenate([[0], np.cumsum(np.where(np.arange(len(runs)) % 2 == 1, runs, 0))])
        for column, (other, area) in enumerate(zip(edges, areas, strict=True)):
            last = 2 * (len(other) // 2)
            before = np.interp(other[:last], ends, inside)
            common = float(before[1::2].sum() - before[::2].sum())
            union = float(inside[-1]) + area - common
            ious[row, column] = common / union if union else 0.0
    return ious


def _picture(target: MasksTarget, output: Masks) -> Picture[Runs]:
    """Masks of a picture of another size are empty here: they meet no right mask."""
    is_same_size = not target.width or (target.width, target.height) == (output.width, output.height)
    nothing: Runs = (target.width * target.height,)
    findings = [
        Finding(
            mask.runs if is_same_size else nothing,
            mask.label,
            mask.probability,
            mask.probability >= output.threshold and len(mask.runs) > 1,
        )
        for mask in output.masks
    ]
    return Picture(target.masks, findings, target.unlabelled, target.incomplete)


def _matched(picture: Picture[Runs]) -> list[tuple[Runs, Runs]]:
    """Pairs of a right mask and one of the same label that is shown."""
    pairs = []
    for label in {label for _, label in picture.truth}:
        right = [runs for runs, true_label in picture.truth if true_label == label]
        places = [each.place for each in picture.findings if each.label == label and each.is_shown]
        pairs += [(right[i], places[j]) for i, j in match_places(mask_ious(right, places))]
    return pairs


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
