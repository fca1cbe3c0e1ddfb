"""Rows of what heads are fitted on: the features of annotated tasks, and the base model's logits."""

import base64
import json
from collections.abc import Collection, Mapping
from datetime import datetime, timedelta
from typing import Any

import numpy as np
from sqlalchemy import delete, or_, select
from sqlalchemy.orm import Session

from lorabel.contracts import Input
from lorabel.database.store import Store, id_chunks
from lorabel.database.tables import DeletedTask, Project, TaskFeatures, now
from lorabel.errors import storable
from lorabel.feature_contracts import Features
from lorabel.media.fetching import digest

# After so long the model server is asked again about a task that could not be read.
RETRY_AFTER = timedelta(minutes=10)
LOGITS = np.dtype("<f4")


def question_digest(question: Input, adapter: str | None) -> str:
    """Digest of a question for features, whose media are as in the task's data; not of the files' bytes.

    Args:
        adapter: the adapter that it is asked with.
    """
    return digest(f"{_as_json(question)}{adapter or ''}".encode())


# Fields of questions for features that differ from task to task.
OF_TASKS = frozenset(
    {"contents", "boxes", "unlabelled", "segments", "regions", "numbers", "frames_per_s", "threshold"}
)


def labels_digest(question: Input) -> str:
    """Digest of everything in a question for features but what differs from task to task."""
    return digest(_as_json(question, exclude=set(OF_TASKS)).encode())


def read(session: Session, project_id: int, from_name: str, task_ids: Collection[int]) -> dict[int, TaskFeatures]:
    """Task id -> its row, for the tasks that have one."""
    of_tag = select(TaskFeatures).where(TaskFeatures.project_id == project_id, TaskFeatures.from_name == from_name)
    return {
        row.task_id: row
        for chunk in id_chunks(sorted(task_ids))
        for row in session.scalars(of_tag.where(TaskFeatures.task_id.in_(chunk)))
    }


def is_usable(row: TaskFeatures | None, question: str, at: datetime) -> bool:
    """Whether a row answers a question, also by saying that the task could not be read a short while ago."""
    if row is None or row.question != question:
        return False
    return row.reason is None or not is_asked_again(row.written_at, at)


def is_asked_again(unreadable_at: datetime, at: datetime) -> bool:
    """Whether the model server is asked again about a task that could not be read."""
    return at - unreadable_at >= RETRY_AFTER


def as_features(row: TaskFeatures) -> Features:
    """The model server's answer that a row holds; the row has no `reason`."""
    logits = np.frombuffer(row.logits, LOGITS)
    float16 = base64.b64encode(row.features).decode()
    return Features(
        space=row.space, dim=row.dim, float16=float16, logits=tuple(logits.tolist()), lines=tuple(row.lines or ())
    )


def write(
    store: Store,
    project_id: int,
    from_name: str,
    questions: Mapping[int, str],
    answers: Mapping[int, Features | str],
) -> None:
    """Insert or replace the rows of some tasks, without tasks that were deleted by now.

    Nothing is written if the project was deleted.

    Args:
        questions: task id -> digest of its question; it has at least the tasks of `answers`.
        answers: task id -> what the model server answered, or why the task could not be read.
    """
    if not answers:
        return
    written_at = now()
    insert = store.insert(TaskFeatures)
    keys = ("project_id", "from_name", "task_id")
    changed = {
        column.name: insert.excluded[column.name] for column in insert.table.columns if column.name not in keys
    }
    upsert = insert.on_conflict_do_update(index_elements=keys, set_=changed)
    with store.write() as session:
        # Locked, because deletions lock it too: else a row could come after the deletion of its task.
        project = session.get(Project, project_id, with_for_update=True)
        if project is None or project.is_deleted:
            return
        deleted = _deleted(session, project_id, answers)
        rows: list[dict[str, Any]] = [
            {
                "project_id": project_id,
                "from_name": from_name,
                "task_id": task_id,
                "question": questions[task_id],
                "written_at": written_at,
                **_columns(answer),
            }
            for task_id, answer in sorted(answers.items())
            if task_id not in deleted
        ]
        if rows:
            session.connection().execute(upsert, rows)


def _deleted(session: Session, project_id: int, task_ids: Collection[int]) -> set[int]:
    deleted = select(DeletedTask.task_id).where(DeletedTask.project_id == project_id)
    return {
        task_id
        for chunk in id_chunks(sorted(task_ids))
        for task_id in session.scalars(deleted.where(DeletedTask.task_id.in_(chunk)))
    }


def delete_tasks(session: Session, project_id: int, task_ids: Collection[int]) -> None:
    """Delete the rows of tasks that are no longer in Label Studio."""
    for chunk in id_chunks(sorted(task_ids)):
        session.execute(
            delete(TaskFeatures).where(TaskFeatures.project_id == project_id, TaskFeatures.task_id.in_(chunk))
        )


def prune(store: Store, project_id: int, tags: Collection[str], used: Mapping[str, Collection[int]]) -> int:
    """Delete rows that no fit uses. Another fit may want them back, and then they are computed again.

    Args:
        tags: the control tags of the label config. Rows of others are deleted.
        used: control tag -> the tasks whose rows are used. Of control tags that are missing all rows stay.

    Returns:
        How many were deleted.
    """
    of_project = TaskFeatures.project_id == project_id
    candidates = or_(TaskFeatures.from_name.in_(used.keys()), TaskFeatures.from_name.not_in(tags))
    with store.read() as session:
        rows = session.execute(
            select(TaskFeatures.from_name, TaskFeatures.task_id).where(of_project, candidates)
        ).all()
    unused: dict[str, list[int]] = {}
    for tag, task_id in rows:
        if task_id not in used.get(tag, ()):
            unused.setdefault(tag, []).append(task_id)
    for tag, task_ids in unused.items():
        for chunk in id_chunks(sorted(task_ids)):
            with store.write() as session:
                is_unused = (TaskFeatures.from_name == tag, TaskFeatures.task_id.in_(chunk))
                session.execute(delete(TaskFeatures).where(of_project, *is_unused))
    return sum(map(len, unused.values()))


def delete_all(session: Session, project_id: int) -> None:
    """Delete all rows of a project."""
    session.execute(delete(TaskFeatures).where(TaskFeatures.project_id == project_id))


def _as_json(question: Input, **options: Any) -> str:
    """ASCII: a text of a task may have half a surrogate pair, as of an emoji that was cut."""
    return json.dumps(question.model_dump(mode="json", **options))


def _columns(answer: Features | str) -> dict[str, Any]:
    if isinstance(answer, str):
        return {"space": "", "dim": 0, "features": b"", "logits": b"", "lines": None, "reason": storable(answer)}
    return {
        "space": answer.space,
        "dim": answer.dim,
        "features": base64.b64decode(answer.float16),
        "logits": np.array(answer.logits, LOGITS).tobytes(),
        "lines": [line.model_dump(mode="json") for line in answer.lines] or None,
        "reason": None,
    }
