"""Explains the predictions of `/predict` for the editor, see `lorabel/explanations/editor.py`."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from time import monotonic

from backend import http_bodies
from backend.services import Services
from lorabel.contracts import MediaRef
from lorabel.explanations.editor import EditorExplanation, Outcome
from lorabel.inference.prediction import ProjectModel
from lorabel.inference.requests import PredictionCaller
from lorabel.inference.task_prediction import TaskPrediction
from lorabel.labeling.regions import Region

# Part of the time that is left in which the tasks of a request are explained: the predictions must arrive.
EXPLAINING_PART = 0.5
LATE = EditorExplanation((), Outcome.LATE)


def explain(
    services: Services,
    model: ProjectModel,
    tasks: Sequence[http_bodies.Task],
    predictions: Sequence[TaskPrediction],
    resolve: Callable[[MediaRef], MediaRef],
    caller: PredictionCaller,
) -> list[Sequence[Region]]:
    """Return for each task the regions that explain its prediction; none if they are not wanted or fail.

    Args:
        predictions: of the tasks, in their order.
    """
    if not services.editor_explanations.are_wanted(model.bound.config):
        return [()] * len(tasks)
    now = monotonic()
    until = now + EXPLAINING_PART * (caller.deadline - now)
    regions: list[Sequence[Region]] = []
    for task, prediction in zip(tasks, predictions, strict=True):
        if prediction.unreadable is not None or not prediction.regions:
            regions.append(())
            continue
        is_unwanted = monotonic() >= until or (caller.is_gone is not None and caller.is_gone())
        explanation = LATE if is_unwanted else _explain(services, model, task, prediction, resolve, caller)
        services.metrics.editor_explanations.labels(explanation.outcome).inc()
        regions.append(explanation.regions)
    return regions


def _explain(
    services: Services,
    model: ProjectModel,
    task: http_bodies.Task,
    prediction: TaskPrediction,
    resolve: Callable[[MediaRef], MediaRef],
    caller: PredictionCaller,
) -> EditorExplanation:
    """The explanation of one prediction; EXPLAIN_MAX_S is for it and for waiting for others."""
    deadline = min(caller.deadline, monotonic() + services.settings.explain_max_s)
    if not services.explanation_slots.acquire(timeout=max(0.0, deadline - monotonic())):
        return LATE
    try:
        return services.editor_explanations.explain(
            model, (task.id, task.data), prediction.regions, resolve, replace(caller, deadline=deadline)
        )
    finally:
        services.explanation_slots.release()
