"""Drawn clips of things that move, cross and leave, with the mask of each: what the demo's tracker learns from.

The things are those of `lorabel.demo.mask_scenes`, solid or outlined. Some look like another one. A mask is what
is seen of a thing, so it is empty where the thing has left the picture or is behind another one.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count

import numpy as np
from numpy.typing import NDArray

from lorabel.demo import pictures
from lorabel.demo.mask_scenes import _ground, _thing
from lorabel.demo.pictures import COLOURS, SHAPES, Points

FEWEST_THINGS, MOST_THINGS = 1, 4
RADII = (0.09, 0.2)
"""Lowest and highest radius of a thing, as a share of the picture's side."""
ASPECTS = (0.6, 1.1)
"""Lowest and highest width of a thing by its height: videos are wide, and are made square."""
MOST_SPEED = 0.25
"""Of a thing, in sides of the picture from one frame to the next: few frames of a second are looked at."""
MOST_TURN = 0.5
"""Of the way of a thing from one frame to the next, in radians."""
LEAVES = 0.3
"""Share of the things that go on at the picture's edge; the others turn round."""
ALIKE, SAME_COLOUR = 0.1, 0.25
"""Share of the things that look just like the one before, and of those that have its colour at least."""
OUTLINED = 0.2


@dataclass(frozen=True)
class Clip:
    """Frames and what is seen in them.

    Attributes:
        pixels: (frames, side, side, 3) uint8 RGB.
        masks: (things, frames, side, side) bool.
    """

    pixels: NDArray[np.uint8]
    masks: NDArray[np.bool_]


@dataclass(frozen=True)
class _Mover:
    """A thing: its outline around (0, 0), its shade and fill, and (frames, 2) the places of its middle."""

    outline: Points
    shade: NDArray[np.float64]
    fill: str
    places: NDArray[np.float64]


def moving_clips(seed: int, side_px: int, frames: int) -> Iterator[Clip]:
    """Endless clips. The same arguments always give the same clips; two seeds give no clip twice."""
    for index in count():
        yield _clip(np.random.default_rng([seed, index]), side_px, frames)


def _clip(rng: np.random.Generator, side_px: int, frames: int) -> Clip:
    movers: list[_Mover] = []
    for _ in range(rng.integers(FEWEST_THINGS, MOST_THINGS + 1)):
        movers.append(_mover(rng, frames, movers[-1] if movers else None))
    ground = _ground([mover.shade for mover in movers], rng, side_px)
    noise = rng.uniform(0, 0.03)
    pixels = np.zeros((frames, side_px, side_px, 3), np.uint8)
    masks = np.zeros((len(movers), frames, side_px, side_px), bool)
    for frame in range(frames):
        picture = ground
        for index, mover in enumerate(movers):
            painted, mask = _thing(mover.outline + mover.places[frame], mover.fill, rng, side_px)
            picture = picture * (1 - painted[..., None]) + mover.shade * painted[..., None]
            masks[:index, frame] &= ~mask
            masks[index, frame] = mask
        picture = picture + rng.normal(0, noise, picture.shape)
        pixels[frame] = (picture.clip(0, 1) * 255).round()
    return Clip(pixels, masks)


def _mover(rng: np.random.Generator, frames: int, before: _Mover | None) -> _Mover:
    places = _places(rng, frames)
    chance = rng.random()
    if before is not None and chance < ALIKE:
        return _Mover(before.outline, before.shade, before.fill, places)
    shade = pictures._shade(COLOURS[str(rng.choice(list(COLOURS)))], rng)
    if before is not None and chance < ALIKE + SAME_COLOUR:
        shade = before.shade
    tilt, radius = np.radians(rng.uniform(-20, 20)), rng.uniform(*RADII)
    turn = np.array([[np.cos(tilt), np.sin(tilt)], [-np.sin(tilt), np.cos(tilt)]])
    outline = radius * SHAPES[str(rng.choice(list(SHAPES)))]() @ turn * [rng.uniform(*ASPECTS), 1.0]
    return _Mover(outline, shade, "outlined" if rng.random() < OUTLINED else "solid", places)


def _places(rng: np.random.Generator, frames: int) -> NDArray[np.float64]:
    """(frames, 2): a bent way, in the picture half way through at least."""
    angle, speed = rng.uniform(0, 2 * np.pi), rng.uniform(0, MOST_SPEED)
    angles = angle + np.cumsum(rng.uniform(-MOST_TURN, MOST_TURN, frames) * rng.random())
    steps = speed * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    places = np.cumsum(steps, axis=0)
    moved: NDArray[np.float64] = places - places[frames // 2] + rng.uniform(0.1, 0.9, 2)
    return moved if rng.random() < LEAVES else 1 - np.abs(1 - moved % 2)
