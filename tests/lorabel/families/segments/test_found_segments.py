import numpy as np
import pytest

from lorabel.families.segments.found_segments import found_segments
from lorabel.families.segments.windows import count_windows, window_shares
from lorabel.time_contracts import STEP_S, SegmentTarget, TimedLabel


def spans(probabilities: list[list[float]], length_s: float) -> list[TimedLabel]:
    """The segments for the probabilities of each label, window after window."""
    output = found_segments(np.array(probabilities, np.float32).T, STEP_S).within(length_s, length_s)
    return [(round(found.start_s, 6), round(found.end_s, 6), found.label) for found in output.segments]


def test_boundaries_are_where_the_probability_crosses_a_half() -> None:
    """Between 0.25 s and 0.5 s it rises from 0 to 1, and between 0.75 s and 1 s it falls from 1 to 0.2."""
    assert spans([[0, 0, 1, 1, 0.2, 0]], 1.25) == [(0.375, 0.90625, 0)]


def test_a_segment_may_begin_with_the_sound_and_end_with_it() -> None:
    assert spans([[1, 1, 1, 1]], 0.9) == [(0.0, 0.9, 0)]
    assert spans([[1, 1, 0, 1]], 0.9) == [(0.0, 0.375, 0), (0.625, 0.9, 0)]


def test_segments_of_several_labels_may_overlap() -> None:
    assert spans([[1, 1, 0, 0], [0, 1, 1, 0]], 0.75) == [(0.0, 0.375, 0), (0.125, 0.625, 1)]


def test_nothing_is_found_where_no_probability_reaches_a_half() -> None:
    output = found_segments(np.array([[0.1], [0.4], [0.3]], np.float32), STEP_S)
    assert output.segments == () and output.no_segment_probability == pytest.approx(0.6)
    assert found_segments(np.zeros((0, 2), np.float32), STEP_S).segments == ()


def test_the_expected_overlap_is_that_of_what_is_found_with_what_is_there_by_the_probabilities() -> None:
    rng = np.random.default_rng(0)
    chances = rng.uniform(0, 1, (40, 2)).astype(np.float32)
    drawn = rng.uniform(0, 1, (20_000, *chances.shape)) < chances
    found = chances >= 0.5
    expected = (2 * (drawn & found).sum((1, 2)) + 1).mean() / (drawn.sum((1, 2)) + found.sum() + 1).mean()
    assert found_segments(chances, STEP_S).expected_overlap == pytest.approx(expected, abs=0.01)
    assert found_segments(np.zeros((40, 2), np.float32), STEP_S).expected_overlap == 1.0
    assert found_segments(np.ones((40, 2), np.float32), STEP_S).expected_overlap == 1.0
    assert found_segments(np.full((40, 2), 0.4, np.float32), STEP_S).expected_overlap < 0.1


def test_a_single_window_of_a_half_has_no_length_and_is_left_out() -> None:
    assert spans([[0, 0.5, 0]], 0.5) == []


def test_what_comes_after_the_part_that_was_read_is_left_out() -> None:
    output = found_segments(np.array([[0], [1], [1]], np.float32), STEP_S).within(0.1, 9.0)
    assert output.segments == () and output.length_s == 9.0


def test_true_segments_are_found_from_their_own_shares_within_a_few_milliseconds() -> None:
    rng = np.random.default_rng(1)
    for _ in range(50):
        first, length, gap, second = rng.uniform(0.5, 1.5, 4)
        truth = [(first, first + length, 0), (first + length + gap, first + length + gap + second, 0)]
        shares = window_shares(SegmentTarget(tuple(truth)), count_windows(8.0, STEP_S), 1, STEP_S)
        found = spans([shares[:, 0].tolist()], 8.0)
        assert np.abs(np.array(found) - np.array(truth)).max() < 0.07, "half a cell is 125 ms"
