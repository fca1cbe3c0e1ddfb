"""Average precision as pycocotools computes it, from regions in COCO's format."""

import contextlib
import io
from collections.abc import Sequence
from typing import Any

from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval


def coco_precisions(
    images: Sequence[dict[str, Any]],
    labels: int,
    truth: Sequence[dict[str, Any]],
    found: Sequence[dict[str, Any]],
    kind: str,
) -> tuple[float, float]:
    """Return mAP@50 and mAP@50:95.

    Args:
        images: each with its `id`.
        labels: their number; category 1 is the first.
        truth: annotations without ids.
        found: results, each with a `score`.
        kind: `bbox` or `segm`.
    """
    coco = COCO()
    coco.dataset = {
        "images": list(images),
        "categories": [{"id": index + 1} for index in range(labels)],
        "annotations": [{**annotation, "id": index + 1} for index, annotation in enumerate(truth)],
        "info": {},
    }
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(list(found)), kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return float(evaluation.stats[1]), float(evaluation.stats[0])
