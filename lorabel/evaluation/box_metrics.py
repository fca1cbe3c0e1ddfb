"""Average precision of boxes, and which of them are right. See `lorabel.evaluation.average_precision`."""

from collections.abc import Sequence

from lorabel.evaluation.average_precision import Finding, Picture, average_precisions, right_findings
from lorabel.evaluation.box_matching import iou_matrix
from lorabel.evaluation.metrics import Metrics
from lorabel.space_contracts import Boxes, BoxTarget, Corners


def boxes(targets: Sequence[BoxTarget], outputs: Sequence[Boxes], labels: Sequence[str]) -> Metrics:
    """Compute `average_precisions`; mAP at IoU 0.5 is the primary metric."""
    pictures = [_picture(target, output) for target, output in zip(targets, outputs, strict=True)]
    return Metrics("map_50", average_precisions(pictures, labels, iou_matrix))


def right_boxes(target: BoxTarget, output: Boxes) -> list[bool | None]:
    """Return for each box of the output whether it is right, that is, the likeliest on a true box of its own.

    None if nobody knows.
    """
    return right_findings(_picture(target, output), iou_matrix)


def _picture(target: BoxTarget, output: Boxes) -> Picture[Corners]:
    findings = [
        Finding(box.corners, box.label, box.probability, box.probability >= output.threshold)
        for box in output.boxes
    ]
    return Picture(target.boxes, findings, target.unlabelled, target.incomplete)
