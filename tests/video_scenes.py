"""Videos in which the truth is known: coloured things that appear and go, on a plain ground."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from tests.video_files import encoded

NAMES = ("red", "blue", "green")
# At the editor's default rate. Things come and go with a frame.
FRAMES_PER_S = 24
SIDE_PX = 64
SHORTEST_S, LONGEST_S = 0.8, 2.0
SHADES = ((200, 30, 40), (40, 70, 210), (40, 150, 70))
Marked = tuple[float, float, int]
Frame = NDArray[np.uint8]


def drawn_video(
    number: int, length_s: float = 6.0, frames_per_s: int = FRAMES_PER_S
) -> tuple[bytes, list[Marked]]:
    """A video file, and (start, end, index of NAMES) of what it shows. A green thing may be beside another.

    Args:
        number: chooses what is seen when; the same number gives the same video.
        frames_per_s: of the file.
    """
    rng = np.random.default_rng(number)
    marked: list[Marked] = []
    moment = rng.uniform(0.0, 1.0)
    while moment + LONGEST_S < length_s:
        end = moment + rng.uniform(SHORTEST_S, LONGEST_S)
        marked.append((moment, end, int(rng.integers(2))))
        moment = end + rng.uniform(0.4, 1.2)
    start = rng.uniform(0.0, length_s - LONGEST_S)
    marked.append((start, start + rng.uniform(SHORTEST_S, LONGEST_S), 2))
    marked = [
        (round(start * frames_per_s) / frames_per_s, round(end * frames_per_s) / frames_per_s, label)
        for start, end, label in marked
    ]
    frames = drawn_frames(marked, round(length_s * frames_per_s), frames_per_s, rng)
    return encoded(frames, frames_per_s=frames_per_s, keyframe_every=frames_per_s), sorted(marked)


def drawn_frames(marked: Sequence[Marked], count: int, frames_per_s: int, rng: np.random.Generator) -> list[Frame]:
    ground = tuple(int(level) for level in rng.integers(90, 170, 3))
    places = [_place(rng, label) for _, _, label in marked]
    frames = []
    for number in range(count):
        picture = Image.new("RGB", (SIDE_PX, SIDE_PX), ground)
        draw = ImageDraw.Draw(picture)
        for (start, end, label), (x, y, radius) in zip(marked, places, strict=True):
            if start - 1e-9 <= number / frames_per_s < end - 1e-9:
                draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=SHADES[label])
        frames.append(np.asarray(picture))
    return frames


def _place(rng: np.random.Generator, label: int) -> tuple[float, float, float]:
    """Middle and radius in pixels. Green things are in the lower half, the others in the upper."""
    x, y, radius = rng.uniform(16, 48), rng.uniform(14, 20), rng.uniform(9, 13)
    return x, y + (SIDE_PX - 34 if label == 2 else 0), radius
