"""The loss of DETR-like detectors (https://arxiv.org/abs/2005.12872): patches are matched with true boxes first.

The weights of the parts, and the focal loss, are those of Deformable DETR (https://arxiv.org/abs/2010.04159).
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.ops import (
    box_convert,
    box_iou,
    generalized_box_iou,
    generalized_box_iou_loss,
    sigmoid_focal_loss,
)

from lorabel.families.detection.places import UNCLEAR

CLASS_WEIGHT, L1_WEIGHT, GIOU_WEIGHT = 2.0, 5.0, 2.0
ALPHA, GAMMA = 0.25, 2.0


def matching_loss(
    logits: Tensor,
    corners: Tensor,
    true_corners: Tensor,
    true_labels: Tensor,
    unlabelled: Tensor | None = None,
    incomplete: Sequence[int] = (),
) -> Tensor:
    """Return the loss of one picture, a scalar with gradients.

    Args:
        logits: (patches, labels).
        corners: (patches, 4) as fractions of the square.
        true_corners: (boxes, 4), in the same unit.
        true_labels: (boxes,) int64.
        unlabelled: (boxes, 4) or None: nobody knows what is there, so patches whose boxes meet them learn nothing.
        incomplete: labels that no patch learns not to show.
    """
    patches, boxes = match_patches(logits, corners, true_corners, true_labels)
    right = torch.zeros_like(logits)
    right[patches, true_labels[boxes]] = 1
    is_known = torch.ones_like(logits)
    if unlabelled is not None:
        is_known[box_iou(corners.detach(), unlabelled).ge(UNCLEAR).any(dim=1)] = 0
    is_known[:, list(incomplete)] = 0
    is_known[patches] = 1
    class_loss = (sigmoid_focal_loss(logits, right, ALPHA, GAMMA) * is_known).sum()
    predicted, truth = corners[patches], true_corners[boxes]
    l1_loss = (_centred(predicted) - _centred(truth)).abs().sum()
    giou_loss = generalized_box_iou_loss(predicted, truth, reduction="sum")
    total = CLASS_WEIGHT * class_loss + L1_WEIGHT * l1_loss + GIOU_WEIGHT * giou_loss
    loss: Tensor = total / max(1, len(true_labels))
    return loss


@torch.no_grad()
def match_patches(
    logits: Tensor, corners: Tensor, true_corners: Tensor, true_labels: Tensor
) -> tuple[Tensor, Tensor]:
    """Give each true box a patch of its own so that the sum of the costs is least.

    Returns:
        Indices of patches and of true boxes, (pairs,) int64 each.
    """
    from scipy.optimize import linear_sum_assignment

    probabilities = logits.sigmoid()[:, true_labels]
    positive = ALPHA * (1 - probabilities) ** GAMMA * -(probabilities + 1e-8).log()
    negative = (1 - ALPHA) * probabilities**GAMMA * -(1 - probabilities + 1e-8).log()
    l1_cost = torch.cdist(_centred(corners), _centred(true_corners), p=1)
    giou_cost = -generalized_box_iou(corners, true_corners)
    cost = CLASS_WEIGHT * (positive - negative) + L1_WEIGHT * l1_cost + GIOU_WEIGHT * giou_cost
    patches, boxes = linear_sum_assignment(cost.float().cpu().nan_to_num(1e6, 1e6, -1e6).numpy())
    return torch.as_tensor(patches, device=logits.device), torch.as_tensor(boxes, device=logits.device)


def _centred(corners: Tensor) -> Tensor:
    converted: Tensor = box_convert(corners, "xyxy", "cxcywh")
    return converted
