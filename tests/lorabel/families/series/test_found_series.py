import itertools

import numpy as np
import pytest

from lorabel.families.series.cells import Cells, cells_of
from lorabel.families.series.found_series import SWITCH, _likeliest, found_series
from lorabel.families.series.windows import HOP, window_shares
from lorabel.media.series import Series


def cells(count: int) -> Cells:
    return cells_of(Series(100.0 + np.arange(count), np.zeros((count, 1))))


def test_what_is_on_is_the_likeliest_of_all_sequences() -> None:
    random = np.random.default_rng(0)
    for _ in range(20):
        logits = random.normal(scale=6.0, size=(9, 1)).astype(np.float32)
        sequences = np.array(list(itertools.product([0, 1], repeat=9)))
        sums = sequences @ logits[:, 0] - SWITCH * np.abs(np.diff(sequences)).sum(axis=1)
        assert _likeliest(logits, SWITCH)[:, 0].tolist() == sequences[sums.argmax()].astype(bool).tolist()


@pytest.mark.parametrize(("start", "end"), [(100, 119), (111, 130), (112, 131), (150, 199)])
def test_segments_come_back_from_what_is_right_about_their_windows(start: int, end: int) -> None:
    shares = window_shares(cells(100), [(float(start), float(end), 0)], 1)
    logits = np.log((shares + 1e-3) / (1 + 1e-3 - shares)).astype(np.float32)
    (found,) = found_series(logits, cells(100), [False]).segments
    assert abs(found.start - start) <= 1 and abs(found.end - end) <= 1
    assert found.probability > 0.9


def test_an_instant_comes_back_as_an_instant() -> None:
    shares = window_shares(cells(100), [(150.0, 150.0, 0)], 1)
    logits = np.log((shares + 1e-3) / (1 + 1e-3 - shares)).astype(np.float32)
    (found,) = found_series(logits, cells(100), [True]).segments
    assert found.start == found.end and abs(found.start - 150) <= 1


@pytest.mark.parametrize("times", [[0, 1, 2, 3, 4], [0, 1, 900, 901, 902], [0, 900, 900, 900, 901]])
@pytest.mark.parametrize("window", [0, 1, 2, 5])
def test_a_label_of_ranges_is_never_found_as_an_instant(times: list[float], window: int) -> None:
    """The editor shows a range without length as an instant. Several cells may have the time of one point."""
    found_in = cells_of(Series(np.array(times, float), np.zeros((5, 1))))
    logits = np.full((-(-len(found_in.times) // HOP), 1), -20.0, np.float32)
    logits[min(window, len(logits) - 1)] = 20.0
    (found,) = found_series(logits, found_in, [False]).segments
    assert found.start < found.end and {found.start, found.end} <= set(times)


def test_in_a_series_of_one_moment_there_is_no_range() -> None:
    found_in = cells_of(Series(np.full(5, 3.0), np.zeros((5, 1))))
    assert found_series(np.full((3, 1), 20.0, np.float32), found_in, [False]).segments == ()


def test_labels_may_overlap_and_where_none_is_likely_there_is_no_segment() -> None:
    logits = np.full((50, 3), -3.0, np.float32)
    logits[10:20, 0] = logits[15:30, 1] = 3.0
    output = found_series(logits, cells(100), [False] * 3)
    assert [segment.label for segment in output.segments] == [0, 1]
    assert output.step == 1.0
    silent = found_series(np.full((50, 3), -3.0, np.float32), cells(100), [False, True, False])
    assert silent.segments == () and silent.no_segment_probability == pytest.approx(1 - 0.0474, abs=1e-3)
