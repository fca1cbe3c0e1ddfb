"""Windows of cells: their features, and what is right about each of them. NumPy and SciPy only.

A window is HOP cells. Its features say what the series does in and around it, at several scales: levels, noise,
extremes, steps, how the level differs from that around, and how much there is of oscillations of several lengths.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import maximum_filter1d, minimum_filter1d, uniform_filter1d

from lorabel.families.series.cells import Cells
from lorabel.series_contracts import SeriesSegment

Features = NDArray[np.float16]
Float32 = NDArray[np.float32]

HOP = 2
# Widths in cells.
SCALES = (3, 7, 15, 31, 63)
# Distances, in cells, at which oscillations are looked for, and over how many of these distances they are
# averaged.
DISTANCES, AVERAGED = (1, 2, 4, 8), (3, 9)
# Features are standard deviations from the mean of a series; more says nothing.
LARGEST = 30.0
# Values further from the median, in units of the spread, are taken for this far: their squares must be finite.
OUTLIER = 1e4
# An instant is learned as so many cells before and after it.
INSTANT_CELLS = 3
# Most windows of a series that a head learns from.
MOST_LEARNED = 1500


def window_features(cells: Cells) -> Features:
    """Return (windows, dim) float16."""
    centre = np.median(cells.mean, axis=0)
    low, high = np.percentile(cells.mean, [10, 90], axis=0)
    spread = np.where(high > low, high - low, np.ptp(cells.mean, axis=0)) / 2.5
    spread[spread <= 0] = 1.0
    with np.errstate(over="ignore"):  # infinity is an outlier, too
        mean, least, most = (
            np.clip((part - centre) / spread, -OUTLIER, OUTLIER).astype(np.float32)
            for part in (cells.mean, cells.least, cells.most)
        )
    statistics = _in_windows(_statistics(mean, least, most))
    deviations = _standardized(statistics)
    gaps = _in_windows(uniform_filter1d(cells.missing.astype(np.float32), 9, axis=0, mode="nearest"))
    levels = _in_windows(np.arcsinh(cells.mean).astype(np.float32))
    features = np.concatenate([deviations, gaps, levels], axis=1)
    return np.clip(features, -LARGEST, LARGEST).astype(np.float16)


def feature_count(channels: int) -> int:
    """Return the number of features of a window."""
    return channels * (1 + 8 * len(SCALES) + len(DISTANCES) * len(AVERAGED) + 2)


def window_shares(cells: Cells, segments: Sequence[SeriesSegment], labels: int) -> Float32:
    """Return (windows, labels) in [0, 1]: the share of each window's cells that segments of a label cover.

    Segments outside the series cover nothing.
    """
    covered = np.zeros((len(cells.times), labels), np.float32)
    for start, end, label in segments:
        if not cells.has_any_of(start, end):
            continue
        first, last = cells.first(start), cells.last(end)
        first, last = min(first, last), max(first, last)
        if start == end:
            first, last = max(0, first - INSTANT_CELLS), last + INSTANT_CELLS
        covered[first : last + 1, label] = 1.0
    return _in_windows(covered)


def learned_windows(shares: Float32) -> NDArray[np.intp]:
    """Return the windows that a head learns from: all, or MOST_LEARNED, half of them in or near segments.

    Args:
        shares: see `window_shares`.
    """
    if len(shares) <= MOST_LEARNED:
        return np.arange(len(shares))
    near = np.flatnonzero(maximum_filter1d(shares.max(axis=1), 9) > 0)
    even = np.arange(len(shares))
    chosen = [_spread(near, MOST_LEARNED // 2), _spread(even, MOST_LEARNED // 2)]
    return np.asarray(np.unique(np.concatenate(chosen)))


def _spread(windows: NDArray[np.intp], most: int) -> NDArray[np.intp]:
    return windows[:: max(1, -(-len(windows) // most))]


def _statistics(mean: Float32, least: Float32, most: Float32) -> Float32:
    """(cells, channels * statistics)."""
    changes = np.abs(np.diff(mean, axis=0, prepend=mean[:1])) + (most - least)
    parts = [mean]
    for width in SCALES:
        level = _mean(mean, width)
        noise = np.sqrt(np.maximum(_mean(mean * mean, width) - level * level, 0.0))
        step = _moved(level, width // 2 + 1) - _moved(level, -(width // 2) - 1)
        above = maximum_filter1d(most, width, axis=0, mode="nearest") - level
        below = level - minimum_filter1d(least, width, axis=0, mode="nearest")
        around = level - _mean(mean, 4 * width + 1)
        parts += [level, noise, _mean(changes, width), above, below, step, np.abs(step), around]
    for distance in DISTANCES:
        bend = np.abs(_moved(mean, distance) - 2 * mean + _moved(mean, -distance))
        parts += [_mean(bend, times * distance + 1) for times in AVERAGED]
    return np.concatenate(parts, axis=1)


def _mean(values: Float32, width: int) -> Float32:
    """The mean of `width` cells around each. The first and the last cell are repeated beyond the ends."""
    sums = uniform_filter1d(values, width, axis=0, mode="nearest", output=np.float64)
    return np.asarray(sums, np.float32)


def _moved(values: Float32, by: int) -> Float32:
    """The values `by` cells later."""
    return values[np.clip(np.arange(len(values)) + by, 0, len(values) - 1)]


def _in_windows(values: Float32) -> Float32:
    """The mean of each window, (windows, columns); the last window may have fewer cells."""
    starts = np.arange(0, len(values), HOP)
    counts = np.diff(np.append(starts, len(values)))
    return np.asarray(np.add.reduceat(values, starts, axis=0) / counts[:, None], np.float32)


def _standardized(statistics: Float32) -> Float32:
    deviation = statistics.std(axis=0)
    deviation[deviation < 1e-6] = 1.0
    return np.asarray((statistics - statistics.mean(axis=0)) / deviation, np.float32)
