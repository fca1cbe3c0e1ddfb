from typing import Any

import pytest

from lorabel.errors import MissingTargetError
from lorabel.problems.binding import bind
from lorabel.problems.segments_of_series import SegmentsOfSeries
from lorabel.series_contracts import FoundSegment, SeriesScores, SeriesTarget

CONTROL = '<TimeSeriesLabels name="event" toName="ts"><Label value="Run"/><Label value="Jump"/></TimeSeriesLabels>'
DATED = 'timeColumn="time" timeFormat="%Y-%m-%d %H:%M:%S"'
DATA = {"csv": "a.csv"}
SECOND_MS = 1000.0


def config(attributes: str = DATED, channels: str = '<Channel column="load"/>') -> str:
    return f'<View>{CONTROL}<TimeSeries name="ts" value="$csv" {attributes}>{channels}</TimeSeries></View>'


def bound(attributes: str = DATED) -> SegmentsOfSeries:
    (binding,) = bind(config(attributes)).bindings
    assert isinstance(binding, SegmentsOfSeries)
    return binding


def region(start: Any, end: Any, labels: Any = ("Run",), **fields: Any) -> dict[str, Any]:
    value = {"start": start, "end": end, "instant": start == end, "timeserieslabels": list(labels)}
    return {"from_name": "event", "to_name": "ts", "type": "timeserieslabels", "value": value, **fields}


@pytest.mark.parametrize(
    ("attributes", "start", "end", "times"),
    [
        (DATED, "1970-01-01 00:00:01", "1970-01-01 00:01:00", (1000.0, 60_000.0)),
        ('timeColumn="time"', 1.25, 60, (1.25, 60.0)),
        ("", 3, 17, (3.0, 17.0)),
    ],
)
def test_what_the_editor_sends_is_read_and_written_alike(
    attributes: str, start: Any, end: Any, times: tuple[float, float]
) -> None:
    problem = bound(attributes)
    regions = [region(start, end), region(end, end, ["Jump"])]
    target = problem.target(regions, DATA)
    assert target == SeriesTarget(((*times, 0), (times[1], times[1], 1)))
    written = problem.prediction(problem.perfect_output(target), DATA).regions
    assert [{key: each[key] for key in regions[0]} for each in written] == regions


def test_an_annotation_without_segments_says_that_there_are_none() -> None:
    assert bound().target([], DATA).segments == ()


def test_segments_may_overlap_and_have_several_labels() -> None:
    regions = [region(1, 5, ["Run", "Jump"]), region(3, 9, ["Jump"])]
    assert bound("").target(regions, DATA).segments == ((1.0, 5.0, 0), (1.0, 5.0, 1), (3.0, 9.0, 1))


@pytest.mark.parametrize(
    ("attributes", "bad", "reason"),
    [
        ("", region(5, 1), "a start and an end as numbers"),
        ("", region(None, 1), "a start and an end as numbers"),
        ("", region("1", "5"), "a start and an end as numbers"),
        ("", region(True, 5), "a start and an end as numbers"),
        ("", region(float("nan"), 5), "a start and an end as numbers"),
        ("", region(10**400, 10**400), "a start and an end as numbers"),
        (DATED, region("01.01.1970", "02.01.1970"), "times of the format '%Y-%m-%d %H:%M:%S'"),
        ("", region(1, 5, ["Swim"]), "no longer has"),
        ("", region(1, 5, [None]), "no longer has"),
        ("", region(1, 5, []), "no label"),
        ("", {**region(1, 5), "value": None}, "expected an object"),
    ],
)
def test_a_segment_that_cannot_be_read_skips_the_annotation_with_the_reason(
    attributes: str, bad: dict[str, Any], reason: str
) -> None:
    with pytest.raises(MissingTargetError, match=reason):
        bound(attributes).target([bad], DATA)


def test_segments_are_predicted_with_scores_and_an_empty_answer_has_one() -> None:
    segments = (
        FoundSegment(start=0, end=2, label=0, probability=0.9),
        FoundSegment(start=1, end=1, label=1, probability=0.7),
    )
    prediction = bound("").prediction(SeriesScores(segments=segments, step=1.0), DATA)
    assert [found["score"] for found in prediction.regions] == [0.9, 0.7]
    assert [found["value"]["instant"] for found in prediction.regions] == [False, True]
    assert prediction.score == pytest.approx(0.8)
    silent = bound("").prediction(SeriesScores(no_segment_probability=0.6), DATA)
    assert (silent.regions, silent.score) == ([], 0.6)


def test_moments_on_which_most_annotators_agree_are_kept_and_instants_of_the_newest() -> None:
    spans = [(0.0, 20.0), (10.0, 30.0), (15.0, 25.0)]
    targets = [SeriesTarget(((*span, 0), (span[0], span[0], 1))) for span in spans]
    assert bound("").aggregate(targets) == SeriesTarget(((10.0, 25.0, 0), (15.0, 15.0, 1)))


def test_two_sets_of_labels_for_one_series_do_not_answer_for_each_other() -> None:
    other = CONTROL.replace('"event"', '"who"')
    event, who = bind(config("").replace("</View>", f"{other}</View>")).bindings
    with pytest.raises(MissingTargetError, match="'who' was not used, but 'event' was"):
        who.target([region(1, 5)], DATA)
    assert event.may_be_unused(event.target([], DATA))


@pytest.mark.parametrize(
    ("label_config", "reason"),
    [
        (config(channels=""), "has no Channel with a column"),
        (config('timeColumn="time" timeFormat="%Y week %U"'), "timeFormat of 'ts' has %U"),
        (config('timeFormat="%Y"'), "'ts' has timeFormat and no timeColumn"),
        (
            config()
            .replace('toName="ts"', 'toName="ts,other"')
            .replace("</View>", '<TimeSeries name="other" value="$b"><Channel column="x"/></TimeSeries></View>'),
            "several series",
        ),
    ],
)
def test_what_is_not_served_has_a_reason(label_config: str, reason: str) -> None:
    (unclaimed,) = bind(label_config).unclaimed
    assert reason in unclaimed.reason
