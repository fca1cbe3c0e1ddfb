from typing import Any

import pytest

from lorabel.errors import MissingTargetError
from lorabel.problems.binding import bind
from lorabel.problems.timelines import Timelines
from lorabel.time_contracts import Segment, SegmentScores, SegmentTarget

CONFIG = """<View><Video name="video" value="$video"/><TimelineLabels name="action" toName="video">
  <Label value="Run"/><Label value="Jump"/></TimelineLabels></View>"""
# As the editor of Label Studio 1.23.2 sends it: frames 13 to 24 are the second half of a second.
RECORDED = {
    "value": {"ranges": [{"start": 13, "end": 24}], "timelinelabels": ["Run"]},
    "id": "c8Yy2pPq1F",
    "from_name": "action",
    "to_name": "video",
    "type": "timelinelabels",
    "origin": "manual",
}
DATA = {"video": "a.mp4", "fps": 10}


def bound(config: str = CONFIG) -> Timelines:
    (binding,) = bind(config).bindings
    assert isinstance(binding, Timelines)
    return binding


@pytest.fixture
def problem() -> Timelines:
    return bound()


def region(*ranges: Any, **value: Any) -> dict[str, Any]:
    return {**RECORDED, "value": {"ranges": list(ranges), "timelinelabels": ["Run"], **value}}


def span(start: Any, end: Any) -> dict[str, Any]:
    return {"start": start, "end": end}


def test_what_the_editor_sends_is_read_and_written_alike(problem: Timelines) -> None:
    target = problem.target([RECORDED], DATA)
    assert target == SegmentTarget(((0.5, 1.0, 0),)) and target.frames_per_s == 24.0
    (written,) = problem.prediction(problem.perfect_output(target), DATA).regions
    assert {key: RECORDED[key] for key in ("value", "from_name", "to_name", "type")} == {
        key: value for key, value in written.items() if key != "score"
    }
    assert all(type(frame) is int for one in written["value"]["ranges"] for frame in one.values())


def test_frames_are_counted_at_the_rate_of_the_tag(problem: Timelines) -> None:
    of_task = bound(CONFIG.replace("<Video ", '<Video frameRate="$fps" '))
    assert of_task.target([RECORDED], DATA).segments == ((1.2, 2.4, 0),)
    prediction = of_task.prediction(of_task.perfect_output(SegmentTarget(((1.2, 2.4, 1),))), DATA)
    assert prediction.regions[0]["value"]["ranges"] == [{"start": 13, "end": 24}]


def test_segments_may_overlap_and_have_several_labels_and_a_region_several_ranges(problem: Timelines) -> None:
    result = [region(span(1, 24), timelinelabels=["Run", "Jump"]), region(span(13, 36), span(49, 60))]
    assert problem.target(result, DATA).segments == (
        (0.0, 1.0, 0),
        (0.0, 1.0, 1),
        (0.5, 1.5, 0),
        (2.0, 2.5, 0),
    )


def test_a_single_frame_is_a_segment(problem: Timelines) -> None:
    assert problem.target([region(span(24, 24))], DATA).segments == ((23 / 24, 1.0, 0),)


def test_a_frame_before_the_first_is_cut_and_an_annotation_without_regions_says_that_nothing_happens(
    problem: Timelines,
) -> None:
    assert problem.target([region(span(0, 12))], DATA).segments == ((0.0, 0.5, 0),)
    assert problem.target([], DATA).segments == ()


@pytest.mark.parametrize(
    ("ranges", "reason"),
    [
        ([span(24, 13)], "the start not after the end"),
        ([span(None, 13)], "expected a start and an end in frames"),
        ([span(1, "13")], "expected a start and an end in frames"),
        ([span(1, float("inf"))], "expected a start and an end in frames"),
        (["1-13"], "expected a start and an end in frames"),
        (None, "expected a list under 'ranges'"),
    ],
)
def test_a_range_that_cannot_be_read_skips_the_annotation_with_the_reason(
    problem: Timelines, ranges: Any, reason: str
) -> None:
    broken = {**RECORDED, "value": {"ranges": ranges, "timelinelabels": ["Run"]}}
    with pytest.raises(MissingTargetError, match=reason):
        problem.target([RECORDED, broken], DATA)


