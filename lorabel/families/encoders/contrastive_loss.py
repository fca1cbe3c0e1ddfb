"""The supervised contrastive loss: features of contents with the same labels move together, others move apart.

Source: Khosla et al. 2020, https://arxiv.org/abs/2004.11362. Contents that share only some of their labels count
by the share of these (Jaccard), so the loss also serves multiple choice and taxonomies.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from lorabel.contracts import LabelTarget

# Divides the cosines, as in the paper. docs/decisions/0023 has figures.
TEMPERATURE = 0.1
# In place of minus infinity, of which a batch of one would have a gradient that is not finite.
FAR = -1e9


def contrastive_losses(features: Tensor, targets: Sequence[LabelTarget]) -> Tensor:
    """Compute the loss of each content; 0 for a content whose labels no other content of the batch shares.

    Args:
        features: (batch, dim) float32.

    Returns:
        (batch,) float32, with gradients.
    """
    features = functional.normalize(features, dim=1)
    itself = torch.eye(len(features), dtype=torch.bool, device=features.device)
    similarities = (features @ features.T / TEMPERATURE).masked_fill(itself, FAR)
    log_probabilities = similarities.log_softmax(1).masked_fill(itself, 0.0)
    likeness = likeness_of(targets).to(features.device).masked_fill(itself, 0.0)
    return -(likeness * log_probabilities).sum(1) / likeness.sum(1).clamp(min=1e-6)


def likeness_of(targets: Sequence[LabelTarget]) -> Tensor:
    """Return (batch, batch) float32: how many of the labels of two targets are the same, from 0 to 1."""
    size = max((index + 1 for target in targets for index in target.indices), default=0)
    rows = torch.zeros(len(targets), size + 1)
    for row, target in zip(rows, targets, strict=True):
        # A target without labels is like others without labels.
        row[list(target.indices) or [size]] = 1.0
    shared = rows @ rows.T
    counts = rows.sum(1)
    return shared / (counts[:, None] + counts[None] - shared)
