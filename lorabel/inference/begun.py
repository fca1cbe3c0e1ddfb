"""What annotators have begun in a task, for a model that goes on with it.

Boxes that were drawn in one frame, and segments of a sound without their texts.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import select

from lorabel.database.store import Store
from lorabel.database.tables import Annotation
from lorabel.database.training_runs import IS_USABLE
from lorabel.errors import UnreadableError
from lorabel.inference.prediction import TRACKER, ProjectModel
from lorabel.labeling.regions import Region
from lorabel.problems.base import Problem, TaskData


def results_to_go_on_with(store: Store, model: ProjectModel, task_ids: Sequence[int]) -> list[list[list[Region]]]:
    """Return for each task the results of its annotations as they are now, the oldest annotation first.

    Empty where no control tag is gone on with; tracks are only with the setting MODEL_TRACKER.
    """
    if not _goes_on(model):
        return []
    query = (
        select(Annotation.task_id, Annotation.result)
        .where(Annotation.project_id == model.project_id, Annotation.task_id.in_(task_ids), *IS_USABLE)
        .order_by(Annotation.id)
    )
    by_task: defaultdict[int | None, list[list[Region]]] = defaultdict(list)
    with store.look_up() as session:
        for task_id, result in session.execute(query):
            by_task[task_id] += [result] if isinstance(result, list) else []
    return [by_task[task_id] for task_id in task_ids]


def results_of_tasks(
    model: ProjectModel, annotations: Sequence[Sequence[Mapping[str, Any]]]
) -> list[list[list[Region]]]:
    """Return the same of annotations as Label Studio gives them: their events may not have been applied yet.

    Args:
        annotations: of each task, skipped ones too.
    """
    return [_usable_results(of_task) for of_task in annotations] if _goes_on(model) else []


def is_begun_since(
    model: ProjectModel, data: TaskData, annotations: Sequence[Mapping[str, Any]], predicted_at: datetime
) -> bool:
    """Whether annotators have begun something in a task that an older prediction could not go on with.

    The name of the version does not always say so: where an adapter answers in place of the heads, it stays the
    same after an annotation.

    Args:
        annotations: of the task, as Label Studio gives them, skipped ones too.
        predicted_at: when the newest prediction was written, by Label Studio's clock.
    """
    newer = [each for each in annotations if datetime.fromisoformat(each["updated_at"]) > predicted_at]
    results = _usable_results(newer)
    return bool(results) and any(_is_begun(model, each, data, results) for each in model.bound.bindings)


def _usable_results(annotations: Sequence[Mapping[str, Any]]) -> list[list[Region]]:
    return [
        annotation["result"]
        for annotation in annotations
        if isinstance(annotation["result"], list) and not annotation["was_cancelled"]
    ]


def _goes_on(model: ProjectModel) -> bool:
    return any(_follows(model, each) or _has_begun(each) for each in model.bound.bindings)


def _is_begun(model: ProjectModel, binding: Problem, data: TaskData, results: list[list[Region]]) -> bool:
    if _has_begun(binding) and binding.begun(results):
        return True
    if not _follows(model, binding):
        return False
    try:
        question = binding.model_input(data)
    except UnreadableError:  # of which the next prediction says why
        return False
    return binding.going_on(question, data, results) != question


def _follows(model: ProjectModel, binding: Problem) -> bool:
    return TRACKER in model.settings.models and type(binding).going_on is not Problem.going_on


def _has_begun(binding: Problem) -> bool:
    return type(binding).begun is not Problem.begun
