"""Applies Label Studio's events to the database: annotations, label configs, deletions, training requests.

Events may arrive in any order, many times, and be applied by many workers at once. The result is the same: the
newest `updated_at` wins, and a deleted annotation stays deleted, because Label Studio uses no id twice. An event
is applied in the transaction that changes its state, so a killed worker never leaves half an event. Events of one
project are applied one after the other, because the project's row is locked.
"""

import json
import logging
import time
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from itertools import chain, groupby, islice
from typing import Any, NamedTuple

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from lorabel.database import projects, task_embeddings, training_runs
from lorabel.database.jobs import COLLECT_LINGER_S
from lorabel.database.store import Store
from lorabel.database.tables import (
    Annotation,
    DeletedTask,
    Event,
    EventState,
    Project,
    TrainingRun,
    UnreadableTask,
    now,
)
from workers.services import Services

log = logging.getLogger(__name__)

IDS_PER_QUERY = 500
EVENTS_PER_TRANSACTION = 50
CHARACTERS_PER_TRANSACTION = 2**20
SUBMISSIONS = frozenset({"ANNOTATION_CREATED", "ANNOTATIONS_CREATED", "ANNOTATION_UPDATED"})


class Received(NamedTuple):
    """An annotation as Label Studio sends it, with its task's id and data; either is None if it was not sent."""

    annotation: dict[str, Any]
    task_id: int | None
    task_data: dict[str, Any] | None


def collect() -> None:
    """The RQ job: apply all pending events and start the training runs that are due; then wait, and do it again.

    An event that arrives during the wait needs no job of its own: a job costs more than an event (`Jobs.collect`).
    """
    services = Services.current()
    for pause_s in (0.0, COLLECT_LINGER_S):
        time.sleep(pause_s)
        if apply_pending(services.store):
            start_due_runs(services)


def start_due_runs(services: Services) -> None:
    for run in training_runs.request_due(services.store, services.settings):
        services.jobs.train(run.id, run.attempt)


def apply_pending(store: Store) -> int:
    """Apply every event that is pending now, oldest first. Returns how many."""
    with store.read() as session:
        newest = session.scalar(select(func.max(Event.id)).where(Event.state == EventState.PENDING))
    count = 0
    # Events that arrive meanwhile are left for the next job, which applies many of them in one transaction.
    while newest is not None and (applied := apply_some(store, newest)):
        count += applied
    return count


def apply_some(store: Store, newest: int) -> int:
    """Apply the oldest pending events of one project that no other worker has locked, in one transaction.

    A transaction is small because the webhook waits for it on SQLite. It has events of one project only, because
    two workers that lock several projects would wait for each other.

    Args:
        newest: id of the newest event to apply.

    Returns:
        The number of events whose state was changed; 0 if none is pending.
    """
    with store.write() as session:
        events = _lock_events(session, newest)
        try:
            _apply(store, session, events)
        except Exception as error:  # noqa: BLE001 - each event's error is logged below
            log.warning("%d events are applied one by one, since one of them cannot be: %s", len(events), error)
            for event in events:
                _apply_alone(store, session, event)
        for event in events:
            event.applied_at = now()
        return len(events)


def _lock_events(session: Session, newest: int) -> Sequence[Event]:
    """The oldest pending events of one project, locked until the transaction ends.

    Together their payloads have at most CHARACTERS_PER_TRANSACTION characters, unless a single event is longer.
    """
    is_pending = (Event.state == EventState.PENDING, Event.id <= newest)
    sizes = select(Event.id, Event.project_id, func.length(Event.payload)).where(*is_pending).order_by(Event.id)
    oldest = session.execute(sizes.limit(1).with_for_update(skip_locked=True)).first()
    if oldest is None:
        return []
    of_project = sizes.where(Event.project_id == oldest.project_id).limit(EVENTS_PER_TRANSACTION)
    ids: list[int] = []
    characters = 0
    for event_id, _, length in session.execute(of_project.with_for_update(skip_locked=True)):
        characters += length
        if ids and characters > CHARACTERS_PER_TRANSACTION:
            break
        ids.append(event_id)
    return session.scalars(select(Event).where(Event.id.in_(ids)).order_by(Event.id)).all()


