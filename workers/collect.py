"""Applies Label Studio's events to the database: annotations, label configs, deletions, training requests.

Events may arrive in any order, many times, and be applied by many workers at once. The result is the same: the
newest `updated_at` wins, and a deleted annotation stays deleted, because Label Studio uses no id twice. An event
is applied in the transaction that changes its state, so a killed worker never leaves half an event. Events of one
project are applied one after the other, because the project's row is locked.
"""

import json
import logging
from collections.abc import Collection, Iterator, Sequence
from itertools import chain, groupby, islice
from time import sleep
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from lorabel.database import (
    instructions,
    project_heads,
    projects,
    rule_effects,
    task_embeddings,
    task_features,
    training_runs,
    vocabularies,
)
from lorabel.database.jobs import COLLECT_LINGER_S
from lorabel.database.store import Store, is_transient
from lorabel.database.tables import Event, EventState, Project, TrainingRun, now
from lorabel.errors import cut
from lorabel.labeling.provenance import reference_id
from workers import order_renewal
from workers.annotations import (
    Received,
    apply_annotations,
    delete_annotations,
    delete_tasks,
)
from workers.services import Services

log = logging.getLogger(__name__)

# How often pending events are looked for while a job waits for them.
LOOKS = 4
EVENTS_PER_TRANSACTION = 50
CHARACTERS_PER_TRANSACTION = 2**20
SUBMISSIONS = frozenset({"ANNOTATION_CREATED", "ANNOTATIONS_CREATED", "ANNOTATION_UPDATED"})
CHANGES = SUBMISSIONS | {"ANNOTATIONS_DELETED", "TASKS_DELETED"}


class PostponedError(Exception):
    """The database cannot apply a project's events now. They stay pending; `__cause__` is its error."""

    def __init__(self, project_id: int) -> None:
        super().__init__(f"project {project_id}")
        self.project_id = project_id


def collect() -> None:
    """The RQ job: apply all pending events and start the training runs that are due; then wait, and do it again.

    An event that arrives during the wait needs no job of its own: a job costs more than an event (`Jobs.collect`).
    The wait has parts, since somebody who has submitted waits for the new head.
    """
    services = Services.current()
    for pause_s in (0.0, *[COLLECT_LINGER_S / LOOKS] * LOOKS):
        sleep(pause_s)
        changed: set[int] = set()
        if apply_pending(services.store, changed):
            services.heads_wanted.set()
            start_due_runs(services, changed)


def start_due_runs(services: Services, project_ids: Collection[int] | None = None) -> None:
    """Start the training runs and renewals that are due.

    Args:
        project_ids: whose; None for all projects, which takes seconds where there are thousands.
    """
    for run in training_runs.request_due(services.store, services.settings, project_ids):
        services.jobs.train(run.id, run.attempt)
    order_renewal.start_due(services, project_ids)


def apply_during_run(services: Services, project_id: int) -> None:
    """Apply every pending event during a run of a project, and start what is due in the others."""
    changed: set[int] = set()
    apply_pending(services.store, changed)
    try:
        start_due_runs(services, changed - {project_id})
    except Exception:
        log.exception(
            "what is due waits for the next look of the light worker; the run of project %d goes on", project_id
        )


def apply_pending(store: Store, changed: set[int] | None = None) -> int:
    """Apply every event that is pending now, oldest first. Returns how many.

    Args:
        changed: gets the ids of the projects whose events were applied.

    If the database cannot apply a project's events now (its disk may be full), they stay pending for the next job,
    and the events of the other projects are applied.
    """
    with store.look_up() as session:
        newest = session.scalar(select(func.max(Event.id)).where(Event.state == EventState.PENDING))
    count = 0
    postponed: set[int] = set()
    # Events that arrive meanwhile are left for the next job, which applies many of them in one transaction.
    while newest is not None:
        try:
            applied = apply_some(store, newest, postponed, changed)
        except PostponedError as error:
            log.warning("the events of project %d stay pending: %s", error.project_id, error.__cause__)
            postponed.add(error.project_id)
            continue
        if not applied:
            break
        count += applied
    return count


def apply_some(store: Store, newest: int, postponed: Collection[int] = (), changed: set[int] | None = None) -> int:
    """Apply the oldest pending events of one project that no other worker has locked, in one transaction.

    A transaction is small because the webhook waits for it on SQLite. It has events of one project only, because
    two workers that lock several projects would wait for each other.

    Args:
        newest: id of the newest event to apply.
        postponed: projects whose events are left out.
        changed: gets the id of the project.

    Returns:
        The number of events whose state was changed; 0 if none is pending.

    Raises:
        PostponedError: the database cannot apply these events now; nothing was changed.
    """
    project_id = 0
    try:
        with store.write() as session:
            events = _lock_events(session, newest, postponed)
            if not events:
                return 0
            project_id = events[0].project_id or 0
            _apply_each(store, session, events)
        if changed is not None and project_id:
            changed.add(project_id)
        return len(events)
    except Exception as error:
        if project_id and is_transient(error):
            raise PostponedError(project_id) from error
        raise


def _apply_each(store: Store, session: Session, events: Sequence[Event]) -> None:
    """Apply events of one project together; one by one if one of them cannot be applied."""
    try:
        _apply(store, session, events)
    except Exception as error:
        if is_transient(error):
            raise
        log.warning("%d events are applied one by one, since one of them cannot be: %s", len(events), error)
        for event in events:
            _apply_alone(store, session, event)


