"""Boxes as examples: the others like them have the nearest class embeddings (image-guided detection)."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional
from torchvision.ops import box_iou

from lorabel.space_contracts import Boxes, Corners

Example = tuple[Corners, int]
# IoU from which a box that was found is taken for the example itself.
SAME = 0.5


def example_features(
    corners: Tensor, embeddings: Tensor, extent: tuple[float, float], examples: Sequence[Example]
) -> dict[int, Tensor]:
    """Return for each label the mean embedding of the patches whose boxes meet its examples best, of length 1.

    Args:
        corners: (patches, 4) as fractions of the square.
        embeddings: (patches, dim) of length 1.
        extent: the part of the square's width and height that the picture covers.
    """
    boxes = torch.tensor([box for box, _ in examples]) * torch.tensor([*extent, *extent])
    patches = box_iou(boxes, corners).argmax(dim=1)
    labels = sorted({label for _, label in examples})
    return {
        label: functional.normalize(
            embeddings[
                [patch for patch, (_, of) in zip(patches.tolist(), examples, strict=True) if of == label]
            ].mean(0),
            dim=-1,
        )
        for label in labels
    }


def others_than(candidates: Boxes, examples: Sequence[Example], labels: Sequence[int]) -> Boxes:
    """Return the boxes that are not the examples themselves, with the labels of the question.

    Args:
        labels: the label that each label of `found` stands for.
    """
    corners = torch.tensor([box.corners for box in candidates.boxes]).reshape(-1, 4)
    overlaps = box_iou(corners, torch.tensor([box for box, _ in examples])).amax(dim=1)
    others = tuple(
        box.model_copy(update={"label": labels[box.label]})
        for box, overlap in zip(candidates.boxes, overlaps.tolist(), strict=True)
        if overlap < SAME
    )
    return candidates.model_copy(update={"boxes": others})
