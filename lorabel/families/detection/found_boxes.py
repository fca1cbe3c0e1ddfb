"""From the answers of a picture's patches to boxes: non-maximum suppression and a limit."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.ops import batched_nms, nms

from lorabel.settings import Settings
from lorabel.space_contracts import Box, Boxes, Nearness

# Boxes with a smaller probability are not among the answers: average precision hardly notices them.
SMALLEST_PROBABILITY = 0.01
# Most boxes before suppression, the likeliest.
MOST_CANDIDATES = 1000


@dataclass(frozen=True)
class BoxLimits:
    """Which boxes an answer has, see the settings DETECTOR_...

    Args:
        overlap: IoU above which only the likeliest box of a label is kept.
        overlap_of_labels: IoU above which only the likeliest box is kept, whatever the labels.
        most: boxes in a picture.
        threshold: smallest probability of a box that is shown.
    """

    overlap: float
    overlap_of_labels: float
    most: int
    threshold: float

    @classmethod
    def of(cls, settings: Settings) -> "BoxLimits":
        """The limits that the settings DETECTOR_... say."""
        return cls(
            settings.detector_overlap,
            settings.detector_overlap_of_labels,
            settings.detector_max_boxes,
            settings.detector_threshold,
        )


def find_boxes(
    corners: Tensor,
    probabilities: Tensor,
    extent: tuple[float, float],
    size: tuple[int, int],
    limits: BoxLimits,
    nearness: Callable[[int], Nearness] | None = None,
) -> Boxes:
    """Return the boxes of a picture, the likeliest first.

    Args:
        corners: (patches, 4) as fractions of the square that the picture was padded to.
        probabilities: (patches, labels).
        extent: the part of the square's width and height that the picture covers.
        size: of the picture in pixels.
        nearness: of the labels to a patch; None if boxes do not say it.
    """
    labels = torch.arange(probabilities.shape[1]).expand_as(probabilities).flatten()
    patches = torch.arange(len(probabilities))[:, None].expand_as(probabilities).flatten()
    places = (corners / torch.tensor([*extent, *extent])).clamp(0, 1)
    has_area = (places[:, 2] > places[:, 0]) & (places[:, 3] > places[:, 1])
    scores = probabilities.flatten()
    kept = torch.nonzero((scores >= SMALLEST_PROBABILITY) & has_area[patches]).flatten()
    kept = kept[scores[kept].argsort(descending=True, stable=True)][:MOST_CANDIDATES]
    if limits.overlap < 1:
        kept = kept[batched_nms(places[patches[kept]], scores[kept], labels[kept], limits.overlap)]
    if limits.overlap_of_labels < 1:
        kept = kept[nms(places[patches[kept]], scores[kept], limits.overlap_of_labels)]
    kept = kept[: limits.most]
    columns = (places[patches[kept]], labels[kept], scores[kept], patches[kept])
    boxes = [
        Box(
            corners=tuple(place),
            label=label,
            probability=score,
            nearness=None if nearness is None else nearness(patch),
        )
        for place, label, score, patch in zip(*(column.tolist() for column in columns), strict=True)
    ]
    return Boxes(boxes=tuple(boxes), width=size[0], height=size[1], threshold=limits.threshold)
