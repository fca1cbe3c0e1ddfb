"""Turns the probabilities of windows into segments. NumPy only.

Between the middles of two windows the probability of a label is taken to change evenly. A segment is where it is
at least THRESHOLD, so that boundaries are finer than the step from window to window.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from lorabel.families.encoders.heads.linear_head import Array
from lorabel.families.encoders.heads.platt import Scale, scaled
from lorabel.time_contracts import Segment, SegmentScores

THRESHOLD = 0.5


def found_segments(probabilities: Array, step_s: float, scales: Sequence[Scale] = ()) -> SegmentScores:
    """Return the segments of each label.

    The last window stands for what comes after its middle, too; `SegmentScores.within` ends it with the recording.

    Args:
        probabilities: (windows, labels) in [0, 1].
        step_s: seconds from one window to the next.
        scales: calibrate the scores of each label, see `LinearHead.score_scales`.
    """
    segments = sorted(
        (
            segment
            for label, column in enumerate(probabilities.T)
            for segment in _of_label(column, label, step_s, scales)
        ),
        key=lambda segment: (segment.start_s, segment.end_s, segment.label),
    )
    return SegmentScores(
        segments=tuple(segments),
        no_segment_probability=1 - float(probabilities.max(initial=0.0)),
        expected_overlap=_expected_overlap(probabilities),
    )


def _expected_overlap(probabilities: Array) -> float:
    """The Dice coefficient of what is found and what is there, both as expected numbers of windows.

    A window is added to both, so that silence of which the model is sure counts as found.
    """
    is_in = probabilities >= THRESHOLD
    right = float(probabilities[is_in].sum())
    return (2 * right + 1) / (int(is_in.sum()) + float(probabilities.sum()) + 1)


def _of_label(column: Array, label: int, step_s: float, scales: Sequence[Scale]) -> Iterator[Segment]:
    """The segments of a label, from its probabilities, (windows,)."""
    is_in = np.concatenate([[False], column >= THRESHOLD, [False]])
    changes = np.flatnonzero(is_in[1:] != is_in[:-1])
    for first, after in zip(changes[::2].tolist(), changes[1::2].tolist(), strict=True):
        start = 0.0 if first == 0 else _crossing(column, first - 1)
        end = float(after) if after == len(column) else _crossing(column, after - 1)
        if start < end:
            probability = scaled(float(column[first:after].mean()), scales, label)
            yield Segment(start_s=start * step_s, end_s=end * step_s, label=label, probability=probability)


def _crossing(column: Array, window: int) -> float:
    """Where the probability is THRESHOLD between a window and the next, in windows."""
    before, after = float(column[window]), float(column[window + 1])
    return window + (THRESHOLD - before) / (after - before)
