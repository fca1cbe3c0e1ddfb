import numpy as np

from lorabel.families.series.cells import GAP_STEPS, MOST_CELLS, Cells, cells_of
from lorabel.media.series import Series


def cells(times: list[float], values: list[float]) -> Cells:
    return cells_of(Series(np.array(times), np.array(values)[:, None]))


def test_even_points_are_cells() -> None:
    found = cells([5.0, 7.0, 9.0], [1.0, 4.0, 2.0])
    assert found.times.tolist() == [5.0, 7.0, 9.0] and found.step == 2.0
    assert found.mean[:, 0].tolist() == found.least[:, 0].tolist() == found.most[:, 0].tolist() == [1.0, 4.0, 2.0]
    assert not found.missing.any()


def test_a_gap_counts_as_a_few_cells_and_is_known_to_be_one() -> None:
    found = cells([0.0, 1.0, 2.0, 1000.0, 1001.0], [0.0, 0.0, 0.0, 8.0, 8.0])
    assert len(found.times) == 4 + GAP_STEPS
    assert set(found.times) == {0.0, 1.0, 2.0, 1000.0, 1001.0}, "each is the time of a point"
    assert np.diff(found.mean[2:11, 0]).tolist() == [1.0] * 8, "and values are interpolated"
    assert found.missing[:, 0].tolist() == [False] * 3 + [True] * 7 + [False] * 2


def test_missing_values_are_interpolated() -> None:
    found = cells([0.0, 1.0, 2.0, 3.0], [float("nan"), 1.0, float("nan"), 3.0])
    assert found.mean[:, 0].tolist() == [1.0, 1.0, 2.0, 3.0]
    assert found.missing[:, 0].tolist() == [True, False, True, False]


def test_a_long_series_has_no_more_cells_and_keeps_its_extremes() -> None:
    values = np.zeros(100_000)
    values[77_777] = 9.0
    found = cells_of(Series(np.arange(100_000.0), values[:, None]))
    assert len(found.times) == MOST_CELLS
    (peak,) = np.flatnonzero(found.most[:, 0] == 9.0)
    assert abs(found.times[peak] - 77_777) <= 100_000 / MOST_CELLS
    assert 0 < found.mean[peak, 0] < 9.0 and found.least.max() == 0.0


def test_points_at_one_time_and_a_single_point_are_read() -> None:
    assert len(cells([3.0, 3.0, 3.0], [1.0, 2.0, 3.0]).times) == 3
    assert cells([3.0], [1.0]).times.tolist() == [3.0]


def test_a_time_between_cells_means_the_cells_around_it() -> None:
    found = cells([0.0, 1.0, 2.0, 3.0], [0.0] * 4)
    assert (found.first(0.5), found.last(2.5)) == (1, 2)
    assert (found.first(-9.0), found.last(9.0), found.first(9.0), found.last(-9.0)) == (0, 3, 3, 0)