def _apply_alone(store: Store, session: Session, event: Event) -> None:
    """Apply one event. If that fails, keep the event as failed, with the reason."""
    try:
        _apply(store, session, [event])
    except Exception as error:
        log.exception("event %d (%s) cannot be applied; it is kept as failed", event.id, event.action)
        event.state, event.error = EventState.FAILED, f"{type(error).__name__}: {error}"


def _apply(store: Store, session: Session, events: Sequence[Event]) -> None:
    """Apply events of one project in order, in a savepoint: all of them or none."""
    if not events:
        return
    with session.begin_nested():
        if events[0].project_id is None:
            for event in events:
                event.state = EventState.IGNORED
            return
        projects.ensure(store, session, events[0].project_id)
        project = session.get_one(Project, events[0].project_id, with_for_update=True)
        for is_submission, group in groupby(events, lambda event: event.action in SUBMISSIONS):
            if is_submission:
                _apply_submissions(session, project, list(group))
            else:
                for event in group:
                    event.state = _state(_apply_other(store, session, project, event))


def _apply_submissions(session: Session, project: Project, events: Sequence[Event]) -> None:
    """Apply events that bring annotations, with two queries and two writes for all of them."""
    received_by_event = []
    for event in events:
        body = json.loads(event.payload)
        _keep_label_config(project, body, only_if_missing=True)
        received_by_event.append(list(_received(body)))
    are_newer = iter(apply_annotations(session, project.id, chain.from_iterable(received_by_event)))
    for event, received in zip(events, received_by_event, strict=True):
        event.state = _state(any(list(islice(are_newer, len(received)))))


def _state(is_changed: bool) -> EventState:
    return EventState.APPLIED if is_changed else EventState.STALE


def apply_annotations(session: Session, project_id: int, received: Iterable[Received]) -> list[bool]:
    """Store the annotations that are newer than ours. The caller has locked the project's row.

    Returns:
        For each annotation whether it was newer.
    """
    received = list(received)
    rows = _rows_by_id(session, [item.annotation["id"] for item in received])
    deleted_tasks = _deleted_tasks(session, [item.task_id for item in received if item.task_id is not None])
    are_newer = []
    for item in received:
        annotation_id = item.annotation["id"]
        row = rows.get(annotation_id)
        updated_at = datetime.fromisoformat(item.annotation["updated_at"])
        are_newer.append(row is None or not (row.is_deleted or (row.updated_at and row.updated_at >= updated_at)))
        if not are_newer[-1]:
            continue
        if row is None:
            row = Annotation(id=annotation_id, project_id=project_id, times_applied=0)
            session.add(row)
            rows[annotation_id] = row
        _fill(row, item, updated_at)
        row.is_deleted = item.task_id in deleted_tasks
    return are_newer


def delete_annotations(session: Session, project_id: int, ids: Sequence[int]) -> int:
    """Mark annotations as deleted, also those that we have never seen. Returns how many that changed."""
    rows = _rows_by_id(session, ids)
    changed = 0
    for annotation_id in dict.fromkeys(ids):
        row = rows.get(annotation_id)
        if row is None:
            session.add(Annotation(id=annotation_id, project_id=project_id, is_deleted=True, times_applied=1))
        elif row.is_deleted:
            continue
        else:
            row.is_deleted, row.times_applied = True, row.times_applied + 1
        changed += 1
    return changed


def _fill(row: Annotation, received: Received, updated_at: datetime) -> None:
    annotation = received.annotation
    row.task_id, row.updated_at, row.received_at = received.task_id, updated_at, now()
    row.task_data = received.task_data if received.task_data is not None else row.task_data
    row.result = annotation["result"]
    row.was_cancelled = bool(annotation.get("was_cancelled"))
    row.ground_truth = bool(annotation.get("ground_truth"))
    row.completed_by = _id(annotation.get("completed_by"))
    row.run_id = None
    row.times_applied += 1


def _apply_other(store: Store, session: Session, project: Project, event: Event) -> bool:
    """Apply an event of any other kind. Returns whether it changed something."""
    body = json.loads(event.payload)
    match event.action:
        case "ANNOTATIONS_DELETED":
            ids = [annotation["id"] for annotation in body["annotations"]]
            return delete_annotations(session, project.id, ids) > 0
        case "TASKS_DELETED":
            return _delete_tasks(store, session, project.id, [task["id"] for task in body["tasks"]]) > 0
        case "PROJECT_UPDATED":
            return _keep_label_config(project, body, only_if_missing=_is_overtaken(session, event))
        case "PROJECT_DELETED":
            task_embeddings.delete_all(store, session, project.id)
            was_deleted, project.is_deleted = project.is_deleted, True
            return not was_deleted
        case "START_TRAINING":
            return _ensure_run(session, event)
        case _:
            return True


