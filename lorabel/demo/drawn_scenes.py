"""Counted scenes as pixels, and what their patches show, for the trainings of the captioner."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from lorabel.demo.counted_scenes import SIDE_PX, Kind, kinds
from lorabel.demo.scenes import SCENE_COLOURS, SCENE_SHAPES, Scene

BRIGHTNESS = (0.92, 1.08)


@dataclass(frozen=True, slots=True)
class DrawnScenes:
    """Scenes as pixels, and what their patches show.

    Attributes:
        pixels: (n, side, side, 3) uint8.
        of_patches: (n, grid, grid) int64 by name, 0 for the ground: `colour`, `shape`, `count` of the things that
            look the same and `rank` of their kind in the caption, of the thing in which the patch's middle lies;
            and `middle`: 1 if the middle of a thing is in the patch.
    """

    kinds: list[tuple[Kind, ...]]
    pixels: NDArray[np.uint8]
    of_patches: Mapping[str, NDArray[np.int64]]


def draw_scenes(scenes: Sequence[Scene], grid: int) -> DrawnScenes:
    """Draw the scenes and resize them as the processor does."""
    pixels = np.zeros((len(scenes), SIDE_PX, SIDE_PX, 3), np.uint8)
    names = ("colour", "shape", "count", "rank", "middle")
    of_patches = {name: np.zeros((len(scenes), grid, grid), np.int64) for name in names}
    centres = (np.arange(grid) + 0.5) / grid
    for index, scene in enumerate(scenes):
        pixels[index] = np.asarray(scene.draw().resize((SIDE_PX, SIDE_PX), Image.Resampling.LANCZOS))
        ranked = {(kind.colour, kind.shape): (rank, kind.count) for rank, kind in enumerate(kinds(scene), 1)}
        for thing in scene.things:
            left, top, right, bottom = thing.corners
            x, y = (left + right) / 2, (top + bottom) / 2
            is_in_x = np.abs(centres - x) < max(0.35 * (right - left), 0.5 / grid)
            is_in_y = np.abs(centres - y) < max(0.35 * (bottom - top), 0.5 / grid)
            inside = is_in_y[:, None] & is_in_x[None]
            rank, count = ranked[thing.colour, thing.shape]
            of_patches["colour"][index][inside] = 1 + tuple(SCENE_COLOURS).index(thing.colour)
            of_patches["shape"][index][inside] = 1 + SCENE_SHAPES.index(thing.shape)
            of_patches["count"][index][inside] = count
            of_patches["rank"][index][inside] = rank
            of_patches["middle"][index][int(y * grid), int(x * grid)] = 1
    return DrawnScenes([kinds(scene) for scene in scenes], pixels, of_patches)


def as_pixels(pictures: NDArray[np.uint8]) -> Tensor:
    """(n, 3, side, side) float32, 0 to 1, of (n, side, side, 3)."""
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255


def vary(pixels: Tensor, rng: np.random.Generator) -> tuple[Tensor, NDArray[np.bool_]]:
    """Change the brightness of pictures a little, and mirror half of them.

    Returns:
        The pictures, and which of them are mirrored.
    """
    count = len(pixels)
    is_mirrored = rng.random(count) < 0.5
    pixels = (pixels * torch.from_numpy(rng.uniform(*BRIGHTNESS, (count, 1, 1, 1))).float()).clamp(0, 1)
    pixels[is_mirrored] = pixels[is_mirrored].flip(3)
    return pixels, is_mirrored
