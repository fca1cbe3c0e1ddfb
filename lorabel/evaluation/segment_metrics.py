"""Figures of segments in time: F1 by overlap, and how far their boundaries are off.

SciPy is imported inside the function: it takes long to import, and the backend never evaluates.
"""

from collections.abc import Sequence

import numpy as np

from lorabel.evaluation.metrics import Metrics
from lorabel.time_contracts import TimedLabel

# A predicted segment is right if its intersection with a true one, divided by their union, is at least this.
OVERLAP = 0.5
MS_PER_S = 1000.0

Pair = tuple[TimedLabel, TimedLabel]


def segment_metrics(
    targets: Sequence[Sequence[TimedLabel]], predicted: Sequence[Sequence[TimedLabel]], labels: Sequence[str]
) -> Metrics:
    """Precision, recall and F1 of the segments of all tasks together, and for each label.

    Each true segment counts for at most one predicted segment of its label, such that as many as possible count.
    `boundary_error_ms` is the mean absolute error of the starts and ends of the segments that count; None if none
    does. Figures are 1 where no segment is true and none was predicted. `macro_f1` is over the labels that occur
    in targets or predictions.

    Args:
        targets: the true segments of each task.
        predicted: the predicted segments of each task.
    """
    per_class, f1s, pairs = {}, [], list[Pair]()
    for index, label in enumerate(labels):
        truth = [[segment for segment in segments if segment[2] == index] for segments in targets]
        guess = [[segment for segment in segments if segment[2] == index] for segments in predicted]
        matched = [pair for task in zip(truth, guess, strict=True) for pair in _matched(*task)]
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


def _matched(truth: Sequence[TimedLabel], guess: Sequence[TimedLabel]) -> list[Pair]:
    """The pairs of true and predicted segments that count."""
    from scipy.optimize import linear_sum_assignment

    overlaps = np.array([[_overlap(true, found) for found in guess] for true in truth])
    overlaps = overlaps.reshape(len(truth), len(guess))
    # One more pair is worth more than any overlaps.
    worth = np.where(overlaps >= OVERLAP, 1 + overlaps / (1 + len(truth)), 0.0)
    rows, columns = linear_sum_assignment(worth, maximize=True)
    return [
        (truth[row], guess[column]) for row, column in zip(rows, columns, strict=True) if worth[row, column] > 0
    ]


def _overlap(first: TimedLabel, second: TimedLabel) -> float:
    """Intersection over union of two segments."""
    both = max(0.0, min(first[1], second[1]) - max(first[0], second[0]))
    return both / (first[1] - first[0] + second[1] - second[0] - both)


def _figures(pairs: Sequence[Pair], true_count: int, predicted_count: int) -> dict[str, float | None]:
    errors = [abs(guess[side] - truth[side]) for truth, guess in pairs for side in (0, 1)]
    error_ms = MS_PER_S * sum(errors) / len(errors) if errors else None
    if not true_count and not predicted_count:
        return {"precision": 1.0, "recall": 1.0, "f1": 1.0, "boundary_error_ms": error_ms}
    return {
        "precision": len(pairs) / predicted_count if predicted_count else 0.0,
        "recall": len(pairs) / true_count if true_count else 0.0,
        "f1": 2 * len(pairs) / (true_count + predicted_count),
        "boundary_error_ms": error_ms,
    }