def _lock_events(session: Session, newest: int, postponed: Collection[int]) -> Sequence[Event]:
    """The oldest pending events of one project, locked until the transaction ends.

    Together their payloads have at most CHARACTERS_PER_TRANSACTION characters, unless a single event is longer.
    """
    is_pending = (Event.state == EventState.PENDING, Event.id <= newest)
    sizes = select(Event.id, Event.project_id, func.length(Event.payload)).where(*is_pending).order_by(Event.id)
    # An expression, so that pending events are read by the index of the state. SQLite would take that of the
    # column, and read all events that the project has ever had.
    project_id = func.coalesce(Event.project_id, 0)
    if postponed:
        sizes = sizes.where(project_id.not_in(postponed))
    oldest = session.execute(sizes.limit(1).with_for_update(skip_locked=True)).first()
    if oldest is None:
        return []
    of_project = sizes.where(project_id == (oldest.project_id or 0)).limit(EVENTS_PER_TRANSACTION)
    ids: list[int] = []
    characters = 0
    for event_id, _, length in session.execute(of_project.with_for_update(skip_locked=True)):
        characters += length
        if ids and characters > CHARACTERS_PER_TRANSACTION:
            break
        ids.append(event_id)
    return session.scalars(select(Event).where(Event.id.in_(ids)).order_by(Event.id)).all()


def _apply_alone(store: Store, session: Session, event: Event) -> None:
    """Apply one event. If the event is the reason why that fails, keep it as failed, with the reason."""
    try:
        _apply(store, session, [event])
    except Exception as error:
        if is_transient(error):
            raise
        log.exception("event %d (%s) cannot be applied; it is kept as failed", event.id, event.action)
        event.error = cut(f"{type(error).__name__}: {error}")
        _end(event, EventState.FAILED)


def _apply(store: Store, session: Session, events: Sequence[Event]) -> None:
    """Apply events of one project in order, in a savepoint: all of them or none."""
    if not events:
        return
    with session.begin_nested():
        if events[0].project_id is None:
            for event in events:
                _end(event, EventState.IGNORED)
            return
        project = _lock_project(store, session, events[0].project_id)
        for is_submission, group in groupby(events, lambda event: event.action in SUBMISSIONS):
            if is_submission:
                _apply_submissions(session, project, list(group))
            else:
                for event in group:
                    _end(event, _apply_other(store, session, project, event))
        if any(event.state == EventState.APPLIED and event.action in CHANGES for event in events):
            project_heads.count_change(project)
            vocabularies.renew(session, project)


def _lock_project(store: Store, session: Session, project_id: int) -> Project:
    """The row of a project, inserted if it is missing, and locked until the transaction ends."""
    project = session.get(Project, project_id, with_for_update=True)
    if project is None:
        projects.ensure(store, session, project_id)
        project = session.get_one(Project, project_id, with_for_update=True)
    return project


def _end(event: Event, state: EventState) -> None:
    """Both columns at once, so that they are written once."""
    event.state, event.applied_at = state, now()


def _apply_submissions(session: Session, project: Project, events: Sequence[Event]) -> None:
    """Apply events that bring annotations, with two queries and two writes for all of them."""
    received_by_event = []
    for event in events:
        body = json.loads(event.payload)
        _keep_label_config(project, body, only_if_missing=True)
        received_by_event.append(list(_received(body)))
    are_newer = iter(apply_annotations(session, project.id, chain.from_iterable(received_by_event)))
    instructions.keep_accepted(
        session,
        project,
        [
            instructions.Submitted(item.task_id, item.annotation.get("result"))
            for item in chain.from_iterable(received_by_event)
            if not item.annotation.get("was_cancelled")
        ],
    )
    for event, received in zip(events, received_by_event, strict=True):
        is_changed = any(list(islice(are_newer, len(received))))
        _end(event, _state(is_changed))


def _state(is_changed: bool) -> EventState:
    """The state of an event that was applied, by whether it changed any row."""
    return EventState.APPLIED if is_changed else EventState.STALE


def _apply_other(store: Store, session: Session, project: Project, event: Event) -> EventState:
    """Apply an event of any other kind."""
    body = json.loads(event.payload)
    if event.action == "PROJECT_UPDATED":
        return _state(_keep_label_config(project, body, only_if_missing=_is_overtaken(session, event)))
    _keep_label_config(project, body, only_if_missing=True)
    match event.action:
        case "ANNOTATIONS_DELETED":
            ids = [annotation["id"] for annotation in body["annotations"]]
            return _state(delete_annotations(session, project.id, ids) > 0)
        case "TASKS_DELETED":
            task_ids = [task["id"] for task in body["tasks"]]
            return _state(delete_tasks(store, session, project.id, task_ids) > 0)
        case "PROJECT_DELETED":
            task_embeddings.delete_all(store, session, project.id)
            task_features.delete_all(session, project.id)
            instructions.forget_all(session, project.id)
            rule_effects.forget_all(session, project.id)
            was_deleted, project.is_deleted = project.is_deleted, True
            return _state(not was_deleted)
        case "START_TRAINING":
            return _state(bool(project.label_config) and _ensure_run(session, event))
        case _:
            return EventState.APPLIED


def _received(body: dict[str, Any]) -> Iterator[Received]:
    """The annotations of an event. ANNOTATIONS_CREATED has lists under the keys `annotation` and `task`."""
    annotations, tasks = _as_list(body["annotation"]), _as_list(body.get("task"))
    data_by_task = {task["id"]: task.get("data") for task in tasks}
    for annotation in annotations:
        task_id = reference_id(annotation.get("task"))
        if task_id is None and len(tasks) == 1:
            task_id = tasks[0]["id"]
        yield Received(annotation, task_id, data_by_task.get(task_id))


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]


def _keep_label_config(project: Project, body: dict[str, Any], only_if_missing: bool) -> bool:
    """Store the label config that the event carries. Returns whether it changed."""
    config = body.get("project", {}).get("label_config")
    if not config or project.label_config == config or (only_if_missing and project.label_config):
        return False
    projects.set_label_config(project, config)
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
