"""Segments of a sound that are what somebody says without a pause. NumPy only.

Where people speak is found by `lorabel.families.segments.voice_activity`, more exactly than windows of a second
can tell it. The windows say which label fits.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from lorabel.families.encoders.heads.linear_head import Array
from lorabel.families.encoders.heads.platt import Scale
from lorabel.families.segments.found_segments import found_segments
from lorabel.time_contracts import Segment, SegmentScores, SegmentsInput, SpokenPart

# Speech is left out if a head that was taught finds it less likely than this that any label fits.
LEAST_FIT = 0.25
# A segment of which a larger share is speech is one of the parts that are spoken, found less exactly.
MOST_SPOKEN = 0.5


def answered_segments(
    question: SegmentsInput, probabilities: Array, *, is_taught: bool, scales: Sequence[Scale] = ()
) -> SegmentScores:
    """Return the segments that a question asks for.

    Args:
        probabilities: (windows, labels) in [0, 1].
        is_taught: whether they are of a head that was fitted to what people have marked.
        scales: calibrate the scores of what is found by windows, see `found_segments`.
    """
    if question.spoken is None:
        return found_segments(probabilities, question.step_s, scales)
    segments = list(_spoken(question.spoken, probabilities, question.step_s, is_taught))
    if is_taught and len(question.labels) > 1:
        # What people mark beside speech, such as noise.
        others = found_segments(probabilities, question.step_s, scales).segments
        segments += [segment for segment in others if not _is_spoken(segment, question.spoken)]
    segments.sort(key=lambda segment: (segment.start_s, segment.end_s, segment.label))
    chances = [segment.probability for segment in segments]
    return SegmentScores(segments=tuple(segments), expected_overlap=float(np.mean(chances)) if chances else 1.0)


def _spoken(
    spoken: Sequence[SpokenPart], probabilities: Array, step_s: float, is_taught: bool
) -> Iterator[Segment]:
    for start, end, chance in spoken:
        fits = _windows_in(start, end, probabilities, step_s).mean(0)
        if is_taught and 1 - np.prod(1 - fits) < LEAST_FIT:
            continue
        label = int(fits.argmax())
        share = float(fits[label] / max(fits.sum(), np.finfo(np.float32).tiny))
        yield Segment(start_s=start, end_s=end, label=label, probability=min(1.0, chance * share))


def _windows_in(start_s: float, end_s: float, probabilities: Array, step_s: float) -> Array:
    """Those of the windows whose middles are in a part, or the one that is nearest to its middle."""
    first, last = int(np.ceil(start_s / step_s)), int(end_s / step_s)
    inside = probabilities[first : last + 1]
    if len(inside):
        return inside
    nearest = min(round((start_s + end_s) / 2 / step_s), len(probabilities) - 1)
    return probabilities[nearest : nearest + 1]


def _is_spoken(segment: Segment, spoken: Sequence[SpokenPart]) -> bool:
    covered = sum(max(0.0, min(segment.end_s, end) - max(segment.start_s, start)) for start, end, _ in spoken)
    return covered > MOST_SPOKEN * (segment.end_s - segment.start_s)
