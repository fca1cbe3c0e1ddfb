"""Figures of segments of series: F1 by overlap, and how far their boundaries are off, in steps of the series."""

from collections.abc import Sequence
from typing import Any

from lorabel.evaluation.metrics import Metrics
from lorabel.evaluation.segment_metrics import MS_PER_S, right_segments, segment_metrics
from lorabel.series_contracts import SeriesSegment

# An instant counts as so many steps before and after it: it is right if it is at most two thirds of them away.
INSTANT_STEPS = 5.0


def series_metrics(
    targets: Sequence[Sequence[SeriesSegment]],
    predicted: Sequence[Sequence[SeriesSegment]],
    steps: Sequence[float],
    labels: Sequence[str],
) -> Metrics:
    """Precision, recall and F1 of the segments of all tasks together, and for each label.

    See `segment_metrics`. `boundary_error_steps` takes the place of `boundary_error_ms`.

    Args:
        targets: the true segments of each task.
        predicted: the predicted segments of each task.
        steps: of the series of each task, see `SeriesScores`; 0 counts as 1.
    """
    true_in_steps, predicted_in_steps = (
        [
            [_in_steps(segment, step or 1.0) for segment in of_task]
            for of_task, step in zip(each, steps, strict=True)
        ]
        for each in (targets, predicted)
    )
    metrics = segment_metrics(true_in_steps, predicted_in_steps, labels)
    values = _renamed(metrics.values)
    values["per_class"] = {label: _renamed(figures) for label, figures in values["per_class"].items()}
    return Metrics(metrics.primary, values)


def right_series_segments(
    truth: Sequence[SeriesSegment], guess: Sequence[SeriesSegment], step: float
) -> list[bool]:
    """Return for each predicted segment of a series whether it is right, as `series_metrics` counts.

    Args:
        step: of the series; 0 counts as 1.
    """
    return right_segments(*([_in_steps(segment, step or 1.0) for segment in each] for each in (truth, guess)))


def _in_steps(segment: SeriesSegment, step: float) -> SeriesSegment:
    start, end, label = segment
    around = INSTANT_STEPS if start == end else 0.0
    return start / step - around, end / step + around, label


def _renamed(values: dict[str, Any]) -> dict[str, Any]:
    """Figures with errors of boundaries in steps. `segment_metrics` takes a step for a second."""
    error_ms = values["boundary_error_ms"]
    return {
        **{name: value for name, value in values.items() if name != "boundary_error_ms"},
        "boundary_error_steps": None if error_ms is None else error_ms / MS_PER_S,
    }
