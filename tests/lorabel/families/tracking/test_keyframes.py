from itertools import combinations

import numpy as np
import pytest

from lorabel.families.tracking.keyframes import chosen, keyframes_of
from lorabel.track_contracts import BoxInFrame, Track


def boxes(x: dict[int, float]) -> list[BoxInFrame]:
    """A box of width 0.1 at each place."""
    return [
        BoxInFrame(frame=frame, corners=(place, 0.1, place + 0.1, 0.2), label=0, probability=0.9)
        for frame, place in x.items()
    ]


def frames_and_corners(places: list[float]) -> tuple[np.ndarray, np.ndarray]:
    return np.arange(1, len(places) + 1), np.array([[x, 0.1, x + 0.1, 0.2] for x in places])


def error_of(places: list[float], indices: list[int]) -> float:
    """How far the editor's even motion between some boxes is off the others."""
    line = np.interp(range(len(places)), indices, [places[index] for index in indices])
    return float(np.abs(line - places).max())


def test_even_motion_needs_two_keyframes() -> None:
    frames, corners = frames_and_corners([0.1 + 0.01 * step for step in range(50)])
    assert chosen(frames, corners, 0.001) == [0, 49]


def test_a_turn_needs_one_more() -> None:
    frames, corners = frames_and_corners([0.1, 0.2, 0.3, 0.4, 0.3, 0.2])
    assert chosen(frames, corners, 0.01) == [0, 3, 5]


@pytest.mark.parametrize("seed", range(8))
def test_few_keyframes_keep_within_the_tolerance(seed: int) -> None:
    rng = np.random.default_rng(seed)
    places = np.clip(0.4 + np.cumsum(rng.normal(0, 0.03, 11)), 0, 0.9).tolist()
    frames, corners = frames_and_corners(places)
    kept = chosen(frames, corners, 0.03)
    assert error_of(places, kept) <= 0.03
    fewest = next(
        count
        for count in range(2, 12)
        if any(error_of(places, [0, *middle, 10]) <= 0.03 for middle in combinations(range(1, 10), count - 2))
    )
    assert len(kept) <= fewest + 2


def test_a_thing_that_is_lost_is_not_seen_until_it_is_found_again() -> None:
    seen = boxes({1: 0.1, 6: 0.1, 11: 0.1, 61: 0.5, 66: 0.5})
    keyframes = keyframes_of(seen, 0.01, longest_gap=20, last_frame=71)
    track = Track(label=0, keyframes=keyframes)
    assert [(key.frame, key.is_seen) for key in keyframes] == [(1, True), (11, False), (61, True), (66, False)]
    assert track.at(11) is not None and track.at(12) is None and track.at(60) is None
    assert track.at(63) == pytest.approx((0.5, 0.1, 0.6, 0.2)) and track.at(67) is None


def test_a_thing_that_is_hidden_for_a_moment_goes_on_and_one_found_last_is_seen_to_the_end() -> None:
    keyframes = keyframes_of(boxes({1: 0.1, 21: 0.3}), 0.01, longest_gap=20, last_frame=21)
    assert all(key.is_seen for key in keyframes)
    assert Track(label=0, keyframes=keyframes).at(11) == pytest.approx((0.2, 0.1, 0.3, 0.2))


def test_a_thing_found_once_is_shown_in_that_frame() -> None:
    (keyframe,) = keyframes_of(boxes({7: 0.1}), 0.01, longest_gap=20, last_frame=9)
    assert (keyframe.frame, keyframe.is_seen) == (7, False)


def test_even_motion_stays_where_it_is_though_frames_are_at_uneven_distances() -> None:
    places = {frame: 0.1 + 0.01 * frame for frame in (1, 6, 9, 11, 16, 20)}
    keyframes = keyframes_of(boxes(places), 0.001, longest_gap=5, last_frame=20)
    assert [key.frame for key in keyframes] == [1, 20]


def test_a_drawn_box_is_where_it_was_drawn() -> None:
    places = {1: 0.3, 6: 0.3, 9: 0.2, 11: 0.3, 16: 0.3}
    keyframes = keyframes_of(boxes(places), 0.01, longest_gap=5, last_frame=16, drawn={9})
    assert Track(label=0, keyframes=keyframes).at(9) == pytest.approx((0.2, 0.1, 0.3, 0.2))
