"""Series in which the truth is known: events at known moments of two channels, with uneven steps and gaps.

A plateau of `load` is a step, a fast oscillation of `flow` is a burst, a peak of a point or two in `load` is a
spike, which has a moment and no length. Dips of `load` and slow oscillations of `flow` are no events. Both
channels drift, and `load` is of another size in every series.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

NAMES = ("step", "burst", "spike")
STEP, BURST, SPIKE = range(3)
COLUMNS = ("load", "flow")
# What happens between events: a dip, a slow oscillation.
DIP, SWAY = 3, 4
Marked = tuple[float, float, int]


@dataclass(frozen=True)
class DrawnSeries:
    """A series.

    Args:
        times: (points,) seconds from the beginning, rising by uneven steps of about a second.
        values: (points, len(COLUMNS)); NaN is a missing value.
        events: (start, end, index of NAMES) in seconds. The start of a spike is its end.
    """

    times: NDArray[np.float64]
    values: NDArray[np.float64]
    events: tuple[Marked, ...]

    def csv(self, times: list[str] | None = None, sep: str = ",") -> bytes:
        """The series as a file with the columns `time`, `load` and `flow`; missing values are empty.

        Args:
            times: what is in the first column; None for the seconds.
        """
        column = times or [f"{moment:.3f}" for moment in self.times]
        rows = [
            sep.join([moment, *("" if np.isnan(value) else f"{value:.4f}" for value in values)])
            for moment, values in zip(column, self.values, strict=True)
        ]
        return "\n".join([sep.join(("time", *COLUMNS)), *rows, ""]).encode()


def drawn_series(number: int, points: int = 600) -> DrawnSeries:
    """Draw a series.

    Args:
        number: chooses what happens when; the same number gives the same series.
    """
    rng = np.random.default_rng(number)
    steps = rng.lognormal(0.0, 0.3, points)
    for gap in rng.integers(1, points, 2):
        steps[gap] += rng.uniform(10, 60)
    times = np.cumsum(steps) - steps[0]
    noise = rng.normal(size=(points, 2))
    values = 0.25 * noise + 0.06 * np.cumsum(rng.normal(size=(points, 2)), axis=0)
    events = [
        *_placed(values[:, 0], (STEP, DIP), rng),
        *_placed(values[:, 1], (BURST, SWAY), rng),
        *_spikes(values[:, 0], rng),
    ]
    values[:, 0] *= rng.uniform(0.5, 2.0)
    values += np.array([20.0, 0.0])
    for _ in range(2):
        first = int(rng.integers(points - 10))
        values[first : first + 5, int(rng.integers(2))] = np.nan
    marked = [(float(times[first]), float(times[last]), kind) for first, last, kind in events if kind < DIP]
    return DrawnSeries(times, values, tuple(sorted(marked)))


def _placed(
    channel: NDArray[np.float64], kinds: tuple[int, int], rng: np.random.Generator
) -> list[tuple[int, int, int]]:
    """Put events of the two kinds into a channel, as (first point, last point, kind)."""
    events = []
    first = int(rng.integers(20, 100))
    while (last := first + int(rng.integers(25, 70))) < len(channel) - 10:
        kind = int(rng.choice(kinds))
        points = np.arange(last - first + 1)
        if kind in (STEP, DIP):
            channel[first : last + 1] += rng.uniform(1.2, 2.0) * (1 if kind == STEP else -1)
        else:
            period = rng.uniform(4, 7) if kind == BURST else rng.uniform(20, 30)
            channel[first : last + 1] += rng.uniform(0.6, 1.0) * np.sin(2 * np.pi * points / period)
        events.append((first, last, kind))
        first = last + int(rng.integers(40, 120))
    return events


def _spikes(channel: NDArray[np.float64], rng: np.random.Generator) -> list[tuple[int, int, int]]:
    events = []
    for first in rng.choice(len(channel) // 40 - 1, 3, replace=False) * 40 + int(rng.integers(10, 40)):
        channel[first : first + int(rng.integers(1, 3))] += rng.uniform(1.8, 3.0)
        events.append((int(first), int(first), SPIKE))
    return events


def burst(begins: float, points: int) -> bytes:
    """A file without a header: seconds, and zeros with an oscillation in a half of them.

    Args:
        begins: where the oscillation begins, as a fraction of the length.
    """
    first = round(begins * points)
    values = [float(first <= row < first + points // 2 and row % 4 < 2) for row in range(points)]
    return "".join(f"{row},{value}\n" for row, value in enumerate(values)).encode()
