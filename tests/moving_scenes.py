"""Drawn videos: coloured shapes that move across a plain ground, with the box around each in every frame."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from lorabel.demo.pictures import SHAPES
from lorabel.demo.scenes import Scene, Thing
from lorabel.space_contracts import Corners
from lorabel.track_contracts import Keyframe, Track
from tests.video_files import encoded

SIZE = (192, 144)
GROUND = ((170, 175, 180), (185, 190, 195))
SHADES = {"red": (214, 26, 36), "blue": (38, 86, 209), "green": (41, 148, 62), "yellow": (245, 214, 29)}
LEAST_SEEN = 0.25
"""Part of a thing's box that must be in the picture for it to count as seen."""


@dataclass(frozen=True)
class Mover:
    """A shape that moves evenly from one place to the next.

    Args:
        path: (frame, x, y) of its middle, from frame 1 on; fractions of the picture. It may lie outside.
        radius: a fraction of the picture's height.
    """

    colour: str
    shape: str
    path: tuple[tuple[int, float, float], ...]
    radius: float = 0.13

    @property
    def name(self) -> str:
        return f"{self.colour} {self.shape}"

    def thing(self, frame: int) -> Thing:
        """As it is in a frame."""
        frames, x, y = zip(*self.path, strict=True)
        middle = np.array([np.interp(frame, frames, x), np.interp(frame, frames, y)])
        radii = self.radius * np.array([SIZE[1] / SIZE[0], 1.0])
        outline = SHAPES[self.shape]() * radii + middle
        return Thing(self.colour, self.shape, tuple(map(tuple, outline.tolist())), None, SHADES[self.colour])

    def corners(self, frame: int) -> Corners | None:
        """The part of its box in the picture; None if it is not seen."""
        left, top, right, bottom = self.thing(frame).corners
        inside = max(0.0, left), max(0.0, top), min(1.0, right), min(1.0, bottom)
        seen = max(0.0, inside[2] - inside[0]) * max(0.0, inside[3] - inside[1])
        return inside if seen >= LEAST_SEEN * (right - left) * (bottom - top) else None


@dataclass(frozen=True)
class MovingScene:
    """A video of things that move; those that come later are drawn over the others."""

    movers: tuple[Mover, ...]
    frames: int
    frames_per_s: int = 25

    @cached_property
    def video(self) -> bytes:
        """The file."""
        pictures = [self.picture(frame) for frame in range(1, self.frames + 1)]
        return encoded([picture.draw() for picture in pictures], frames_per_s=self.frames_per_s)

    def picture(self, frame: int) -> Scene:
        return Scene(tuple(mover.thing(frame) for mover in self.movers), SIZE, GROUND)

    def tracks(self, labels: Sequence[str]) -> tuple[Track, ...]:
        """The right track of each thing that a label names, with a keyframe in every frame."""
        return tuple(
            Track(label=labels.index(mover.name), keyframes=self._keyframes(mover))
            for mover in self.movers
            if mover.name in labels
        )

    def _keyframes(self, mover: Mover) -> tuple[Keyframe, ...]:
        keyframes: list[Keyframe] = []
        for frame in range(1, self.frames + 1):
            corners = mover.corners(frame)
            if corners is not None:
                keyframes.append(Keyframe(frame=frame, corners=corners))
            elif keyframes and keyframes[-1].is_seen:
                keyframes[-1] = replace_seen(keyframes[-1])
        return tuple(keyframes)


def replace_seen(keyframe: Keyframe) -> Keyframe:
    """The keyframe as the last in which a thing is seen."""
    return keyframe.model_copy(update={"is_seen": False})


CROSSING = MovingScene(
    (
        Mover("red", "circle", ((1, 0.12, 0.3), (300, 0.88, 0.62))),
        Mover("blue", "square", ((1, 0.88, 0.35), (300, 0.12, 0.6))),
        Mover("green", "star", ((1, 0.5, 0.15), (140, 0.5, 0.8), (200, 1.2, 0.8), (300, 1.2, 0.8))),
    ),
    300,
)
"""Three things cross in the middle of the picture; the star then leaves it."""

PAIRS = (("red", "circle"), ("blue", "square"), ("green", "star"), ("yellow", "triangle"))


def random_scenes(seed: int, count: int, frames: int = 50, frames_per_s: int = 25) -> list[MovingScene]:
    """Videos in each of which some of PAIRS move on bent ways, and may leave; the same for the same arguments."""
    rng = np.random.default_rng(seed)
    return [_random_scene(rng, frames, frames_per_s) for _ in range(count)]


def _random_scene(rng: np.random.Generator, frames: int, frames_per_s: int) -> MovingScene:
    chosen = rng.choice(len(PAIRS), int(rng.integers(2, len(PAIRS) + 1)), replace=False)
    movers = tuple(_random_mover(*PAIRS[index], rng, frames) for index in chosen)
    return MovingScene(movers, frames, frames_per_s)


def _random_mover(colour: str, shape: str, rng: np.random.Generator, frames: int) -> Mover:
    places = [(rng.uniform(0.15, 0.85), rng.uniform(0.15, 0.85)) for _ in range(3)]
    if rng.random() < 0.25:
        places[-1] = (float(rng.choice([-0.2, 1.2])), places[-1][1])
    moments = (1, int(rng.integers(frames // 3, 2 * frames // 3)), frames)
    path = tuple((moment, *place) for moment, place in zip(moments, places, strict=True))
    return Mover(colour, shape, path, float(rng.uniform(0.12, 0.2)))
