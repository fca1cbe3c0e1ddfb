"""Features of a content's parts, such as a video's frames, -> one of the whole."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional


def pooled(features: Tensor, sizes: Sequence[int], how: str) -> Tensor:
    """(len(sizes), dim) of length 1.

    Args:
        features: (sum of sizes, dim) of length 1, each content's parts one after another.
        how: `mean`, or `max` of each dimension: what is only in one part is then not outvoted by the others.
    """
    parts = torch.split(features, list(sizes))
    each = [part.amax(0) if how == "max" else part.mean(0) for part in parts]
    return functional.normalize(torch.stack(each), dim=-1)