def _received(body: dict[str, Any]) -> Iterator[Received]:
    """The annotations of an event. ANNOTATIONS_CREATED has lists under the keys `annotation` and `task`."""
    annotations, tasks = _as_list(body["annotation"]), _as_list(body.get("task"))
    data_by_task = {task["id"]: task.get("data") for task in tasks}
    for annotation in annotations:
        task_id = _id(annotation.get("task"))
        if task_id is None and len(tasks) == 1:
            task_id = tasks[0]["id"]
        yield Received(annotation, task_id, data_by_task.get(task_id))


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]


def _id(value: Any) -> int | None:
    """The id of a user or task, which Label Studio sends either as the id or as an object with the key `id`."""
    return value.get("id") if isinstance(value, dict) else value


def _delete_tasks(store: Store, session: Session, project_id: int, task_ids: list[int]) -> int:
    """Delete tasks and their annotations, for which no event comes. Returns how many of both that changed."""
    session.execute(
        delete(UnreadableTask).where(UnreadableTask.project_id == project_id, UnreadableTask.task_id.in_(task_ids))
    )
    task_embeddings.delete_tasks(store, session, project_id, task_ids)
    new_ids = set(task_ids) - _deleted_tasks(session, task_ids)
    session.add_all(DeletedTask(task_id=task_id, project_id=project_id) for task_id in new_ids)
    changed = len(new_ids)
    for chunk in _chunks(task_ids):
        not_deleted = select(Annotation).where(
            Annotation.project_id == project_id, Annotation.task_id.in_(chunk), Annotation.is_deleted.is_(False)
        )
        for row in session.scalars(not_deleted):
            row.is_deleted, row.times_applied = True, row.times_applied + 1
            changed += 1
    return changed


def _keep_label_config(project: Project, body: dict[str, Any], only_if_missing: bool) -> bool:
    """Store the label config that the event carries. Returns whether it changed."""
    config = body.get("project", {}).get("label_config")
    if not config or project.label_config == config or (only_if_missing and project.label_config):
        return False
    project.label_config = config
    return True


def _is_overtaken(session: Session, event: Event) -> bool:
    """Whether a newer event of the same project and action has arrived."""
    newest = select(func.max(Event.id)).where(
        Event.project_id == event.project_id, Event.action == event.action, Event.state != EventState.FAILED
    )
    return (session.scalar(newest) or 0) > event.id


def _ensure_run(session: Session, event: Event) -> bool:
    """Make sure that a START_TRAINING event has its run. Returns whether a run was added.

    The backend requests the run when it answers the event, so a run is missing only if the backend was killed just
    before.
    """
    created_since = select(TrainingRun.id).where(
        TrainingRun.project_id == event.project_id, TrainingRun.created_at >= event.received_at
    )
    waiting = training_runs.find_queued(session, event.project_id or 0)
    if waiting is not None or session.scalar(created_since.limit(1)) is not None:
        return False
    training_runs.add(session, event.project_id or 0, "START_TRAINING")
    return True


def _rows_by_id(session: Session, ids: Sequence[int]) -> dict[int, Annotation]:
    return {
        row.id: row
        for chunk in _chunks(ids)
        for row in session.scalars(select(Annotation).where(Annotation.id.in_(chunk)))
    }


def _deleted_tasks(session: Session, task_ids: Sequence[int]) -> set[int]:
    return {
        task_id
        for chunk in _chunks(task_ids)
        for task_id in session.scalars(select(DeletedTask.task_id).where(DeletedTask.task_id.in_(chunk)))
    }


def _chunks(ids: Sequence[int]) -> Iterator[Sequence[int]]:
    """Pieces of at most IDS_PER_QUERY ids: SQLite limits the number of parameters in a query."""
    for start in range(0, len(ids), IDS_PER_QUERY):
        yield ids[start : start + IDS_PER_QUERY]
