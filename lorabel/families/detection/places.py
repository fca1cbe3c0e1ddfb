"""Places in a picture that a head of boxes learns from: those of annotated boxes, and others where none is."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torchvision.ops import box_iou

from lorabel.families.encoders.heads.linear_head import LinearHead
from lorabel.feature_contracts import BoxFeaturesInput
from lorabel.space_contracts import MOST_PLACES

# Places where no annotated box is, in each picture.
MOST_OTHERS = 48
# IoU with an annotated box from which the box of a patch is not something else.
UNCLEAR = 0.4
# IoU from which one of two predicted boxes is suppressed, as by default (DETECTOR_OVERLAP).
SUPPRESSED = 0.5
# A patch that the model is sure of is the patch of an annotated box also if another's IoU is larger by this.
SURENESS = 0.5


def with_head(head: LinearHead, features: Tensor, logits: Tensor) -> Tensor:
    """(patches, labels): logits with a fitted head. A label of which it has learned nothing keeps its own.

    Args:
        features: (patches, dim), see `Places`.
        logits: (patches, labels), of the label texts.
    """
    weights, bias, zero_shot_weight, is_learned = (
        torch.as_tensor(values, device=logits.device)
        for values in (head.weights, head.bias, np.asarray(head.zero_shot_weight, np.float32), head.is_learned)
    )
    return torch.where(is_learned, zero_shot_weight * logits + features @ weights + bias, logits)


def chosen_places(
    corners: Tensor,
    logits: Tensor,
    likeness: Callable[[Tensor], Tensor],
    asked: BoxFeaturesInput,
    extent: tuple[float, float],
) -> list[int]:
    """Return the patch of each of the first MOST_PLACES boxes, then those of other places.

    The patch of a box is the one that would be shown for it: its box meets the annotated one well, and the model
    is sure of the label, if words say it. The others are, in turn, what looks most like a label's text, and what
    looks most like one of the boxes. Among them are patches that see an annotated thing, too, and whose boxes
    would be shown beside the right one: those that non-maximum suppression does not remove.

    Args:
        corners: (patches, 4) as fractions of the square.
        logits: (patches, labels).
        likeness: returns (patches, n) logits that patches show the same as n of them, see `BoxModel.likeness`.
        asked: says what was drawn.
        extent: the part of the square's width and height that the picture covers.
    """
    places = (corners / torch.tensor([*extent, *extent])).clamp(0, 1)
    is_other = (places[:, 2] > places[:, 0]) & (places[:, 3] > places[:, 1])
    patches = torch.zeros(0, dtype=torch.long)
    if asked.unlabelled:
        is_other &= box_iou(torch.tensor(asked.unlabelled), places).amax(dim=0) < UNCLEAR
    if asked.boxes:
        overlaps = box_iou(torch.tensor([corners for corners, _ in asked.boxes]), places)
        probabilities = logits[:, [label for _, label in asked.boxes]].sigmoid().T
        sureness = SURENESS * probabilities * (overlaps >= UNCLEAR)
        of_boxes = (overlaps + sureness).argmax(dim=1)
        is_beside = box_iou(places[of_boxes], places).amax(dim=0) < SUPPRESSED
        is_other &= is_beside | (overlaps.amax(dim=0) < UNCLEAR)
        is_other[of_boxes] = False
        patches = of_boxes[:MOST_PLACES]
    others = torch.nonzero(is_other).flatten()
    likenesses = [logits.amax(dim=1)]
    if asked.boxes:
        likenesses.append(likeness(patches).amax(dim=1))
    orders = [others[likeness[others].argsort(descending=True, stable=True)].tolist() for likeness in likenesses]
    in_turn = dict.fromkeys(patch for of_turn in zip(*orders, strict=True) for patch in of_turn)
    return [*patches.tolist(), *list(in_turn)[:MOST_OTHERS]]
