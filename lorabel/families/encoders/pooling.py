"""Pools the features of a content's parts, such as the frames of a video, into one vector."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional


def pool_features(features: Tensor, part_counts: Sequence[int], method: str) -> Tensor:
    """Pool the parts of each content and scale the result to length 1.

    Args:
        features: (sum of part_counts, dim) float32 of length 1: the parts of the first content, then of the next.
        part_counts: how many parts each content has.
        method: `mean`; or `max` of each dimension, so that what only one part shows is not averaged away.

    Returns:
        (len(part_counts), dim) float32 on the device of `features`.
    """
    contents = torch.split(features, list(part_counts))
    pooled = [parts.amax(0) if method == "max" else parts.mean(0) for parts in contents]
    return functional.normalize(torch.stack(pooled), dim=-1)