def test_a_label_that_is_gone_skips_the_annotation_with_the_reason(problem: Timelines) -> None:
    with pytest.raises(MissingTargetError, match="no longer has"):
        problem.target([region(span(1, 24), timelinelabels=["Swim"])], DATA)


@pytest.mark.parametrize("value", [{"timelinelabels": []}, {}])
def test_a_range_without_a_label_skips_the_annotation_with_the_reason(
    problem: Timelines, value: dict[str, Any]
) -> None:
    """Nobody knows what is there: that nothing is there would be learned else."""
    broken = {**RECORDED, "value": {"ranges": [{"start": 1, "end": 24}], **value}}
    with pytest.raises(MissingTargetError, match="no label"):
        problem.target([RECORDED, broken], DATA)


def test_a_range_past_the_end_counts_up_to_the_end(problem: Timelines) -> None:
    """The annotation does not say how long the video is: 2 s."""
    target = problem.target([region(span(25, 1000)), region(span(500, 600))], DATA)
    right = SegmentScores(segments=(Segment(start_s=1.0, end_s=2.0, label=0),), length_s=2.0)
    values = problem.metrics([target], [right]).values
    assert (values["f1"], values["boundary_error_ms"], values["boundary_error_frames"]) == (1.0, 0.0, 0.0)


def test_boundary_errors_are_in_milliseconds_and_in_the_frames_of_each_video(problem: Timelines) -> None:
    fast = bound(CONFIG.replace("<Video ", '<Video frameRate="$fps" '))
    targets = [problem.target([region(span(1, 24))], DATA), fast.target([region(span(1, 10))], DATA)]
    late = SegmentScores(segments=(Segment(start_s=0.1, end_s=1.0, label=0),), length_s=9.0)
    values = problem.metrics(targets, [late, late]).values
    assert values["boundary_error_ms"] == pytest.approx(50.0)
    assert values["boundary_error_frames"] == pytest.approx((2.4 + 0 + 1 + 0) / 4)


def test_no_predicted_frame_is_after_the_end_of_the_video(problem: Timelines) -> None:
    segment = Segment(start_s=1.5, end_s=2.03, label=1, probability=0.8)
    output = SegmentScores(segments=(segment,), length_s=2.01, expected_overlap=0.7)
    assert problem.prediction(output, DATA).margin == 0.7
    (found,) = problem.prediction(output, DATA).regions
    assert found["value"]["ranges"] == [{"start": 37, "end": 48}] and found["score"] == 0.8


def test_of_several_annotators_the_moments_of_most_are_kept_at_the_same_rate(problem: Timelines) -> None:
    targets = [problem.target([region(span(*frames))], DATA) for frames in ((1, 48), (25, 72), (37, 60))]
    agreed = problem.aggregate(targets)
    assert agreed == SegmentTarget(((1.0, 2.5, 0),)) and agreed.frames_per_s == 24.0


def test_who_has_only_tracked_boxes_has_not_said_that_nothing_happens() -> None:
    config = CONFIG.replace("</View>", '<VideoRectangle name="box" toName="video"/></View>')
    (problem,) = (binding for binding in bind(config).bindings if isinstance(binding, Timelines))
    box = {"from_name": "box", "to_name": "video", "type": "videorectangle", "value": {"sequence": []}}
    with pytest.raises(MissingTargetError, match="'action' was not used, but 'box' was"):
        problem.target([box], DATA)
    assert problem.may_be_unused(problem.target([], DATA))


def test_several_videos_are_refused() -> None:
    config = CONFIG.replace('toName="video"', 'toName="video,other"').replace(
        "</View>", '<Video name="other" value="$other"/></View>'
    )
    (unclaimed,) = bind(config).unclaimed
    assert "several videos" in unclaimed.reason
