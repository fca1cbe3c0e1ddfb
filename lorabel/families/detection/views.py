"""A picture as the detector reads it, and views of it: the picture, or a part of it that is enlarged.

Boxes move with the view, so a part of a picture is another example for training.
"""

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from lorabel.families.encoders.heads.linear_head import LinearHead
from lorabel.feature_contracts import BoxFeaturesInput
from lorabel.space_contracts import BoxesInput, BoxTarget, Corners

# Most that augmentation cuts off at each side, as a share of width or height.
MAX_CROP = 0.1
# Part of a box's area that must be within a view for the box to be in its target.
LEAST_VISIBLE = 0.5
WHOLE: Corners = (0.0, 0.0, 1.0, 1.0)


class View(NamedTuple):
    """The states of a picture, or of a part of it that was enlarged to the same size.

    Args:
        states: (positions, width) float16 on the CPU, see `BoxModel.encode_pictures`.
        part: which part, as fractions of the picture.
    """

    states: Tensor
    part: Corners = WHOLE


@dataclass(frozen=True)
class Picture:
    """What is known of a picture beside its pixels.

    Args:
        size: width and height in pixels, as people see it.
        extent: the part of width and height of what the model reads that it covers.
        read_px: height and width of what the model reads, in pixels.
    """

    size: tuple[int, int]
    extent: tuple[float, float]
    read_px: tuple[int, int]


@dataclass(frozen=True)
class KnownPicture:
    """A picture in the cache."""

    picture: Picture
    states: Tensor

    @property
    def nbytes(self) -> int:
        """Bytes in the cache."""
        return self.states.nbytes


@dataclass(frozen=True)
class PreparedInput:
    """A question about a picture.

    Args:
        digest: of the file.
        pixels: (3, height, width) uint8 RGB as the model reads them; None if there are views.
        views: at least one, or none if there are pixels.
        fitted_head: answers in place of the label texts.
    """

    question: BoxesInput | BoxFeaturesInput
    digest: str
    picture: Picture
    pixels: Tensor | None = None
    views: tuple[View, ...] = ()
    fitted_head: LinearHead | None = None


def move_boxes(target: BoxTarget, part: Corners) -> BoxTarget:
    """The boxes in a part of the picture, as fractions of the part. Boxes that are mostly outside are left out."""
    moved = [(_within(corners, part), label) for corners, label in target.boxes]
    unlabelled = [_within(corners, part) for corners in target.unlabelled]
    return replace(
        target,
        boxes=tuple((corners, label) for corners, label in moved if corners is not None),
        unlabelled=tuple(corners for corners in unlabelled if corners is not None),
    )


def _within(corners: Corners, part: Corners) -> Corners | None:
    """The box as fractions of the part, what is outside cut off; None if it is mostly outside."""
    left, top, right, bottom = part
    x = [(corners[i] - left) / (right - left) for i in (0, 2)]
    y = [(corners[i] - top) / (bottom - top) for i in (1, 3)]
    inside: Corners = (max(x[0], 0.0), max(y[0], 0.0), min(x[1], 1.0), min(y[1], 1.0))
    visible = max(inside[2] - inside[0], 0.0) * max(inside[3] - inside[1], 0.0)
    return inside if visible >= LEAST_VISIBLE * (x[1] - x[0]) * (y[1] - y[0]) else None


def random_part(generator: torch.Generator) -> Corners:
    """A part of a picture from which up to MAX_CROP is cut off at each side."""
    left, top, right, bottom = (torch.rand(4, generator=generator) * MAX_CROP).tolist()
    return left, top, 1 - right, 1 - bottom


def show_part(prepared: PreparedInput, part: Corners) -> PreparedInput:
    """The input with a part of the picture enlarged to where the whole was."""
    if part == WHOLE or prepared.pixels is None:
        return prepared
    full_height, full_width = prepared.pixels.shape[1:]
    height = max(1, round(full_height * prepared.picture.extent[1]))
    width = max(1, round(full_width * prepared.picture.extent[0]))
    left, top, right, bottom = part
    # Where each pixel of the result comes from, in the coordinates of `grid_sample`: -1 to 1 across the square.
    x = (left + (torch.arange(width) + 0.5) / width * (right - left)) * width / full_width * 2 - 1
    y = (top + (torch.arange(height) + 0.5) / height * (bottom - top)) * height / full_height * 2 - 1
    grid = torch.stack([x.expand(height, width), y[:, None].expand(height, width)], dim=-1)
    shown = functional.grid_sample(
        prepared.pixels[None].float(), grid[None], mode="bilinear", padding_mode="border", align_corners=False
    )
    pixels = prepared.pixels.clone()
    pixels[:, :height, :width] = shown[0].round().to(torch.uint8)
    return replace(prepared, pixels=pixels)
