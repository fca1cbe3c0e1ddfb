"""Cells: a series with uneven steps and missing values as even parts of its time. NumPy only.

A cell is as long as the median step from a point to the next, or longer in a long series, so that no series has
more than MOST_CELLS. A gap counts as no more than GAP_STEPS steps: a night without measurements is no thousand
cells.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from lorabel.media.series import Float64, Series

MOST_CELLS = 8192
GAP_STEPS = 8.0


@dataclass(frozen=True)
class Cells:
    """A series in cells.

    Args:
        times: (cells,) never falling: the time of a point in each cell, or of the nearest point if there is none.
        mean: (cells, channels): the value in the middle of each cell, interpolated; the mean in the cell where a
            cell has several points.
        least, most: (cells, channels): the smallest and the largest value in each cell.
        missing: (cells, channels) bool: where there is no value.
        step: the median time from a point to the next.
    """

    times: Float64
    mean: Float64
    least: Float64
    most: Float64
    missing: NDArray[np.bool_]
    step: float

    def first(self, start: float) -> int:
        """Return the first cell at or after a time, or the last cell."""
        return min(int(np.searchsorted(self.times, start, "left")), len(self.times) - 1)

    def last(self, end: float) -> int:
        """Return the last cell at or before a time, or the first cell."""
        return max(int(np.searchsorted(self.times, end, "right")) - 1, 0)

    def has_any_of(self, start: float, end: float) -> bool:
        """Return whether the series has a part of a span of time.

        A step after the last cell belongs to it: the last point may share the cell of the one before.
        """
        return bool(end >= self.times[0] and start <= self.times[-1] + self.step)

    @cached_property
    def nbytes(self) -> int:
        """Bytes in memory."""
        arrays = (self.times, self.mean, self.least, self.most, self.missing)
        return sum(array.nbytes for array in arrays)


def cells_of(series: Series) -> Cells:
    """Divide a series into cells."""
    steps = np.diff(series.times)
    rising = steps[steps > 0]
    step = float(np.median(rising)) if len(rising) else 1.0
    if not len(rising):
        steps = np.ones_like(steps)
    moments = np.concatenate([[0.0], np.cumsum(np.minimum(steps / step, GAP_STEPS))])
    size = max(1.0, moments[-1] / (MOST_CELLS - 1))
    count = int(moments[-1] / size + 0.5) + 1
    cell_of = (moments / size + 0.5).astype(np.intp)
    middles = size * np.arange(count)
    after = np.minimum(np.searchsorted(moments, middles), len(moments) - 1)
    before = np.maximum(after - 1, 0)
    is_before = middles - moments[before] < np.abs(moments[after] - middles)
    times = series.times[np.where(is_before, before, after)]
    columns = [_aggregated(column, moments / size, cell_of, count) for column in series.values.T]
    mean, least, most = (np.stack(parts, axis=1) for parts in list(zip(*columns, strict=True))[:3])
    missing = np.stack([column[3] for column in columns], axis=1)
    return Cells(times, mean, least, most, missing, step)


def _aggregated(
    values: Float64, moments: Float64, cell_of: NDArray[np.intp], count: int
) -> tuple[Float64, Float64, Float64, NDArray[np.bool_]]:
    """Mean, least and most of each cell, and where there is no value, each (cells,).

    Args:
        moments: of the points, in cells.
        cell_of: the cell of each point.
    """
    is_value = ~np.isnan(values)
    cells, present = cell_of[is_value], values[is_value]
    counts = np.bincount(cells, minlength=count)
    starts = np.flatnonzero(np.diff(cells, prepend=-1))
    filled = cells[starts]
    if len(values) > MOST_CELLS:
        mean = np.interp(np.arange(count), filled, np.bincount(cells, present, count)[filled] / counts[filled])
    else:
        mean = np.interp(np.arange(count), moments[is_value], present)
    least, most = mean.copy(), mean.copy()
    least[filled] = np.minimum(np.minimum.reduceat(present, starts), mean[filled])
    most[filled] = np.maximum(np.maximum.reduceat(present, starts), mean[filled])
    return mean, least, most, counts == 0
