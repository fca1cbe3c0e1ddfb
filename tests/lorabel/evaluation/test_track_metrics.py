"""IDF1 and HOTA against TrackEval, and cases that can be counted by hand."""

import json
from pathlib import Path
from typing import Any

import pytest

from lorabel.evaluation.track_metrics import track_metrics, track_overlaps
from lorabel.space_contracts import Corners
from lorabel.track_contracts import Keyframe, Track, TracksTarget

# Tracks drawn at random, some of which change from one thing to another, with TrackEval's figures. Keyframes are
# (frame, left, top, right, bottom, is seen).
REFERENCE = json.loads((Path(__file__).parents[2] / "data" / "trackeval.json").read_text())
LEFT: Corners = (0.0, 0.0, 0.2, 0.2)
RIGHT: Corners = (0.8, 0.0, 1.0, 0.2)


def track(*keyframes: tuple[int, Corners, bool], label: int = 0) -> Track:
    return Track(
        label=label,
        keyframes=tuple(Keyframe(frame=frame, corners=box, is_seen=seen) for frame, box, seen in keyframes),
    )


def stays(place: Corners, label: int = 0) -> Track:
    """A thing that does not move through ten frames."""
    return track((1, place, True), (10, place, True), label=label)


def of_reference(tracks: list[Any]) -> tuple[Track, ...]:
    return tuple(track(*((frame, (*box,), seen) for frame, *box, seen in keyframes)) for keyframes in tracks)


@pytest.mark.parametrize("video", REFERENCE["videos"])
def test_a_video_has_the_figures_of_trackeval(video: Any) -> None:
    target = TracksTarget(of_reference(video["true"]), video["frames"])
    values = track_metrics([target], [of_reference(video["found"])], ["thing"]).values
    assert values["idf1"] == pytest.approx(video["idf1"])
    assert values["hota"] == pytest.approx(video["hota"])


def test_videos_together_have_the_figures_of_trackeval() -> None:
    videos = REFERENCE["videos"]
    targets = [TracksTarget(of_reference(video["true"]), video["frames"]) for video in videos]
    values = track_metrics(targets, [of_reference(video["found"]) for video in videos], ["thing"]).values
    expected = REFERENCE["together"]
    assert {name: values[name] for name in expected} == pytest.approx(expected)


def test_a_track_that_changes_things_in_the_middle_is_half_right() -> None:
    target = TracksTarget((stays(LEFT), stays(RIGHT)), 10)
    found = [track((1, LEFT, True), (5, LEFT, False), (6, RIGHT, True))]
    values = track_metrics([target], [found], ["thing"]).values
    assert (values["idf1"], values["idp"], values["idr"]) == pytest.approx((2 * 5 / 30, 5 / 10, 5 / 20))


def test_labels_are_scored_by_themselves() -> None:
    target = TracksTarget((stays(LEFT), stays(RIGHT, label=1)), 10)
    found = [track((1, LEFT, True), label=0), track((1, RIGHT, True), label=0)]
    values = track_metrics([target], [found], ["car", "bus", "bike"]).values
    assert values["per_class"]["car"]["idf1"] == pytest.approx(2 * 10 / 30)
    assert values["per_class"]["bus"]["idf1"] == 0.0
    assert values["per_class"]["bike"] == {"idf1": 1.0, "idp": 1.0, "idr": 1.0, "hota": 1.0, "support": 0}
    assert values["macro_idf1"] == pytest.approx(2 * 10 / 30 / 2)


def test_no_tracks_where_none_are_is_right_and_some_are_wrong() -> None:
    assert track_metrics([TracksTarget((), 10)], [[]], ["thing"]).values["idf1"] == 1.0
    assert track_metrics([TracksTarget((), 10)], [[track((1, LEFT, True))]], ["thing"]).values["idf1"] == 0.0
    target = TracksTarget((track((1, LEFT, True)),), 10)
    values = track_metrics([target], [[]], ["thing"]).values
    assert values["idf1"] == values["hota"] == 0.0


def test_what_nobody_knows_is_not_judged() -> None:
    known, unknown = track((1, LEFT, True)), track((1, RIGHT, True), label=-1)
    target = TracksTarget((known,), 10, unlabelled=(unknown,))
    assert track_metrics([target], [[known, track((1, RIGHT, True))]], ["thing"]).values["idf1"] == 1.0
    target = TracksTarget((known,), 10, incomplete=(1,))
    found = [known, track((1, RIGHT, True), label=1)]
    assert track_metrics([target], [found], ["car", "bus"]).values["idf1"] == 1.0


def test_where_an_annotator_drew_one_box_that_frame_is_compared() -> None:
    target = TracksTarget((track((5, LEFT, True)),), 10)
    moving = track((1, RIGHT, True), (5, LEFT, True), (10, RIGHT, True))
    assert track_metrics([target], [[moving]], ["thing"]).values["idf1"] == 1.0
    assert track_metrics([target], [[track((1, RIGHT, True))]], ["thing"]).values["idf1"] == 0.0


def test_a_video_of_a_day_is_compared_at_some_of_its_frames() -> None:
    target = TracksTarget((track((1, LEFT, True), (2_000_000, RIGHT, True)),), 2_000_000)
    assert track_metrics([target], [target.tracks], ["thing"]).values["idf1"] == 1.0


def test_tracks_overlap_over_their_frames_together() -> None:
    first = track((1, LEFT, True), (10, LEFT, False))
    half = track((1, LEFT, True), (5, LEFT, False))
    assert track_overlaps(
        [first], [first, half, track((1, RIGHT, True)), track((1, LEFT, True), label=1)]
    ).tolist() == [pytest.approx([1.0, 0.5, 0.0, 0.0])]
