from typing import Any

import pytest

from lorabel.errors import MissingTargetError
from lorabel.problems.binding import bind
from lorabel.problems.segments_in_time import SegmentsInTime
from lorabel.time_contracts import Segment, SegmentScores, SegmentTarget

CONFIG = """<View><Labels name="part" toName="audio"><Label value="Speech"/><Label value="Noise"/></Labels>
  <Audio name="audio" value="$audio"/></View>"""
# As the editor of Label Studio 1.23.2 sends it.
RECORDED = {
    "original_length": 3,
    "value": {"start": 0.5, "end": 1.5, "channel": 0, "labels": ["Speech"]},
    "id": "1grnwlPKy9",
    "from_name": "part",
    "to_name": "audio",
    "type": "labels",
    "origin": "prediction",
}
DATA = {"audio": "a.wav"}


@pytest.fixture
def problem() -> SegmentsInTime:
    (binding,) = bind(CONFIG).bindings
    assert isinstance(binding, SegmentsInTime)
    return binding


def region(**value: Any) -> dict[str, Any]:
    return {**RECORDED, "value": {**RECORDED["value"], **value}}


def test_what_the_editor_sends_is_read_and_written_alike(problem: SegmentsInTime) -> None:
    target = problem.target([RECORDED], DATA)
    assert target == SegmentTarget(((0.5, 1.5, 0),)) and target.length_s == 3.0
    (written,) = problem.prediction(problem.perfect_output(target), DATA).regions
    assert {key: RECORDED[key] for key in ("original_length", "value", "from_name", "to_name", "type")} == {
        key: value for key, value in written.items() if key != "score"
    }


def test_segments_may_overlap_and_have_several_labels(problem: SegmentsInTime) -> None:
    result = [region(labels=["Speech", "Noise"]), region(start=1, end=2, labels=["Noise"])]
    assert problem.target(result, DATA).segments == ((0.5, 1.5, 0), (0.5, 1.5, 1), (1.0, 2.0, 1))


def test_an_annotation_without_segments_says_that_there_are_none(problem: SegmentsInTime) -> None:
    assert problem.target([], DATA).segments == ()


def test_a_segment_without_length_is_left_out_and_one_before_the_beginning_is_cut(problem: SegmentsInTime) -> None:
    result = [region(start=1.0, end=1.0), region(start=-0.01, end=0.5)]
    assert problem.target(result, DATA).segments == ((0.0, 0.5, 0),)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ({"start": 2.0, "end": 1.0}, "expected a start and an end in seconds"),
        ({"start": None}, "expected a start and an end in seconds"),
        ({"end": float("nan")}, "expected a start and an end in seconds"),
        ({"end": "1.5"}, "expected a start and an end in seconds"),
        ({"labels": ["Music"]}, "no longer has"),
        ({"labels": []}, "no label"),
    ],
)
def test_a_segment_that_cannot_be_read_skips_the_annotation_with_the_reason(
    problem: SegmentsInTime, value: dict[str, Any], reason: str
) -> None:
    with pytest.raises(MissingTargetError, match=reason):
        problem.target([RECORDED, region(**value)], DATA)


def test_segments_are_predicted_with_scores_and_an_empty_answer_has_one(problem: SegmentsInTime) -> None:
    segments = (
        Segment(start_s=0, end_s=1, label=0, probability=0.9),
        Segment(start_s=0.5, end_s=2, label=1, probability=0.7),
    )
    prediction = problem.prediction(SegmentScores(segments=segments, length_s=3.0), DATA)
    assert [found["score"] for found in prediction.regions] == [0.9, 0.7]
    assert prediction.score == pytest.approx(0.8)
    silent = problem.prediction(SegmentScores(segments=(), length_s=3.0, no_segment_probability=0.6), DATA)
    assert (silent.regions, silent.score) == ([], 0.6)


def test_moments_on_which_most_annotators_agree_are_kept(problem: SegmentsInTime) -> None:
    spans = [(0.0, 2.0), (1.0, 3.0), (1.5, 2.5)]
    targets = [SegmentTarget(((*span, 0),), 4.0) for span in spans]
    assert problem.aggregate(targets) == SegmentTarget(((1.0, 2.5, 0),))
    assert problem.aggregate(targets).length_s == 4.0


def test_of_two_annotators_the_newest_decides(problem: SegmentsInTime) -> None:
    targets = [SegmentTarget(((0.0, 1.0, 0),)), SegmentTarget(((0.5, 2.0, 0), (3.0, 4.0, 1)))]
    assert problem.aggregate(targets) == targets[1]
    assert problem.aggregate([targets[0], SegmentTarget(())]) == SegmentTarget(())


def test_two_sets_of_labels_for_one_sound_do_not_answer_for_each_other() -> None:
    two = CONFIG.replace("</View>", '<Labels name="who" toName="audio"><Label value="Ada"/></Labels></View>')
    part, who = bind(two).bindings
    with pytest.raises(MissingTargetError, match="'who' was not used, but 'part' was"):
        who.target([RECORDED], DATA)
    assert part.may_be_unused(part.target([], DATA))


def test_several_sounds_are_refused() -> None:
    config = CONFIG.replace('toName="audio"', 'toName="audio,other"').replace(
        "</View>", '<Audio name="other" value="$other"/></View>'
    )
    (unclaimed,) = bind(config).unclaimed
    assert "several sounds" in unclaimed.reason
