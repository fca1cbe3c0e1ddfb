"""Drawn scenes of two to five things, with the mask of each: what the demo's segmenter learns from.

The things are the shapes of `lorabel.demo.pictures`: solid, striped or outlined. A mask is the whole shape, with
its stripes or its inside, as an annotator would mask it. Things do not overlap, but their edges may touch.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from lorabel.demo import pictures
from lorabel.demo.pictures import COLOURS, FILLS, SHAPES, Points

FEWEST_THINGS, MOST_THINGS = 2, 5
RADII = (0.13, 0.21)
"""Lowest and highest radius of a thing, as a share of the picture's side."""
EDGE = 0.02
"""Width of an outline, as a share of the picture's side."""
STRIPE = 0.06
"""Width of a stripe and of the gap beside it, as a share of the picture's side."""
SUPERSAMPLING = 2
TRIES = 30


@dataclass(frozen=True)
class MaskScene:
    """A picture and the masks of its things.

    Attributes:
        pixels: (side, side, 3) uint8 RGB.
        masks: (things, side, side) bool.
    """

    pixels: NDArray[np.uint8]
    masks: NDArray[np.bool_]


def mask_scenes(seed: int, side_px: int) -> Iterator[MaskScene]:
    """Endless scenes. The same arguments always give the same scenes; two seeds give no scene twice."""
    for index in count():
        yield _scene(np.random.default_rng([seed, index]), side_px)


def _scene(rng: np.random.Generator, side_px: int) -> MaskScene:
    circles = _circles(rng, int(rng.integers(FEWEST_THINGS, MOST_THINGS + 1)))
    names = rng.choice(list(COLOURS), size=len(circles))
    shades = [pictures._shade(COLOURS[str(name)], rng) for name in names]
    pixels = _ground(shades, rng, side_px)
    masks = []
    for (x, y, radius), shade in zip(circles, shades, strict=True):
        shape = SHAPES[str(rng.choice(list(SHAPES)))]()
        tilt = np.radians(rng.uniform(-20, 20))
        turn = np.array([[np.cos(tilt), np.sin(tilt)], [-np.sin(tilt), np.cos(tilt)]])
        painted, mask = _thing(radius * shape @ turn + [x, y], str(rng.choice(FILLS)), rng, side_px)
        pixels = pixels * (1 - painted[..., None]) + shade * painted[..., None]
        masks.append(mask)
    pixels = pixels + rng.normal(0, rng.uniform(0, 0.03), pixels.shape)
    return MaskScene((pixels.clip(0, 1) * 255).round().astype(np.uint8), np.stack(masks))


def _circles(rng: np.random.Generator, things: int) -> list[tuple[float, float, float]]:
    """Circles (x, y, radius) around the things, which do not overlap."""
    while True:
        circles: list[tuple[float, float, float]] = []
        for _ in range(TRIES):
            radius = float(rng.uniform(*RADII))
            x, y = rng.uniform(radius + 0.02, 1 - radius - 0.02, size=2).tolist()
            if all(np.hypot(x - a, y - b) > radius + other + 0.01 for a, b, other in circles):
                circles.append((x, y, radius))
            if len(circles) == things:
                return circles


def _ground(shades: list[NDArray[np.float64]], rng: np.random.Generator, side_px: int) -> NDArray[np.float64]:
    """A ground from which every shade can be told; of many, the one that differs most from the nearest shade."""
    grounds = [pictures._ground(shades[0], rng, side_px) for _ in range(8)]

    def distance(ground: NDArray[np.float64]) -> float:
        corners = ground[:: side_px - 1, :: side_px - 1].reshape(-1, 3)
        return min(float(np.linalg.norm(corners - shade, axis=1).min()) for shade in shades)

    return max(grounds, key=distance)


def _thing(
    outline: Points, fill: str, rng: np.random.Generator, side_px: int
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """The share of each pixel that is painted, and the mask of the whole thing."""
    fine = side_px * SUPERSAMPLING
    corners = [(float(x), float(y)) for x, y in outline * fine]
    area, edge = Image.new("L", (fine, fine)), Image.new("L", (fine, fine))
    ImageDraw.Draw(area).polygon(corners, fill=1)
    ImageDraw.Draw(edge).line(corners + corners[:2], fill=1, width=max(2, round(EDGE * fine)), joint="curve")
    inside, painted = np.asarray(area) > 0, np.asarray(edge) > 0
    whole = inside | painted
    angle, phase = rng.uniform(0, np.pi), rng.uniform()
    if fill == "solid":
        painted = whole
    elif fill == "striped":
        y, x = np.mgrid[:fine, :fine] / fine
        across = (x * np.cos(angle) + y * np.sin(angle)) / (2 * STRIPE) + phase
        painted = painted | (inside & (across % 1 < 0.5))
    cells = (side_px, SUPERSAMPLING, side_px, SUPERSAMPLING)
    share: NDArray[np.float64] = painted.reshape(cells).mean(axis=(1, 3))
    mask: NDArray[np.bool_] = whole.reshape(cells).mean(axis=(1, 3)) >= 0.5
    return share, mask
