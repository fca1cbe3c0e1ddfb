"""Resizes a picture to a square as OWLv2's image processor of transformers does.

The processor pads the picture to a square with black, blurs it if it is larger than the model's input, and samples
it bilinearly. Its blur has a kernel of two dimensions over the whole square: for the model of the speed figures it
takes half as long as the forward pass. Blurring and sampling are linear, and each axis is on its own, so here they
are one sparse matrix for each axis. That takes a fifth of the time, gives the same pixels (a test compares them),
and takes no memory for what is padded.
"""

from functools import lru_cache

import torch
from torch import Tensor

# Matrices that are remembered. Most pictures of a project have one of a few sizes.
SIZES = 32


def resized_to_square(pixels: Tensor, side: int) -> Tensor:
    """(3, side, side) uint8: the picture at the left and the top of a black square.

    Args:
        pixels: (height, width, 3) uint8.
    """
    height, width, channels = pixels.shape
    square = max(height, width)
    rows = torch.sparse.mm(_sampling(square, height, side), pixels.reshape(height, -1).float())
    columns = rows.reshape(side, width, channels).permute(1, 2, 0).reshape(width, -1)
    sampled = torch.sparse.mm(_sampling(square, width, side), columns).reshape(side, channels, side)
    rounded: Tensor = sampled.permute(1, 2, 0).round_().clamp_(0, 255)
    return rounded.to(torch.uint8, memory_format=torch.contiguous_format)


@lru_cache(maxsize=SIZES)
def _sampling(square: int, length: int, side: int) -> Tensor:
    """(side, length), sparse: the weights of an axis' pixels in each pixel of the square.

    Args:
        square: side of the square that the picture is padded to.
        length: of the picture along this axis. What is beyond is black and needs no weights.
    """
    factor = torch.tensor(square) / torch.tensor(side)
    places = ((torch.arange(side) + 0.5) * factor - 0.5).clamp(min=0)
    first = places.floor().long()
    second_share = places - first
    taps, shares = _gaussian(factor)
    sampled = torch.cat([first[:, None] + taps, (first + 1).clamp(max=square - 1)[:, None] + taps], dim=1).abs()
    # The blur sees the square reflected at its border.
    columns = torch.where(sampled < square, sampled, 2 * (square - 1) - sampled)
    weights = torch.cat([(1 - second_share)[:, None] * shares, second_share[:, None] * shares], dim=1)
    rows = torch.arange(side)[:, None].expand_as(columns)
    is_seen = columns < length
    indices = torch.stack([rows[is_seen], columns[is_seen]])
    matrix = torch.sparse_coo_tensor(indices, weights[is_seen], (side, length), check_invariants=True)
    return matrix.coalesce()


def _gaussian(factor: Tensor) -> tuple[Tensor, Tensor]:
    """Offsets of the blur's taps and their shares, for a square that is larger than the input by a factor."""
    sigma = ((factor - 1) / 2).clamp(min=0)
    if sigma == 0:
        return torch.zeros(1, dtype=torch.long), torch.ones(1)
    reach = int(torch.ceil(3 * sigma))
    taps = torch.arange(-reach, reach + 1)
    return taps, torch.softmax(-((taps / sigma) ** 2) / 2, dim=0)
