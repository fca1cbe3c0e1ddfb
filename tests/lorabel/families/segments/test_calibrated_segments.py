"""Scores of segments say how often they are right, which the test knows: one label is clear, the other is not."""

from collections.abc import Sequence

import numpy as np
import pytest

from lorabel.contracts import Content, MediaRef, Modality
from lorabel.families.encoders.heads.fit import Example, fit_head
from lorabel.families.encoders.heads.fit_segments import AnnotatedRecording, fit_segments
from lorabel.families.encoders.heads.linear_head import LinearHead, probabilities
from lorabel.families.segments.found_segments import found_segments
from lorabel.time_contracts import Segment, SegmentsInput, SegmentTarget, TimedLabel

WINDOWS, STEP_S, DIM = 60, 0.25, 8
CLEAR, VAGUE = 0, 1
UNSEEN = range(100, 120)


def recording(number: int) -> AnnotatedRecording:
    """One of CLEAR, exactly where it looks like it. Of what looks like VAGUE, one end or the other is marked."""
    rng = np.random.default_rng(number)
    looks = rng.normal(0, 0.3, (WINDOWS, DIM)).astype(np.float32)
    truth = np.zeros((WINDOWS, 2), np.float32)
    first = int(rng.integers(2, 10))
    looks[first : first + 12, CLEAR] += 4
    truth[first : first + 12, CLEAR] = 1
    looks[35:45, VAGUE] += 4
    ends = ((35, 45), (35, 39), (41, 45), (38, 42))
    begin, end = ends[number % len(ends)]
    truth[begin:end, VAGUE] = 1
    segments = tuple(
        (float((begin - 0.5) * STEP_S), float((end - 0.5) * STEP_S), label)
        for label, (begin, end) in enumerate(((first, first + 12), (begin, end)))
    )
    return AnnotatedRecording(looks, np.zeros((WINDOWS, 2), np.float32), truth, number, segments, STEP_S)


def fitted(count: int) -> LinearHead:
    head = fit_segments([recording(number) for number in range(count)])
    assert head is not None
    return head


def found_by(head: LinearHead, number: int, *, is_calibrated: bool = True) -> Sequence[Segment]:
    tested = recording(number)
    chances = probabilities(head, tested.features, tested.zero_shot, is_multiple=True)
    return found_segments(chances, STEP_S, head.score_scales if is_calibrated else ()).segments


def is_over_half(found: Segment, number: int) -> bool:
    """Whether a segment of a recording overlaps the true one of its label by half of their union."""
    (start, end) = next(each[:2] for each in recording(number).segments if each[2] == found.label)
    both = min(end, found.end_s) - max(start, found.start_s)
    return both >= 0.5 * (end - start + found.end_s - found.start_s - both)


def span(segment: Segment) -> TimedLabel:
    return segment.start_s, segment.end_s, segment.label


def test_scores_are_how_often_segments_of_the_label_are_right() -> None:
    head = fitted(40)
    raw = [segment for number in UNSEEN for segment in found_by(head, number, is_calibrated=False)]
    scored = [segment for number in UNSEEN for segment in found_by(head, number)]
    assert list(map(span, scored)) == list(map(span, raw)), "the same segments are found"
    is_right = [is_over_half(each, number) for number in UNSEEN for each in found_by(head, number)]
    for label in (CLEAR, VAGUE):
        before, after, right = (
            np.mean([value for value, each in zip(values, scored, strict=True) if each.label == label])
            for values in ([each.probability for each in raw], [each.probability for each in scored], is_right)
        )
        assert after == pytest.approx(right, abs=0.12), label
        assert before > 0.5, "the mean probability of its windows cannot be less"
        assert abs(after - right) < abs(before - right) or label == CLEAR


@pytest.mark.slow
def test_the_order_of_the_annotations_changes_no_bit() -> None:
    question = SegmentsInput(
        contents=(Content(modality=Modality.AUDIO, media=MediaRef(url="x")),),
        labels=(("a",), ("b",)),
        step_s=STEP_S,
    )
    examples = [
        Example(question, each.features, each.zero_shot.ravel(), SegmentTarget(each.segments))
        for each in map(recording, range(12))
    ]
    one, other = (fit_head(order, "") for order in (examples, examples[::-1]))
    assert one is not None and other is not None and one.score_scales
    assert one.to_bytes() == other.to_bytes()
    assert LinearHead.from_bytes(one.to_bytes()).score_scales == one.score_scales


def test_few_recordings_are_not_calibrated() -> None:
    assert fitted(9).score_scales == ()
    assert fitted(10).score_scales != ()


def test_what_is_marked_after_the_part_that_was_read_counts_up_to_there() -> None:
    """Else a segment that is found up to the end of the part would count as wrong."""
    long = recording(0)
    end_s = WINDOWS * STEP_S
    marked = AnnotatedRecording(
        long.features, long.zero_shot, long.truth, 0, ((1.0, 999.0, 0), (999.0, 1000.0, 1)), STEP_S
    ).marked
    assert marked == [(1.0, end_s, 0)]
