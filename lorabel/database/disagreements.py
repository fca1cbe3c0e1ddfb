"""Tasks about which annotators disagree, among those that were annotated last."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from lorabel.database.newest_answers import if_short
from lorabel.database.tables import Annotation
from lorabel.database.training_runs import IS_USABLE
from lorabel.labeling.results import is_same_result

# Tasks with more annotations are looked at as far as this.
MOST_PER_TASK = 20
MOST_TASKS = 200


@dataclass(frozen=True)
class Opinion:
    """An annotation of a task. `annotator`: user id in Label Studio; None if it is not known."""

    annotation_id: int
    annotator: int | None
    result: Sequence[Any]


@dataclass(frozen=True)
class Disagreement:
    """A task with annotations that do not say the same, the oldest annotation first."""

    task_id: int
    opinions: Sequence[Opinion]


def among_newest(session: Session, project_id: int, limit: int) -> list[Disagreement]:
    """The disagreements about the tasks of the newest `limit` annotations, those about the newest tasks first.

    At most MOST_TASKS tasks that have several annotations are compared. Results that are too long to be read
    (see `newest_answers`) are left out.
    """
    is_usable = (Annotation.project_id == project_id, *IS_USABLE)
    newest = (
        select(Annotation.task_id)
        .where(Annotation.task_id.is_not(None), *is_usable)
        .order_by(Annotation.updated_at.desc(), Annotation.id.desc())
        .limit(limit)
        .subquery()
    )
    several = (
        select(Annotation.task_id)
        .where(*is_usable, Annotation.task_id.in_(select(newest.c.task_id)))
        .group_by(Annotation.task_id)
        .having(func.count() > 1)
        .order_by(func.max(Annotation.id).desc())
        .limit(MOST_TASKS)
    )
    task_ids = [task_id for task_id in session.scalars(several) if task_id is not None]
    if not task_ids:
        return []
    rows = session.execute(
        select(Annotation.task_id, Annotation.id, Annotation.completed_by, if_short(Annotation.result)).where(
            *is_usable, Annotation.task_id.in_(task_ids)
        )
    ).all()
    opinions: dict[int, list[Opinion]] = defaultdict(list)
    # Not sorted by SQLite, which would read all annotations in the order of their ids.
    for task_id, annotation_id, annotator, result in sorted(rows, key=lambda row: row[1]):
        if isinstance(result, list) and len(opinions[task_id]) < MOST_PER_TASK:
            opinions[task_id].append(Opinion(annotation_id, annotator, result))
    return [Disagreement(task_id, opinions[task_id]) for task_id in task_ids if _differ(opinions[task_id])]


def _differ(opinions: Sequence[Opinion]) -> bool:
    return any(not is_same_result(opinions[0].result, opinion.result) for opinion in opinions[1:])
