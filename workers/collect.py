"""An event becomes an annotation in the training set.

Events may arrive in any order, many times, and be applied by many workers at once; the result is the same:
the newest `updated_at` wins, and what is deleted stays deleted, because Label Studio uses no id twice. Each
event is applied in one transaction with its own state, so a killed worker applies it later or has applied it,
never half. Events of one project are applied one after the other (its row is locked).
"""

import json
import logging
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from lorabel import projects, runs
from lorabel.store import Store
from lorabel.tables import Annotation, DeletedTask, Event, EventState, Project, TrainingRun, UnreadTask, now
from workers import services
from workers.services import Services

log = logging.getLogger(__name__)

IDS_PER_QUERY = 500
EVENTS_PER_TRANSACTION = 20


class Received(NamedTuple):
    """An annotation as Label Studio sends it, with its task's id and data (None if they were not sent)."""

    annotation: dict[str, Any]
    task_id: int | None
    task_data: dict[str, Any] | None


def collect() -> None:
    """The RQ job: apply all pending events, then start the training runs that are due."""
    here = services.current()
    if apply_pending(here.store):
        start_due_runs(here)


def start_due_runs(here: Services) -> None:
    for run in runs.request_due(here.store, here.settings):
        here.jobs.train(run.id, run.attempt)


def apply_pending(store: Store) -> int:
    """Apply every pending event, oldest first. Returns how many."""
    count = 0
    while applied := apply_some(store):
        count += applied
    return count


def apply_some(store: Store) -> int:
    """Apply the oldest pending events of one project that no other worker has in hand, in one transaction.

    Few at a time: on SQLite the webhook waits meanwhile. Of one project only: two workers that lock several
    projects would wait for each other.
    """
    with store.write() as session:
        pending = select(Event).where(Event.state == EventState.PENDING).order_by(Event.id)
        oldest = session.scalar(pending.limit(1))
        if oldest is None:
            return 0
        of_project = pending.where(Event.project_id == oldest.project_id).limit(EVENTS_PER_TRANSACTION)
        events = session.scalars(of_project.with_for_update(skip_locked=True)).all()
        for event in events:
            _apply_one(store, session, event)
        return len(events)


def _apply_one(store: Store, session: Session, event: Event) -> None:
    """An event that cannot be applied is kept with the reason, and harms no other."""
    try:
        with session.begin_nested():
            event.state = _apply(store, session, event)
    except Exception as error:
        log.exception("event %d (%s) cannot be applied; it is kept as failed", event.id, event.action)
        event.state, event.error = EventState.FAILED, f"{type(error).__name__}: {error}"
    event.applied_at = now()


def apply_annotations(session: Session, project_id: int, received: Iterable[Received]) -> int:
    """Take what is newer than what we have. Returns how many rows changed. The project's row is locked."""
    items = list(received)
    known = _annotations(session, [item.annotation["id"] for item in items])
    gone = _deleted_tasks(session, [item.task_id for item in items if item.task_id is not None])
    changed = 0
    for item in items:
        row = known.get(item.annotation["id"])
        updated_at = datetime.fromisoformat(item.annotation["updated_at"])
        if row is not None and (row.is_deleted or (row.updated_at and row.updated_at >= updated_at)):
            continue
        if row is None:
            row = Annotation(id=item.annotation["id"], project_id=project_id, times_applied=0)
            session.add(row)
            known[row.id] = row
        _fill(row, item, updated_at)
        row.is_deleted = item.task_id in gone
        changed += 1
    return changed


def delete_annotations(session: Session, project_id: int, ids: Sequence[int]) -> int:
    """Leave tombstones, also for annotations that were never seen."""
    known = _annotations(session, ids)
    changed = 0
    for annotation_id in dict.fromkeys(ids):
        row = known.get(annotation_id)
        if row is None:
            session.add(Annotation(id=annotation_id, project_id=project_id, is_deleted=True, times_applied=1))
        elif row.is_deleted:
            continue
        else:
            row.is_deleted, row.times_applied = True, row.times_applied + 1
        changed += 1
    return changed


def _fill(row: Annotation, item: Received, updated_at: datetime) -> None:
    annotation = item.annotation
    row.task_id, row.updated_at, row.received_at = item.task_id, updated_at, now()
    row.task_data = item.task_data if item.task_data is not None else row.task_data
    row.result = annotation["result"]
    row.was_cancelled = bool(annotation.get("was_cancelled"))
    row.ground_truth = bool(annotation.get("ground_truth"))
    row.completed_by = _id(annotation.get("completed_by"))
    row.run_id = None
    row.times_applied += 1


