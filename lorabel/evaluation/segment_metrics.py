"""Figures of segments in time: F1 by overlap, and how far their boundaries are off.

SciPy is imported inside the function: it takes long to import, and the backend never evaluates.
"""

from collections.abc import Iterator, Sequence
from math import inf
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lorabel.evaluation.metrics import Metrics
from lorabel.time_contracts import TimedLabel

# A predicted segment is right if its intersection with a true one, divided by their union, is at least this.
OVERLAP = 0.5
MS_PER_S = 1000.0


class Pair(NamedTuple):
    """A true segment, and the predicted one that counts for it, in a video with so many frames in a second."""

    true: TimedLabel
    found: TimedLabel
    frames_per_s: float | None

    @property
    def errors_s(self) -> tuple[float, float]:
        """How far start and end are off, in seconds."""
        return abs(self.found[0] - self.true[0]), abs(self.found[1] - self.true[1])


def segment_metrics(
    targets: Sequence[Sequence[TimedLabel]],
    predicted: Sequence[Sequence[TimedLabel]],
    labels: Sequence[str],
    frames_per_s: Sequence[float] | None = None,
) -> Metrics:
    """Precision, recall and F1 of the segments of all tasks together, and for each label.

    Each true segment counts for at most one predicted segment of its label, such that as many as possible count.
    `boundary_error_ms` is the mean absolute error of the starts and ends of the segments that count; None if none
    does. For videos `boundary_error_frames` is beside it. Figures are 1 where no segment is true and none was
    predicted. `macro_f1` is over the labels that occur in targets or predictions.

    Args:
        targets: the true segments of each task.
        predicted: the predicted segments of each task.
        frames_per_s: of the video of each task; None for sounds.
    """
    rates: Sequence[float | None] = [None] * len(targets) if frames_per_s is None else frames_per_s
    per_class, f1s, pairs = {}, [], list[Pair]()
    for index, label in enumerate(labels):
        truth = [[segment for segment in segments if segment[2] == index] for segments in targets]
        guess = [[segment for segment in segments if segment[2] == index] for segments in predicted]
        matched = [pair for task in zip(truth, guess, rates, strict=True) for pair in _matched(*task)]
        counts = sum(map(len, truth)), sum(map(len, guess))
        per_class[label] = {**_figures(matched, *counts), "support": counts[0]}
        f1s += [per_class[label]["f1"]] if any(counts) else []
        pairs += matched
    return Metrics(
        "f1",
        {
            "tasks": len(targets),
            **_figures(pairs, sum(map(len, targets)), sum(map(len, predicted))),
            "macro_f1": sum(float(f1 or 0.0) for f1 in f1s) / len(f1s) if f1s else 1.0,
            "per_class": per_class,
            "labels": list(labels),
        },
    )


def right_segments(truth: Sequence[TimedLabel], guess: Sequence[TimedLabel]) -> list[bool]:
    """Return for each predicted segment of a recording whether it is right, as `segment_metrics` counts."""
    right: set[TimedLabel] = set()
    for label in {segment[2] for segment in guess}:
        of_label = [[segment for segment in segments if segment[2] == label] for segments in (truth, guess)]
        right |= {pair.found for pair in _matched(of_label[0], of_label[1], None)}
    return [segment in right for segment in guess]


def _matched(truth: Sequence[TimedLabel], guess: Sequence[TimedLabel], frames_per_s: float | None) -> list[Pair]:
    """The pairs of true and predicted segments that count."""
    return [pair for together in _clusters(truth, guess) for pair in _matched_in_cluster(*together, frames_per_s)]


def _clusters(
    truth: Sequence[TimedLabel], guess: Sequence[TimedLabel]
) -> Iterator[tuple[list[TimedLabel], list[TimedLabel]]]:
    """The true and the predicted segments of each stretch of time that some of them cover without a gap.

    No segment overlaps one of another stretch, and a table of all pairs of a long recording would be too large.
    """
    cluster: tuple[list[TimedLabel], list[TimedLabel]] = ([], [])
    end = -inf
    for segment, is_true in sorted([(each, True) for each in truth] + [(each, False) for each in guess]):
        if segment[0] >= end and any(cluster):
            yield cluster
            cluster = ([], [])
        cluster[0 if is_true else 1].append(segment)
        end = max(end, segment[1])
    yield cluster


def _matched_in_cluster(
    truth: Sequence[TimedLabel], guess: Sequence[TimedLabel], frames_per_s: float | None
) -> list[Pair]:
    from scipy.optimize import linear_sum_assignment

    if not truth or not guess:
        return []
    overlaps = _overlaps(np.array(truth), np.array(guess))
    # One more pair is worth more than any overlaps.
    worth = np.where(overlaps >= OVERLAP, 1 + overlaps / (1 + len(truth)), 0.0)
    rows, columns = linear_sum_assignment(worth, maximize=True)
    return [
        Pair(truth[row], guess[column], frames_per_s)
        for row, column in zip(rows, columns, strict=True)
        if worth[row, column] > 0
    ]


def _overlaps(truth: NDArray[np.float64], guess: NDArray[np.float64]) -> NDArray[np.float64]:
    """Intersection over union of each true and each predicted segment, (truth, guess)."""
    first, second = truth[:, None], guess[None, :]
    both = np.minimum(first[..., 1], second[..., 1]) - np.maximum(first[..., 0], second[..., 0])
    both = np.maximum(both, 0.0)
    lengths = first[..., 1] - first[..., 0] + second[..., 1] - second[..., 0]
    return np.asarray(both / (lengths - both))


def _figures(pairs: Sequence[Pair], true_count: int, predicted_count: int) -> dict[str, float | None]:
    figures = _boundary_errors(pairs)
    if not true_count and not predicted_count:
        return {"precision": 1.0, "recall": 1.0, "f1": 1.0, **figures}
    return {
        "precision": len(pairs) / predicted_count if predicted_count else 0.0,
        "recall": len(pairs) / true_count if true_count else 0.0,
        "f1": 2 * len(pairs) / (true_count + predicted_count),
        **figures,
    }


def _boundary_errors(pairs: Sequence[Pair]) -> dict[str, float | None]:
    """Mean errors in milliseconds, and in frames if all are of videos."""
    if not pairs:
        return {"boundary_error_ms": None}
    errors = {"boundary_error_ms": MS_PER_S * float(np.mean([pair.errors_s for pair in pairs]))}
    frames = [error * pair.frames_per_s for pair in pairs if pair.frames_per_s for error in pair.errors_s]
    return {**errors, "boundary_error_frames": float(np.mean(frames))} if frames else {**errors}
