"""Logits of masks: their loss, and the masks at the size of the picture."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from lorabel.labeling.bit_masks import mask_of, runs_of
from lorabel.mask_contracts import MasksTarget, Runs

# Masks are brought to the size of the picture in strips of about as many pixels, to save memory.
STRIP_PX = 4_000_000


def mask_losses(logits: Tensor, ious: Tensor, masks: Tensor) -> Tensor:
    """Focal loss and Dice loss of masks, and the squared error of their expected IoUs.

    Dice (https://arxiv.org/abs/1606.04797) counts small things as much as large ones; focal loss
    (https://arxiv.org/abs/1708.02002) sharpens edges.

    Args:
        logits: (rows, height, width).
        ious: (rows,): what the model expects.
        masks: (rows, height, width): the right share of each pixel, in [0, 1].

    Returns:
        (rows,).
    """
    cross_entropy = functional.binary_cross_entropy_with_logits(logits, masks, reduction="none")
    focal = (6 - 5 * torch.exp(-cross_entropy)) * cross_entropy
    shares = logits.sigmoid()
    common = (shares * masks).sum(dim=(1, 2))
    dice = 1 - (2 * common + 1) / (shares.sum(dim=(1, 2)) + masks.sum(dim=(1, 2)) + 1)
    predicted, right = logits.detach() > 0, masks > 0.5
    union = (predicted | right).sum(dim=(1, 2)).clamp(min=1)
    iou = (predicted & right).sum(dim=(1, 2)) / union
    return focal.mean(dim=(1, 2)) + dice + 0.1 * (ious - iou) ** 2


def at_size(runs: Runs, target: MasksTarget, logits: Tensor) -> Tensor:
    """The mask of a target at the size of logits: the share of each of their pixels that is inside."""
    mask = torch.from_numpy(mask_of(runs, target.width, target.height)).to(logits.device, torch.float32)
    size = (int(logits.shape[-2]), int(logits.shape[-1]))
    shares: Tensor = functional.interpolate(mask[None, None], size, mode="area")[0, 0]
    return shares


def runs_at_size(logits: NDArray[np.float32], width: int, height: int) -> Runs:
    """The mask where logits are positive, after bilinear interpolation to the size of the picture."""
    mask = np.zeros((height, width), bool)
    left, right, across = _neighbours(logits.shape[1], width)
    rows_per_strip = max(1, STRIP_PX // width)
    for start in range(0, height, rows_per_strip):
        rows = slice(start, min(height, start + rows_per_strip))
        above, below, down = (part[rows] for part in _neighbours(logits.shape[0], height))
        strip = logits[above] + (logits[below] - logits[above]) * down[:, None]
        if strip.max() > 0:
            mask[rows] = strip[:, left] + (strip[:, right] - strip[:, left]) * across > 0
    return runs_of(mask)


def _neighbours(small: int, large: int) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float32]]:
    """Of each of `large` pixels the two of `small` pixels it lies between, and how far it is from the first."""
    places = ((np.arange(large) + 0.5) * small / large - 0.5).clip(0, small - 1)
    first = places.astype(np.intp)
    return first, np.minimum(first + 1, small - 1), (places - first).astype(np.float32)
