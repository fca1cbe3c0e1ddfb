"""Sounds in which the truth is known: tones and noise at known moments, in near silence."""

from collections.abc import Sequence

import numpy as np

from tests.audio_files import RATE_HZ, Samples, noise, tone

NAMES = ("hum", "whistle", "hiss")
SHORTEST_S, LONGEST_S = 1.0, 2.0
Marked = tuple[float, float, int]


def drawn_sound(number: int, length_s: float = 6.0) -> tuple[Samples, list[Marked]]:
    """A sound, and (start, end, index of NAMES) of what it has. A hiss may overlap a tone.

    Args:
        number: chooses what is heard when; the same number gives the same sound.
    """
    rng = np.random.default_rng(number)
    marked: list[Marked] = []
    moment = rng.uniform(0.0, 1.0)
    while moment + LONGEST_S < length_s:
        end = moment + rng.uniform(SHORTEST_S, LONGEST_S)
        marked.append((moment, end, int(rng.integers(2))))
        moment = end + rng.uniform(0.6, 1.4)
    start = rng.uniform(0.0, length_s - LONGEST_S)
    marked.append((start, start + rng.uniform(SHORTEST_S, LONGEST_S), 2))
    return mixed(marked, length_s, rng), sorted(marked)


def mixed(marked: Sequence[Marked], length_s: float, rng: np.random.Generator) -> Samples:
    sound = 0.001 * noise(int(rng.integers(10**6)), length_s)
    for start, end, label in marked:
        first, length = round(start * RATE_HZ), end - start
        if label == 2:
            part = 0.5 * noise(int(rng.integers(10**6)), length)
        else:
            part = tone(rng.uniform(150, 400) if label == 0 else rng.uniform(2000, 4000), length)
        sound[first : first + len(part)] += part
    return sound
