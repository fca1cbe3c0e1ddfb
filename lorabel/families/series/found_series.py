"""Turns the logits of windows into segments of a series. NumPy only.

Of all ways to switch a label on and off, the likeliest is taken, where each switch costs SWITCH: neighbours are
much alike, and without the cost a segment falls into pieces. A label for instants is found where it is likeliest.
"""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lorabel.families.encoders.heads.platt import Scale, scaled
from lorabel.families.series.cells import Cells
from lorabel.families.series.windows import HOP, Float32
from lorabel.series_contracts import FoundSegment, SeriesScores

# In units of the logit.
SWITCH = 7.0


class Run(NamedTuple):
    """Windows in which a label is on.

    Args:
        start, end: first window, and the one after the last. Of an instant both are its place, which may be
            between the middles of two windows.
        probability: that the label fits there.
    """

    start: float
    end: float
    label: int
    probability: float


def found_series(
    logits: Float32,
    cells: Cells,
    is_instant: Sequence[bool],
    switch: float = SWITCH,
    scales: Sequence[Scale] = (),
) -> SeriesScores:
    """Return the segments of each label.

    Args:
        logits: (windows, labels).
        cells: of the series.
        is_instant: of each label, whether it marks instants.
        switch: what it costs to switch a label on or off.
        scales: calibrate the scores of each label, see `LinearHead.score_scales`.
    """
    probabilities = _sigmoid(logits)
    segments: list[FoundSegment] = []
    for run in found_runs(logits, is_instant, switch):
        place = _instant(run) if is_instant[run.label] else _range(run, probabilities[:, run.label], cells)
        if place is not None:
            first, last = (float(cells.times[cell]) for cell in place)
            probability = scaled(run.probability, scales, run.label)
            segments.append(FoundSegment(start=first, end=last, label=run.label, probability=probability))
    segments.sort(key=lambda segment: (segment.start, segment.end, segment.label))
    surest = float(probabilities.max(initial=0.0))
    return SeriesScores(segments=tuple(segments), step=cells.step, no_segment_probability=1 - surest)


def found_runs(logits: Float32, is_instant: Sequence[bool], switch: float = SWITCH) -> Iterator[Run]:
    """Yield where each label is on; see `found_series`."""
    probabilities, is_on = _sigmoid(logits), _likeliest(logits, switch)
    for label, of_instants in enumerate(is_instant):
        column = probabilities[:, label]
        for first, after in _runs(column >= 0.5 if of_instants else is_on[:, label]):
            within = column[first:after]
            if of_instants:
                place = first + float(np.flatnonzero(within >= within.max() - 1e-6).mean())
                yield Run(place, place, label, float(within.max()))
            else:
                yield Run(first, after, label, float(within.mean()))


def marked_runs(shares: Float32, is_instant: Sequence[bool]) -> Iterator[Run]:
    """Yield where annotators have marked each label.

    Args:
        shares: (windows, labels), see `window_shares`.
        is_instant: of each label, whether it marks instants.
    """
    for label, of_instants in enumerate(is_instant):
        for first, after in _runs(shares[:, label] >= 0.5):
            middle = (first + after - 1) / 2
            yield Run(middle, middle, label, 1.0) if of_instants else Run(first, after, label, 1.0)


def _sigmoid(logits: Float32) -> Float32:
    return np.asarray(0.5 * (1 + np.tanh(0.5 * logits)), np.float32)


def _likeliest(logits: Float32, switch: float) -> NDArray[np.bool_]:
    """(windows, labels): the sequence of on and off with the largest sum of logits and costs (Viterbi)."""
    windows, labels = logits.shape
    gains = logits.astype(np.float64)
    comes_from_on = np.zeros((windows, 2, labels), np.bool_)
    off, on = np.zeros_like(gains[0]), gains[0]
    for window in range(1, windows):
        comes_from_on[window, 0] = on - switch > off
        comes_from_on[window, 1] = on >= off - switch
        off, on = np.maximum(off, on - switch), np.maximum(on, off - switch) + gains[window]
    is_on = np.zeros((windows, labels), np.bool_)
    state = on > off
    for window in range(windows - 1, -1, -1):
        is_on[window] = state
        state = np.where(state, comes_from_on[window, 1], comes_from_on[window, 0])
    return is_on


def _runs(is_on: NDArray[np.bool_]) -> Iterator[tuple[int, int]]:
    """(first, after the last) window of each run."""
    changes = np.flatnonzero(np.diff(np.concatenate([[False], is_on, [False]]).astype(np.int8)))
    yield from zip(changes[::2].tolist(), changes[1::2].tolist(), strict=True)


def _instant(run: Run) -> tuple[int, int]:
    """The cell of an instant, twice."""
    cell = round(_middle(run.start))
    return cell, cell


def _range(run: Run, column: Float32, cells: Cells) -> tuple[int, int] | None:
    """The first and the last cell of a segment, the last at a later time; None if there is none.

    Args:
        column: (windows,): probabilities of its label.
    """
    first, after, last_cell = round(run.start), round(run.end), len(cells.times) - 1
    start = 0 if first == 0 else math.ceil(_middle(_crossing(column, first - 1)))
    end = last_cell if after == len(column) else math.floor(_middle(_crossing(column, after - 1)))
    if start > end:
        return None
    start, end = _with_length(start, end, cells)
    return (start, end) if cells.times[start] < cells.times[end] else None


def _with_length(start: int, end: int, cells: Cells) -> tuple[int, int]:
    """A range that goes on to the next time, or begins at the one before, if start and end are at one time."""
    if cells.times[start] < cells.times[end]:
        return start, end
    later = int(np.searchsorted(cells.times, cells.times[end], "right"))
    if later < len(cells.times):
        return start, later
    return max(0, int(np.searchsorted(cells.times, cells.times[start], "left")) - 1), end


def _middle(window: float) -> float:
    """The cell at a place in windows, where a whole number is the middle of a window."""
    return window * HOP + (HOP - 1) / 2


def _crossing(column: Float32, window: int) -> float:
    """Where a label goes on or off between a window and the next, in windows: at a half, or in the middle."""
    before, after = float(column[window]), float(column[window + 1])
    if (before >= 0.5) == (after >= 0.5):
        return window + 0.5
    return window + (0.5 - before) / (after - before)
