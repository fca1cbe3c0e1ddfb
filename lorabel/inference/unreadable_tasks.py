"""The tasks that the last prediction could not read: each has a row in the database and a line in the log."""

import logging
import re
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from lorabel.database.store import Store, id_chunks
from lorabel.database.tables import Project, UnreadableTask, now
from lorabel.inference.requests import Unreadable
from lorabel.labeling.redacted_bodies import masked_reason
from lorabel.redaction import Redactor

log = logging.getLogger(__name__)

# How the reason begins if a family's base model cannot be loaded (`Family.load`). No task is to blame for that.
MODEL_FAULT = re.compile(r"MODEL_(?P<family>[A-Z0-9_]+)=")


def model_faults(session: Session) -> dict[str, str]:
    """By family, why its base model could not be loaded when a task of a connected project was last predicted."""
    reasons = session.scalars(
        select(UnreadableTask.reason)
        .join(Project, Project.id == UnreadableTask.project_id)
        .where(Project.is_deleted.is_(False), UnreadableTask.reason.startswith("MODEL_", autoescape=True))
        .group_by(UnreadableTask.reason)
        .order_by(func.max(UnreadableTask.seen_at))
    )
    return {match["family"].lower(): reason for reason in reasons if (match := MODEL_FAULT.match(reason))}


def known(session: Session, project_id: int) -> frozenset[int]:
    """The ids of the project's tasks that could not be read when they were last predicted."""
    return frozenset(
        session.scalars(select(UnreadableTask.task_id).where(UnreadableTask.project_id == project_id))
    )


def masked(unreadable: Unreadable | None, redactor: Redactor, data: Any) -> Unreadable | None:
    """Why a task could not be read, without the personal data that the reason may quote.

    Args:
        data: the task's.
    """
    # A late one has not been looked at, so its reason quotes nothing, and there may be thousands.
    if unreadable is None or unreadable.is_late or not redactor.is_on:
        return unreadable
    return replace(unreadable, reason=masked_reason(redactor, data, unreadable.reason))


def write(
    store: Store, project_id: int, reasons: Mapping[int, Unreadable | None], before: Collection[int]
) -> None:
    """Store the tasks that could not be read, and delete those that could be read now. Usually there are none.

    Args:
        reasons: by task id why the task could not be read, as `masked` returns it, or None if it was read.
        before: what `known` returned a short time ago.
    """
    unreadable = {task_id: reason for task_id, reason in reasons.items() if reason is not None}
    for task_id, why in unreadable.items():
        duration = "for good" if why.is_permanent else "for now"
        log.warning("project %d, task %d cannot be read %s: %s", project_id, task_id, duration, why.reason)
    readable_again = set(before) & reasons.keys() - unreadable.keys()
    if not unreadable and not readable_again:
        return
    of_project = UnreadableTask.project_id == project_id
    seen_at = now()
    rows = [
        {
            "project_id": project_id,
            "task_id": task_id,
            "reason": why.reason,
            "is_permanent": why.is_permanent,
            "seen_at": seen_at,
        }
        for task_id, why in sorted(unreadable.items())
    ]
    insert = store.insert(UnreadableTask)
    changed = {name: insert.excluded[name] for name in ("reason", "is_permanent", "seen_at")}
    with store.write() as session:
        for chunk in id_chunks(sorted(readable_again)):
            session.execute(delete(UnreadableTask).where(of_project, UnreadableTask.task_id.in_(chunk)))
        if rows:
            upsert = insert.on_conflict_do_update(index_elements=["project_id", "task_id"], set_=changed)
            session.connection().execute(upsert, rows)
