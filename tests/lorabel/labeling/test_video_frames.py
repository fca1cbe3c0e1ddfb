"""Against the expressions of Label Studio 1.23.2's editor: `goToFrame`, `updateFrame`, the length of a video."""

import math

import pytest

from lorabel.labeling.config_xml import Attributes
from lorabel.labeling.label_config import ObjectTag
from lorabel.labeling.video_frames import frame_rate, frames_at, seconds_of

RATES = (1.0, 12.5, 24.0, 25.0, 29.97, 30.0, 60.0)


def shown_at(moment_s: float, rate: float) -> int:
    """`updateFrame`."""
    return max(1, math.ceil(moment_s * rate))


@pytest.mark.parametrize("rate", RATES)
def test_a_part_is_where_the_editor_shows_its_frames(rate: float) -> None:
    for first, last in ((1, 1), (1, 9), (13, 24), (500, 501)):
        start, end = seconds_of((first, last), rate)
        assert shown_at(start + 0.001, rate) == first, "`goToFrame` goes a little beyond the beginning of a frame"
        assert shown_at(end - 0.001, rate) == last


@pytest.mark.parametrize("rate", RATES)
def test_frames_become_seconds_and_the_same_frames_again(rate: float) -> None:
    for first, last in ((1, 1), (1, 2), (7, 7), (13, 24), (100, 4711)):
        assert frames_at(seconds_of((first, last), rate), 0.0, rate) == (first, last)


def test_a_part_between_two_frames_has_the_nearest_and_at_least_one() -> None:
    assert frames_at((0.49, 1.04), 10.0, 24.0) == (13, 25)
    assert frames_at((0.5, 0.501), 10.0, 24.0) == (13, 13)


def test_no_frame_is_after_the_last_that_the_editor_counts() -> None:
    """It rounds the length of a video, in frames: 2.51 s are 60."""
    assert frames_at((2.0, 2.51), 2.51, 24.0) == (49, 60)
    assert frames_at((2.505, 2.51), 2.51, 24.0) == (60, 60)
    assert frames_at((0.0, 0.01), 0.01, 24.0) == (1, 1)


def test_frames_before_the_first_are_cut() -> None:
    assert seconds_of((0, 24), 24.0) == (0.0, 1.0)
    assert seconds_of((-5, -1), 24.0) == (0.0, 0.0)


@pytest.mark.parametrize(
    ("attributes", "rate"),
    [
        ({}, 24.0),
        ({"frameRate": "25"}, 25.0),
        ({"framerate": "29.97"}, 29.97),
        ({"frameRate": "0.04"}, 25.0),
        ({"frameRate": "$fps"}, 50.0),
        ({"frameRate": "$missing"}, 24.0),
        ({"frameRate": "fast"}, 24.0),
        ({"frameRate": "0"}, 24.0),
        ({"frameRate": "-1"}, 24.0),
        ({"frameRate": "$list"}, 24.0),
    ],
)
def test_the_rate_is_that_of_the_tag_or_of_the_task(attributes: dict[str, str], rate: float) -> None:
    tag = ObjectTag("video", "Video", "$video", Attributes(attributes))
    assert frame_rate(tag, {"video": "a.mp4", "fps": 50, "list": [1]}) == pytest.approx(rate)
