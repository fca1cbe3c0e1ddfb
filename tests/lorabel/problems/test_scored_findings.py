"""Segments and tracks have scores as boxes do: calibrated for each label, shown from a project's threshold on."""

from typing import Any

import pytest

from lorabel.problems.base import Case
from lorabel.problems.binding import bind
from lorabel.series_contracts import FoundSegment, SeriesScores, SeriesTarget
from lorabel.time_contracts import Segment, SegmentScores, SegmentTarget
from lorabel.track_contracts import Keyframe, Track, Tracks, TracksTarget

LABELS = '<Label value="a"/><Label value="b"/>'
SOUNDS = f'<View><Labels name="x" toName="o">{LABELS}</Labels><Audio name="o" value="$o"/></View>'
TIMELINES = (
    f'<View><TimelineLabels name="x" toName="o">{LABELS}</TimelineLabels><Video name="o" value="$o"/></View>'
)
SERIES = (
    f'<View><TimeSeriesLabels name="x" toName="o">{LABELS}</TimeSeriesLabels><TimeSeries name="o" value="$o">'
    '<Channel column="load"/></TimeSeries></View>'
)
TRACKS = (
    f'<View><Labels name="x" toName="o">{LABELS}</Labels><VideoRectangle name="box" toName="o"/>'
    '<Video name="o" value="$o"/></View>'
)
DATA = {"o": "https://example.org/file"}
# One of each label is right, and another of the second is not.
SPANS = (((1.0, 2.0, 0), 0.6), ((4.0, 6.0, 1), 0.9), ((8.0, 9.0, 1), 0.7))
TRUTH = ((1.0, 2.5, 0), (4.0, 5.5, 1))


def way(place: float) -> tuple[Keyframe, ...]:
    corners = (place, 0.1, place + 0.1, 0.2)
    return Keyframe(frame=1, corners=corners), Keyframe(frame=20, corners=corners)


def segments(**changed: Any) -> SegmentScores:
    found = tuple(
        Segment(start_s=start, end_s=end, label=label, probability=score) for (start, end, label), score in SPANS
    )
    return SegmentScores(segments=found, length_s=10.0, **changed)


def series(**changed: Any) -> SeriesScores:
    found = tuple(
        FoundSegment(start=start, end=end, label=label, probability=score) for (start, end, label), score in SPANS
    )
    return SeriesScores(segments=found, step=0.1, **changed)


def tracks(**changed: Any) -> Tracks:
    found = tuple(
        Track(label=label, keyframes=way(start / 10), probability=score) for (start, _, label), score in SPANS
    )
    return Tracks(tracks=found, frames=20, length_s=1.0, **changed)


KINDS = {
    "sounds": (SOUNDS, segments, SegmentTarget(TRUTH)),
    "timelines": (TIMELINES, segments, SegmentTarget(TRUTH)),
    "series": (SERIES, series, SeriesTarget(TRUTH)),
    "tracks": (
        TRACKS,
        tracks,
        TracksTarget(tuple(Track(label=label, keyframes=way(start / 10)) for start, _, label in TRUTH), 20, 1.0),
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_shown_is_a_case_of_its_label_right_or_wrong(kind: str) -> None:
    config, output, target = KINDS[kind]
    (problem,) = bind(config).bindings
    expected = [
        Case((pytest.approx(0.4), 0.6), 1, "a"),  # type: ignore[arg-type]
        Case((pytest.approx(0.1), 0.9), 1, "b"),  # type: ignore[arg-type]
        Case((pytest.approx(0.3), 0.7), 0, "b"),  # type: ignore[arg-type]
    ]
    assert problem.cases(output(), target) == expected
    assert problem.cases(output(threshold=0.65), target) == expected[1:]
    assert [right for case in problem.cases(problem.perfect_output(target), target) for right in [case.true_index]]


@pytest.mark.parametrize("kind", KINDS)
def test_each_label_has_a_temperature_of_its_own_and_the_same_is_shown(kind: str) -> None:
    config, output, _ = KINDS[kind]
    (problem,) = bind(config).bindings
    scores = [region["score"] for region in problem.prediction(output(), DATA).regions]
    calibrated = problem.calibrated_by_label(output(), 1.0, {"b": 2.0}, is_for_threshold=False)
    assert [region["score"] for region in problem.prediction(calibrated, DATA).regions] == pytest.approx(
        [scores[0], 0.75, (0.7**0.5) / (0.7**0.5 + 0.3**0.5)]
    )
    warmer = problem.calibrated(output(threshold=0.65), 2.0)
    assert len(problem.prediction(warmer, DATA).regions) == 2


@pytest.mark.parametrize("kind", KINDS)
def test_a_threshold_of_the_project_hides_unlikely_ones_and_the_score_says_so(kind: str) -> None:
    config, output, target = KINDS[kind]
    (problem,) = bind(config).bindings
    assert problem.has_threshold
    likely = problem.with_threshold(output(), 0.8)
    assert [region["score"] for region in problem.prediction(likely, DATA).regions] == [0.9]
    silent = problem.prediction(problem.with_threshold(output(), 0.95), DATA)
    assert silent.regions == [] and silent.score == pytest.approx(0.1)
    (values,) = [problem.metrics([target], [likely]).values]
    assert values["per_class"]["a"]["support"] == 1
    assert (
        problem.metrics([target], [problem.with_threshold(output(), 0.95)]).values[
            "idf1" if kind == "tracks" else "f1"
        ]
        == 0.0
    )


def test_tracks_of_which_nobody_knows_whether_they_are_right_are_no_cases() -> None:
    (problem,) = bind(TRACKS).bindings
    of_a, of_b = KINDS["tracks"][2].tracks  # type: ignore[union-attr]
    begun = TracksTarget((of_a, Track(label=1, keyframes=way(0.4)[:1])), 20, 1.0)
    assert [case.label for case in problem.cases(tracks(), begun)] == ["a"]
    incomplete = TracksTarget((of_a,), 20, 1.0, incomplete=(1,))
    assert [case.label for case in problem.cases(tracks(), incomplete)] == ["a"]
    unlabelled = TracksTarget((of_a, of_b), 20, 1.0, unlabelled=(Track(label=-1, keyframes=way(0.8)),))
    assert [case.true_index for case in problem.cases(tracks(), unlabelled)] == [1, 1]


def test_a_track_that_is_right_in_less_than_half_of_its_frames_is_wrong() -> None:
    (problem,) = bind(TRACKS).bindings
    here, there = way(0.1)[0].corners, way(0.7)[0].corners
    for frames_here, is_right in ((8, 0), (12, 1)):
        keyframes = (
            Keyframe(frame=1, corners=here),
            Keyframe(frame=frames_here, corners=here),
            Keyframe(frame=frames_here + 1, corners=there),
            Keyframe(frame=20, corners=there),
        )
        output = Tracks(tracks=(Track(label=0, keyframes=keyframes, probability=0.6),), frames=20, length_s=1.0)
        target = TracksTarget((Track(label=0, keyframes=way(0.1)),), 20, 1.0)
        assert [case.true_index for case in problem.cases(output, target)] == [is_right]
