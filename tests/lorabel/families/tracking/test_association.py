"""Boxes whose things are known, without a detector."""

from collections.abc import Callable

import numpy as np
import pytest

from lorabel.families.tracking.association import LOST_S, Association
from lorabel.track_contracts import BoxInFrame

RATE = 25.0
STEP = 5
LOOKS = np.eye(3)

Place = Callable[[int], tuple[float, float]]


def follow(
    things: list[tuple[Place, int]], frames: int, label: Callable[[int], int] = lambda _: 0, noise: float = 0.0
) -> list[list[int]]:
    """The things of which each track consists, the boxes in a random order in each frame.

    Args:
        things: where each is in a frame, and the index of its look.
    """
    rng = np.random.default_rng(0)
    association, thing_of = Association(0.3, RATE), {}
    for frame in range(1, frames + 1, STEP):
        boxes, looks = [], []
        for index in rng.permutation(len(things)):
            place, look = things[index]
            x, y = np.array(place(frame)) + rng.normal(0, noise, 2)
            if np.isnan(x):
                continue
            box = BoxInFrame(
                frame=frame, corners=(x - 0.05, y - 0.05, x + 0.05, y + 0.05), label=label(index), probability=0.9
            )
            thing_of[box] = int(index)
            boxes.append(box)
            looks.append(LOOKS[look])
        association.add(frame, boxes, np.array(looks).reshape(-1, 3))
    return sorted(sorted({thing_of[box] for box in track.seen}) for track in association.tracks)


def to_right(frame: int) -> tuple[float, float]:
    return 0.1 + 0.8 * frame / 100, 0.5


def to_left(frame: int) -> tuple[float, float]:
    return 0.9 - 0.8 * frame / 100, 0.5


@pytest.mark.parametrize("looks", [(0, 1), (0, 0)])
def test_two_things_that_pass_each_other_keep_their_tracks(looks: tuple[int, int]) -> None:
    """By their looks, or, where they look the same, by their speed."""
    things = [(to_right, looks[0]), (to_left, looks[1])]
    assert follow(things, 100, noise=0.003) == [[0], [1]]


def test_two_things_that_touch_and_turn_back_are_told_apart_by_their_looks() -> None:
    def turns(first: float, sign: int) -> Place:
        return lambda frame: (first + sign * 0.4 * (1 - abs(frame - 50) / 50), 0.5)

    assert follow([(turns(0.08, 1), 0), (turns(0.92, -1), 1)], 100) == [[0], [1]]


def test_a_thing_that_is_hidden_for_a_moment_keeps_its_track_and_one_that_is_away_for_long_gets_another() -> None:
    def hidden(first: int, last: int) -> Place:
        return lambda frame: (np.nan, np.nan) if first <= frame <= last else (0.1 + 0.003 * frame, 0.5)

    assert len(follow([(hidden(40, 65), 0)], 200)) == 1
    away = int(LOST_S * RATE) + 2 * STEP
    assert len(follow([(hidden(40, 40 + away), 0)], 200)) == 2


def test_things_of_different_labels_in_one_place_have_tracks_of_their_own() -> None:
    assert follow([(to_right, 0), (to_right, 0)], 100, label=lambda index: index) == [[0], [1]]


def test_a_thing_far_away_does_not_go_on_with_the_track_of_another() -> None:
    def first(frame: int) -> tuple[float, float]:
        return (0.1, 0.1) if frame <= 50 else (np.nan, np.nan)

    def second(frame: int) -> tuple[float, float]:
        return (0.9, 0.9) if frame > 50 else (np.nan, np.nan)

    assert follow([(first, 0), (second, 0)], 100) == [[0], [1]]


def test_unlikely_boxes_go_on_with_a_track_and_begin_none() -> None:
    association = Association(0.3, RATE)
    for frame, probability in ((1, 0.9), (6, 0.1), (11, 0.9)):
        near = BoxInFrame(frame=frame, corners=(0.1, 0.1, 0.2, 0.2), label=0, probability=probability)
        far = BoxInFrame(frame=frame, corners=(0.8, 0.8, 0.9, 0.9), label=0, probability=0.1)
        association.add(frame, [near, far], np.array([LOOKS[0], LOOKS[1]]))
    (track,) = association.tracks
    assert [box.probability for box in track.seen] == [0.9, 0.1, 0.9] and track.likely == 2


def test_frames_without_boxes_are_no_frames_with_boxes() -> None:
    association = Association(0.3, RATE)
    for frame in (1, 6, 11):
        association.add(frame, [], np.zeros((0, 3)))
    assert association.tracks == []


def test_boxes_that_are_equal_in_all_but_their_looks_are_two_things() -> None:
    association = Association(0.3, RATE)
    for frame in range(1, 16, STEP):
        box = BoxInFrame(frame=frame, corners=(0.1, 0.1, 0.2, 0.2), label=0, probability=0.9)
        association.add(frame, [box, box.model_copy()], LOOKS[:2])
    association.add(round(LOST_S * RATE) + 20, [], LOOKS[:0])
    assert [len(track.seen) for track in association.tracks] == [3, 3]