def _apply(store: Store, session: Session, event: Event) -> EventState:
    if event.project_id is None:
        return EventState.IGNORED
    projects.ensure(store, session, event.project_id)
    project = session.get_one(Project, event.project_id, with_for_update=True)
    body = json.loads(event.payload)
    match event.action:
        case "ANNOTATION_CREATED" | "ANNOTATIONS_CREATED" | "ANNOTATION_UPDATED":
            _keep_label_config(project, body, only_if_missing=True)
            changed = apply_annotations(session, project.id, _received(body))
        case "ANNOTATIONS_DELETED":
            ids = [annotation["id"] for annotation in body["annotations"]]
            changed = delete_annotations(session, project.id, ids)
        case "TASKS_DELETED":
            changed = _delete_tasks(session, project.id, [task["id"] for task in body["tasks"]])
        case "PROJECT_UPDATED":
            changed = _keep_label_config(project, body, only_if_missing=_is_overtaken(session, event))
        case "PROJECT_DELETED":
            changed = not project.is_deleted
            project.is_deleted = True
        case "START_TRAINING":
            changed = _ensure_run(session, event)
        case _:
            changed = True
    return EventState.APPLIED if changed else EventState.STALE


def _received(body: dict[str, Any]) -> Iterator[Received]:
    """One or many annotations and their tasks: in plural events both are lists under the singular keys."""
    annotations, tasks = _listed(body["annotation"]), _listed(body.get("task"))
    data = {task["id"]: task.get("data") for task in tasks}
    for annotation in annotations:
        task_id = _id(annotation.get("task"))
        if task_id is None and len(tasks) == 1:
            task_id = tasks[0]["id"]
        yield Received(annotation, task_id, data.get(task_id))


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]


def _id(value: Any) -> int | None:
    """Label Studio gives a user or task as an id, or as an object with one."""
    return value.get("id") if isinstance(value, dict) else value


def _delete_tasks(session: Session, project_id: int, task_ids: list[int]) -> int:
    """No event comes for the annotations that go with a task."""
    session.execute(
        delete(UnreadTask).where(UnreadTask.project_id == project_id, UnreadTask.task_id.in_(task_ids))
    )
    gone = _deleted_tasks(session, task_ids)
    session.add_all(DeletedTask(task_id=i, project_id=project_id) for i in set(task_ids) - gone)
    changed = len(set(task_ids) - gone)
    for chunk in _chunks(task_ids):
        alive = select(Annotation).where(
            Annotation.project_id == project_id, Annotation.task_id.in_(chunk), Annotation.is_deleted.is_(False)
        )
        for row in session.scalars(alive):
            row.is_deleted, row.times_applied = True, row.times_applied + 1
            changed += 1
    return changed


def _keep_label_config(project: Project, body: dict[str, Any], only_if_missing: bool) -> bool:
    config = body.get("project", {}).get("label_config")
    if not config or project.label_config == config or (only_if_missing and project.label_config):
        return False
    project.label_config = config
    return True


def _is_overtaken(session: Session, event: Event) -> bool:
    newest = select(func.max(Event.id)).where(
        Event.project_id == event.project_id, Event.action == event.action, Event.state != EventState.FAILED
    )
    return (session.scalar(newest) or 0) > event.id


def _ensure_run(session: Session, event: Event) -> bool:
    """The backend asks for the run when it answers; only if it was killed just before is there none."""
    since = select(TrainingRun.id).where(
        TrainingRun.project_id == event.project_id, TrainingRun.created_at >= event.received_at
    )
    waiting = runs.queued(session, event.project_id or 0)
    if waiting is not None or session.scalar(since.limit(1)) is not None:
        return False
    runs.add(session, event.project_id or 0, "START_TRAINING")
    return True


def _annotations(session: Session, ids: Sequence[int]) -> dict[int, Annotation]:
    found = {}
    for chunk in _chunks(ids):
        for row in session.scalars(select(Annotation).where(Annotation.id.in_(chunk))):
            found[row.id] = row
    return found


def _deleted_tasks(session: Session, task_ids: Sequence[int]) -> set[int]:
    return {
        task_id
        for chunk in _chunks(task_ids)
        for task_id in session.scalars(select(DeletedTask.task_id).where(DeletedTask.task_id.in_(chunk)))
    }


def _chunks(ids: Sequence[int]) -> Iterator[Sequence[int]]:
    """SQLite takes a limited number of parameters in one query."""
    for start in range(0, len(ids), IDS_PER_QUERY):
        yield ids[start : start + IDS_PER_QUERY]
