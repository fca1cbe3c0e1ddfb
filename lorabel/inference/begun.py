"""What annotators have begun in a task, for a model that goes on with it.

Boxes that were drawn in one frame, and segments of a sound without their texts.
"""

from collections import defaultdict
from collections.abc import Sequence

from sqlalchemy import select

from lorabel.database.store import Store
from lorabel.database.tables import Annotation
from lorabel.database.training_runs import IS_USABLE
from lorabel.inference.prediction import TRACKER, ProjectModel
from lorabel.labeling.regions import Region
from lorabel.problems.base import Problem


def results_to_go_on_with(store: Store, model: ProjectModel, task_ids: Sequence[int]) -> list[list[list[Region]]]:
    """Return for each task the results of its annotations as they are now, the oldest annotation first.

    Empty where no control tag is gone on with; tracks are only with the setting MODEL_TRACKER.
    """
    kinds = [type(each) for each in model.bound.bindings]
    follows = TRACKER in model.settings.models and any(kind.going_on is not Problem.going_on for kind in kinds)
    if not follows and all(kind.begun is Problem.begun for kind in kinds):
        return []
    query = (
        select(Annotation.task_id, Annotation.result)
        .where(Annotation.project_id == model.project_id, Annotation.task_id.in_(task_ids), *IS_USABLE)
        .order_by(Annotation.id)
    )
    by_task: defaultdict[int | None, list[list[Region]]] = defaultdict(list)
    with store.read() as session:
        for task_id, result in session.execute(query):
            by_task[task_id] += [result] if isinstance(result, list) else []
    return [by_task[task_id] for task_id in task_ids]
