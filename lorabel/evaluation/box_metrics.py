"""Average precision of boxes, as COCO counts it, and precision and recall of the boxes that are shown.

Average precision is that of pycocotools (https://cocodataset.org/#detection-eval) for things of all sizes:
precision, made monotone, at 101 values of recall. A test compares the two.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lorabel.evaluation.box_matching import iou_matrix
from lorabel.evaluation.metrics import Metrics
from lorabel.space_contracts import Boxes, BoxTarget, Corners

# IoU from which a box counts as found, for the mean over stricter and stricter ones.
IOUS = tuple(round(0.5 + 0.05 * step, 2) for step in range(10))
RECALLS = np.linspace(0, 1, 101)
# Most boxes of a label in a picture that are looked at, the likeliest first.
MOST_BOXES = 100


@dataclass(frozen=True)
class _Matches:
    """The boxes of one label in all pictures, the likeliest first.

    Args:
        probabilities: (boxes,).
        is_right: (IoUs, boxes): whether a box is the first that meets a true box of its own.
        true_boxes: how many there are.
    """

    probabilities: NDArray[np.float64]
    is_right: NDArray[np.bool_]
    true_boxes: int


def boxes(targets: Sequence[BoxTarget], outputs: Sequence[Boxes], labels: Sequence[str]) -> Metrics:
    """Mean average precision at IoU 0.5 (`map_50`, primary) and over 0.5 to 0.95 (`map`), and per label.

    Both means are over the labels that some picture has. If no picture has any box, both are 1 if nothing is
    shown, else 0. `precision` and `recall` are at IoU 0.5, of the boxes that are shown: those with at least the
    output's threshold.
    """
    per_class, means, means_50 = {}, [], []
    for index, label in enumerate(labels):
        matches = _match_label(targets, outputs, index)
        precisions = [_average_precision(is_right, matches.true_boxes) for is_right in matches.is_right]
        if matches.true_boxes:
            means_50.append(precisions[0])
            means.append(float(np.mean(precisions)))
        shown = _match_label(targets, [_shown(output) for output in outputs], index)
        per_class[label] = {
            **_precision_and_recall(int(shown.is_right[0].sum()), len(shown.probabilities), shown.true_boxes),
            "ap_50": precisions[0] if matches.true_boxes else None,
            "support": matches.true_boxes,
        }
    is_quiet = not any(_shown(output).boxes for output in outputs)
    return Metrics(
        "map_50",
        {
            "tasks": len(targets),
            "map_50": float(np.mean(means_50)) if means_50 else float(is_quiet),
            "map": float(np.mean(means)) if means else float(is_quiet),
            "per_class": per_class,
            "labels": list(labels),
        },
    )


def right_boxes(target: BoxTarget, output: Boxes, iou: float = 0.5) -> list[bool]:
    """Return for each box of the output whether it is right, that is, the likeliest on a true box of its own."""
    is_right = [False] * len(output.boxes)
    for label in {box.label for box in output.boxes}:
        indices = [index for index, box in enumerate(output.boxes) if box.label == label]
        indices.sort(key=lambda index: -output.boxes[index].probability)
        found = _assign(
            [output.boxes[index].corners for index in indices],
            [corners for corners, true_label in target.boxes if true_label == label],
            (iou,),
        )
        for index, is_hit in zip(indices, found[0], strict=True):
            is_right[index] = bool(is_hit)
    return is_right


def _shown(output: Boxes) -> Boxes:
    shown = tuple(box for box in output.boxes if box.probability >= output.threshold)
    return output.model_copy(update={"boxes": shown})


def _precision_and_recall(right: int, predicted: int, true_boxes: int) -> dict[str, float]:
    return {
        "precision": right / predicted if predicted else float(not true_boxes),
        "recall": right / true_boxes if true_boxes else 1.0,
    }


def _match_label(targets: Sequence[BoxTarget], outputs: Sequence[Boxes], label: int) -> _Matches:
    probabilities: list[float] = []
    is_right: list[NDArray[np.bool_]] = [np.zeros((len(IOUS), 0), bool)]
    true_boxes = 0
    for target, output in zip(targets, outputs, strict=True):
        truth = [corners for corners, true_label in target.boxes if true_label == label]
        found = sorted((box for box in output.boxes if box.label == label), key=lambda box: -box.probability)
        found = found[:MOST_BOXES]
        probabilities += [box.probability for box in found]
        is_right.append(_assign([box.corners for box in found], truth, IOUS))
        true_boxes += len(truth)
    order = np.argsort(-np.array(probabilities), kind="stable")
    return _Matches(np.array(probabilities)[order], np.concatenate(is_right, axis=1)[:, order], true_boxes)


def _assign(found: Sequence[Corners], truth: Sequence[Corners], ious: Sequence[float]) -> NDArray[np.bool_]:
    """(IoUs, boxes): the likeliest box goes first, and takes the free true box that it overlaps most."""
    is_right = np.zeros((len(ious), len(found)), bool)
    overlaps = iou_matrix(found, truth)
    for row, iou in enumerate(ious):
        is_free = np.ones(len(truth), bool)
        for column in range(len(found)):
            candidates = np.where(is_free, overlaps[column], -1.0)
            # Of equally good true boxes pycocotools takes the last.
            best = len(truth) - 1 - int(np.argmax(candidates[::-1])) if len(truth) else -1
            if best >= 0 and candidates[best] >= min(iou, 1 - 1e-10):
                is_right[row, column] = True
                is_free[best] = False
    return is_right


def _average_precision(is_right: NDArray[np.bool_], true_boxes: int) -> float:
    """Area under precision over recall, at 101 values of recall."""
    if not true_boxes or not len(is_right):
        return 0.0
    hits = np.cumsum(is_right)
    recall = hits / true_boxes
    precision = np.maximum.accumulate((hits / np.arange(1, len(hits) + 1))[::-1])[::-1]
    positions = np.searchsorted(recall, RECALLS, side="left")
    values = np.append(precision, 0.0)[np.minimum(positions, len(precision))]
    return float(values.mean())
