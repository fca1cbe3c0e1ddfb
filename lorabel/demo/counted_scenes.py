"""Drawn scenes to caption and to ask about: one or two kinds of things, at most four things together.

A kind is a colour, a shape and how often it is there, such as two red circles. The demo's captioner was trained on
such scenes, without the pairs of colour and shape in `UNSEEN_PAIRS`.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from lorabel.demo.scenes import ALL_PAIRS, UNSEEN_PAIRS, Scene, Thing, place, random_ground, scene_of

SIDE_PX = 96
MOST_OF_A_KIND = 4
# How many of the first and of the second kind there are.
COUNTS = ((1, 0), (2, 0), (3, 0), (4, 0), (1, 1), (2, 1), (3, 1), (2, 2), (1, 1), (2, 1))


@dataclass(frozen=True, slots=True)
class Kind:
    """Things of a scene that look the same.

    Attributes:
        count: from 1 to `MOST_OF_A_KIND`.
    """

    count: int
    colour: str
    shape: str


def kinds(scene: Scene) -> tuple[Kind, ...]:
    """What is in a scene: the most frequent kind first, then by colour and shape, in the order of the alphabet."""
    counts = Counter((thing.colour, thing.shape) for thing in scene.things)
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return tuple(Kind(count, colour, shape) for (colour, shape), count in ordered)


def counted_scenes(seed: int, is_unseen: bool | None = False, side_px: int = SIDE_PX) -> Iterator[Scene]:
    """Endless square scenes; the same for the same arguments.

    Args:
        is_unseen: True for things of `UNSEEN_PAIRS` only, False for the other pairs only, None for all pairs.
    """
    rng = np.random.default_rng(seed)
    pairs = [pair for pair in ALL_PAIRS if is_unseen is None or (pair in UNSEEN_PAIRS) is is_unseen]
    while True:
        counts = COUNTS[int(rng.integers(len(COUNTS)))]
        chosen = rng.choice(len(pairs), 2, replace=False)
        scene = _scene(
            [(pairs[int(pair)], count) for pair, count in zip(chosen, counts, strict=True)], side_px, rng
        )
        if scene is not None:
            yield scene


def _scene(wanted: list[tuple[tuple[str, str], int]], side_px: int, rng: np.random.Generator) -> Scene | None:
    """A scene with exactly the wanted things; None if one of them found no place."""
    ground, size = random_ground(rng), (side_px, side_px)
    things: list[Thing] = []
    for pair, count in wanted:
        for _ in range(count):
            thing = place([pair], size, ground, things, rng)
            if thing is None:
                return None
            things.append(thing)
    return scene_of(things, size, ground)
