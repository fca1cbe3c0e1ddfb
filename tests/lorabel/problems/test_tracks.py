from typing import Any

import pytest

from lorabel.errors import MissingTargetError, UnreadableError
from lorabel.labeling.video_frames import DEFAULT_RATE
from lorabel.problems.binding import bind
from lorabel.problems.tracks import MovingThings
from lorabel.space_contracts import MOST_PLACES
from lorabel.track_contracts import MOST_BEGUN, Keyframe, Track, Tracks, TracksInput, TracksTarget

CONFIG = """<View><Labels name="label" toName="video"><Label value="Car"/><Label value="Bus"/></Labels>
  <Video name="video" value="$video" {}/><VideoRectangle name="box" toName="video"/>{}</View>"""
DATA = {"video": "a.mp4"}


def bound(attributes: str = 'frameRate="25"', others: str = "") -> MovingThings:
    (binding,) = (
        each for each in bind(CONFIG.format(attributes, others)).bindings if isinstance(each, MovingThings)
    )
    return binding


@pytest.fixture
def problem() -> MovingThings:
    return bound()


def point(frame: int, **changed: Any) -> dict[str, Any]:
    place = {"x": 25, "y": 50, "width": 12.5, "height": 25, "rotation": 0, "enabled": True}
    return {"frame": frame, "time": frame / 25, **place, **changed}


def region(*points: Any, labels: Any = ("Car",), **changed: Any) -> dict[str, Any]:
    labels = list(labels) if isinstance(labels, tuple) else labels
    value = {"framesCount": 50, "duration": 2.0, "sequence": list(points), "labels": labels, **changed}
    return {
        "value": value,
        "id": "1grnwlPKy9",
        "from_name": "box",
        "to_name": "video",
        "type": "videorectangle",
        "origin": "manual",
    }


CORNERS = (0.25, 0.5, 0.375, 0.75)
TRACK = Track(label=0, keyframes=(Keyframe(frame=1, corners=CORNERS), Keyframe(frame=25, corners=CORNERS)))


def test_what_the_editor_sends_is_read_and_written_alike(problem: MovingThings) -> None:
    sent = region(point(1), point(11, x=50), point(50, enabled=False))
    target = problem.target([sent], DATA)
    assert (target.frames, target.length_s) == (50, 2.0)
    (written,) = problem.prediction(problem.perfect_output(target), DATA).regions
    assert {key: written[key] for key in ("from_name", "to_name", "type")} == {
        key: sent[key] for key in ("from_name", "to_name", "type")
    }
    assert written["value"] == sent["value"]


@pytest.mark.parametrize(
    ("attributes", "data", "rate"),
    [
        ("", {}, DEFAULT_RATE),
        ('frameRate="25"', {}, 25.0),
        ('framerate="29.97"', {}, 29.97),
        ('frameRate="0.04"', {}, 25.0),
        ('frameRate="$fps"', {"fps": 30}, 30.0),
        ('frameRate="$fps"', {"fps": "12.5"}, 12.5),
        ('frameRate="$fps"', {}, DEFAULT_RATE),
        ('frameRate="$fps"', {"fps": ["odd"]}, DEFAULT_RATE),
        ('frameRate="fast"', {}, DEFAULT_RATE),
        ('frameRate="-5"', {}, DEFAULT_RATE),
        ('frameRate="inf"', {}, DEFAULT_RATE),
        ('frameRate="1e-300"', {}, 1000.0),
    ],
)
def test_frames_are_counted_at_the_rate_of_the_editor(attributes: str, data: dict[str, Any], rate: float) -> None:
    assert bound(attributes).model_input({**DATA, **data}).frames_per_s == pytest.approx(rate)


def test_keyframes_out_of_order_are_sorted_and_the_last_of_one_frame_counts(problem: MovingThings) -> None:
    target = problem.target([region(point(25), point(1, x=0), point(1))], DATA)
    assert target.tracks == (TRACK,)


def test_a_box_is_cut_at_the_frame_and_outside_of_it_the_thing_is_not_seen(problem: MovingThings) -> None:
    (track,) = problem.target([region(point(1, x=-6.25), point(11, x=-50), point(21))], DATA).tracks
    assert track.at(1) == (0.0, 0.5, 0.0625, 0.75)
    assert track.at(2) is None and track.at(20) is None and track.at(21) == CORNERS


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        (region(point(1, enabled=False)), "enabled in no frame"),
        (region(point(1, x=150)), "enabled in no frame, or lies outside"),
        (region(), "sequence is"),
        (region(sequence=None), "sequence is None"),
        (region("odd"), "expected a frame from 1"),
        (region(point(0)), "expected a frame from 1"),
        (region(point(1.5)), "expected a frame from 1"),  # type: ignore[arg-type]
        (region(point(10**12)), "expected a frame from 1"),
        (region(point(1, x="left")), "x is 'left'"),
        (region(point(1, rotation=30)), "it is turned"),
        (region(point(1), labels=("Tram",)), "no longer has"),
        (region(point(1), labels=()), "has no label"),
        (region(point(1), labels="Car"), "expected a list"),
    ],
)
def test_a_track_that_cannot_be_used_is_left_out_with_the_reason(
    problem: MovingThings, sent: dict[str, Any], reason: str
) -> None:
    with pytest.raises(MissingTargetError, match=reason):
        problem.target([sent], DATA)
    target = problem.target([sent, region(point(1), point(25))], DATA)
    assert target.tracks == (TRACK,)
    (left_out,) = problem.left_out(target)
    assert reason in left_out


