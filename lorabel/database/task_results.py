"""What the newest annotations of tasks say."""

from collections.abc import Collection, Sequence
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from lorabel.database.newest_answers import if_short
from lorabel.database.store import id_chunks
from lorabel.database.tables import Annotation
from lorabel.database.training_runs import IS_USABLE


def newest_results(session: Session, project_id: int, task_ids: Collection[int]) -> dict[int, Sequence[Any]]:
    """The result of the newest annotation of each of these tasks that has one which is not too long to be read."""
    results: dict[int, Sequence[Any]] = {}
    for chunk in id_chunks(list(task_ids)):
        rows = session.execute(
            select(Annotation.task_id, Annotation.id, if_short(Annotation.result)).where(
                Annotation.project_id == project_id, Annotation.task_id.in_(chunk), *IS_USABLE
            )
        ).all()
        for task_id, _, result in sorted(rows, key=lambda row: row[1]):
            if task_id is not None and isinstance(result, list):
                results[task_id] = result
    return results
