"""The tasks that the last prediction could not read: a row and a line in the log for each."""

import logging
from collections.abc import Collection, Mapping

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from lorabel.database.store import Store
from lorabel.database.tables import UnreadableTask, now
from lorabel.inference.requests import Unreadable

log = logging.getLogger(__name__)


def known(session: Session, project_id: int) -> frozenset[int]:
    """The tasks of the project that could not be read when they were last predicted."""
    return frozenset(
        session.scalars(select(UnreadableTask.task_id).where(UnreadableTask.project_id == project_id))
    )


def write(store: Store, project_id: int, found: Mapping[int, Unreadable | None], before: Collection[int]) -> None:
    """Remember what was not read and forget what now was. Usually that is nothing.

    Args:
        found: for each task why it was not read, or None.
        before: what was `known` a short time ago.
    """
    new = {task_id: why for task_id, why in found.items() if why is not None}
    for task_id, why in new.items():
        hope = "for good" if why.is_permanent else "for now"
        log.warning("project %d, task %d cannot be read %s: %s", project_id, task_id, hope, why.reason)
    of_project = UnreadableTask.project_id == project_id
    gone = set(before) & found.keys() - new.keys()
    if not new and not gone:
        return
    seen_at = now()
    rows = [
        {
            "project_id": project_id,
            "task_id": task_id,
            "reason": why.reason,
            "is_permanent": why.is_permanent,
            "seen_at": seen_at,
        }
        for task_id, why in sorted(new.items())
    ]
    insert = store.insert(UnreadableTask)
    changed = {name: insert.excluded[name] for name in ("reason", "is_permanent", "seen_at")}
    with store.write() as session:
        session.execute(delete(UnreadableTask).where(of_project, UnreadableTask.task_id.in_(gone)))
        if rows:
            upsert = insert.on_conflict_do_update(index_elements=["project_id", "task_id"], set_=changed)
            session.connection().execute(upsert, rows)