def test_where_a_label_is_unknown_nobody_knows_what_is_there_and_without_a_place_it_may_be_anywhere(
    problem: MovingThings,
) -> None:
    known = region(point(1), point(25))
    target = problem.target([known, region(point(5, x=75), labels=("Tram",))], DATA)
    assert target.boxes_at(7).unlabelled == ((0.75, 0.5, 0.875, 0.75),) and not target.incomplete
    target = problem.target([known, region(point(5, enabled=False), labels=("Bus",))], DATA)
    assert target.boxes_at(7).incomplete == (1,) and not target.unlabelled


def test_a_track_may_have_several_labels(problem: MovingThings) -> None:
    target = problem.target([region(point(1), labels=("Bus", "Car"))], DATA)
    assert [track.label for track in target.tracks] == [0, 1]


def test_an_annotation_without_tracks_says_that_there_are_none_unless_something_else_was_marked() -> None:
    problem = bound(others='<TimelineLabels name="part" toName="video"><Label value="Turn"/></TimelineLabels>')
    assert problem.target([], DATA) == TracksTarget(())
    assert problem.may_be_unused(problem.target([], DATA))
    part = {"from_name": "part", "to_name": "video", "type": "timelinelabels", "value": {"ranges": []}}
    with pytest.raises(MissingTargetError, match="was not used"):
        problem.target([part], DATA)


def test_keyframes_are_learned_from_and_of_many_some(problem: MovingThings) -> None:
    target = problem.target([region(point(1), point(25)), region(point(9), labels=("Bus",))], DATA)
    assert [frame for frame, _ in target.learned_frames] == [1, 9, 25]
    assert [len(shown.boxes) for _, shown in target.learned_frames] == [1, 2, 2]
    many = problem.target([region(*(point(frame) for frame in range(1, 101)))], DATA)
    frames = [frame for frame, _ in many.learned_frames]
    assert len(frames) == 8 and (frames[0], frames[-1]) == (1, 100)
    empty = problem.target([region(point(1, enabled=True), framesCount=50)], DATA).boxes_at(1)
    assert len(empty.boxes) == 1


def test_tracks_below_the_threshold_are_not_shown(problem: MovingThings) -> None:
    unlikely = TRACK.model_copy(update={"probability": 0.25})
    output = Tracks(tracks=(TRACK, unlikely), frames=50, length_s=2.0, threshold=0.5)
    assert len(problem.prediction(output, DATA).regions) == 1
    assert len(problem.prediction(problem.with_threshold(output, 0.2), DATA).regions) == 2
    nothing = problem.prediction(Tracks(tracks=(unlikely,), threshold=0.5), DATA)
    assert (nothing.regions, nothing.score) == ([], 0.75)


def test_most_annotators_decide_which_tracks_there_are(problem: MovingThings) -> None:
    first = problem.target([region(point(1), point(25))], DATA)
    near = problem.target([region(point(1, x=26), point(25, x=26))], DATA)
    bus = problem.target([region(point(1), point(25), labels=("Bus",))], DATA)
    assert problem.aggregate([first, bus, near]).tracks == near.tracks
    assert problem.aggregate([near, bus, first]).tracks == first.tracks
    assert problem.aggregate([first, bus]).tracks == bus.tracks


def test_a_track_that_gets_another_label_brings_no_others(problem: MovingThings) -> None:
    """The editor sends the tracks of this label, and adds whatever is answered."""
    question = problem.model_input(DATA)
    with pytest.raises(UnreadableError, match="got another label"):
        problem.prompted(question, [region(point(1))])
    assert problem.prompted(question, [{"from_name": "other"}]) is None


def test_labels_without_a_tag_that_draws_are_not_served() -> None:
    config = CONFIG.format("", "").replace('<VideoRectangle name="box" toName="video"/>', "")
    assert not bind(config).bindings


def test_of_a_frame_with_more_boxes_than_are_learned_nobody_knows_what_is_in_the_others() -> None:
    tracks = tuple(
        Track(label=0, keyframes=(Keyframe(frame=1, corners=(0.0, 0.0, 0.5, 0.001 * (number + 1))),))
        for number in range(MOST_PLACES + 1)
    )
    ((frame, shown),) = TracksTarget(tracks).learned_frames
    assert (frame, len(shown.boxes), len(shown.unlabelled)) == (1, MOST_PLACES, 1)


def test_tracks_of_which_one_box_was_drawn_are_gone_on_with(problem: MovingThings) -> None:
    question = problem.model_input(DATA)
    begun = Track(label=1, keyframes=(Keyframe(frame=7, corners=CORNERS),))
    drawn, done = region(point(7), labels=("Bus",)), region(point(1), point(25))
    results = [[done, drawn], [region(point(7, rotation=30))], [drawn], [region(point(9, enabled=False))]]
    assert problem.going_on(question, DATA, results) == question.model_copy(update={"begun": (begun,)})
    many = [region(point(frame)) for frame in range(1, 100)]
    going_on = problem.going_on(question, DATA, [many])
    assert isinstance(going_on, TracksInput) and len(going_on.begun) == MOST_BEGUN
