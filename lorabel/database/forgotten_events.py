"""Takes out of stored events what is to be forgotten: a task, or what an annotator did, or all of a project.

An event that is done is deleted whole if it has anything of it, since nobody reads it again. Of an event that
waits, or that failed, the other tasks and annotations stay: `ANNOTATIONS_CREATED` and `TASKS_CREATED` have lists.
"""

import json
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, and_, delete, func, or_, select
from sqlalchemy.orm import Session

from lorabel.database.store import id_chunks
from lorabel.database.tables import Event, EventState, Project
from lorabel.labeling.provenance import reference_id

DONE = frozenset({EventState.APPLIED, EventState.STALE, EventState.IGNORED})
EVENTS_AT_A_TIME = 200
DELETION = "ANNOTATIONS_DELETED"
Json = dict[str, Any]


@dataclass(frozen=True)
class Subject:
    """Whose events are looked for, beside the project; all of its events if nothing is set.

    Attributes:
        task_id: a task's id in Label Studio.
        annotator_id: a user's id in Label Studio.
        annotation_ids: of annotations that belong to them: a deletion names nothing else.
    """

    task_id: int | None = None
    annotator_id: int | None = None
    annotation_ids: frozenset[int] = frozenset()

    @property
    def is_project(self) -> bool:
        return self.task_id is None and self.annotator_id is None

    def has_annotation(self, annotation: Json, task_id: int | None = None) -> bool:
        """Whether an annotation belongs to it.

        Args:
            task_id: of the event, if the annotation does not name its task.
        """
        of_task = reference_id(annotation.get("task")) or task_id
        return (
            annotation.get("id") in self.annotation_ids
            or (self.task_id is not None and of_task == self.task_id)
            or (
                self.annotator_id is not None and reference_id(annotation.get("completed_by")) == self.annotator_id
            )
        )


class Seen(NamedTuple):
    """What a look at the events has found, before the project's row is locked.

    Attributes:
        event_ids: events that have something of the subject.
        annotation_ids: of the subject, also those that were deleted since.
        newest: id of the newest event at that time.
    """

    event_ids: frozenset[int]
    annotation_ids: frozenset[int]
    newest: int


def look(session: Session, project: Project, subject: Subject) -> Seen:
    """Find the events that have something of a task or an annotator, among all events of the project."""
    event_ids, mine = set(), set(subject.annotation_ids)
    newest = session.scalar(select(func.max(Event.id))) or 0
    # Those that cannot name the subject are not read: an event may have megabytes.
    may_name = or_(Event.action == DELETION, Event.payload.contains(str(subject.task_id or subject.annotator_id)))
    deletions: dict[int, set[int]] = {}
    for event in _events(session, project, and_(_is_of(project), Event.id <= newest, may_name)):
        body = json.loads(event.payload)
        annotations = list(_annotations(body))
        ids = {each["id"] for each, task_id in annotations if subject.has_annotation(each, task_id)}
        mine |= {id_ for id_ in ids if isinstance(id_, int)}
        if without(body, subject) != body:
            event_ids.add(event.id)
        elif event.action == DELETION:
            deletions[event.id] = {each.get("id", 0) for each, _ in annotations}
    event_ids |= {event_id for event_id, ids in deletions.items() if ids & mine}
    return Seen(frozenset(event_ids), frozenset(mine), newest)


def remove(session: Session, project: Project, subject: Subject, seen: Seen) -> int:
    """Delete events, or take out of them what is to be forgotten. Returns how many were deleted or changed.

    Args:
        seen: what `look` found; events that have arrived since are looked at, too.
    """
    deleted: list[int] = []
    changed: dict[int, str] = {}
    newer = _events(session, project, and_(_is_of(project), Event.id > seen.newest))
    known = (
        event
        for chunk in id_chunks(sorted(seen.event_ids))
        for event in _events(session, project, Event.id.in_(chunk))
    )
    for event in chain(known, newer):
        body = json.loads(event.payload)
        rest = without(body, subject)
        if rest is None or (rest != body and event.state in DONE):
            deleted.append(event.id)
        elif rest != body:
            changed[event.id] = json.dumps(rest)
    for chunk in id_chunks(deleted):
        session.execute(delete(Event).where(Event.id.in_(chunk)))
    for event_id, payload in changed.items():
        event = session.get_one(Event, event_id)
        event.payload, event.error = payload, None
    return len(deleted) + len(changed)


def early_event_ids(session: Session, project: Project) -> list[int]:
    """The events that arrived before the project was known here, which belong to none."""
    return [event.id for event in _events(session, project, Event.project_id.is_(None))]


def without(body: Json, subject: Subject) -> Json | None:
    """An event's body without a task or an annotator; None if nothing is left of what it was about."""
    task_ids = [task.get("id") for task in _as_list(body.get("task"))]
    task_id = task_ids[0] if len(task_ids) == 1 else None
    rest = dict(body)
    is_gone: dict[str, Callable[[Json], bool]] = {
        "annotation": lambda annotation: subject.has_annotation(annotation, task_id),
        "annotations": lambda annotation: subject.has_annotation(annotation, task_id),
        "task": lambda task: _is_task(task, subject),
        "tasks": lambda task: _is_task(task, subject),
    }
    for key in is_gone.keys() & body.keys():
        entries = _as_list(body[key])
        left = [entry for entry in entries if not is_gone[key](entry)]
        if entries and not left:
            return None
        rest[key] = left if isinstance(body[key], list) else body[key]
    return rest


def _is_task(task: Json, subject: Subject) -> bool:
    return subject.task_id is not None and task.get("id") == subject.task_id


def _is_of(project: Project) -> ColumnElement[bool]:
    return or_(Event.project_id == project.id, Event.project_id.is_(None))


def _events(session: Session, project: Project, condition: ColumnElement[bool]) -> Iterator[Event]:
    """Events of a project by id, those included that arrived before it was known here."""
    rows = select(Event).where(condition).order_by(Event.id)
    after = 0
    while events := session.scalars(rows.where(Event.id > after).limit(EVENTS_AT_A_TIME)).all():
        after = events[-1].id
        for event in events:
            if event.project_id is not None or _names(event, project):
                yield event
            session.expunge(event)


def _names(event: Event, project: Project) -> bool:
    body = json.loads(event.payload)
    reference = body.get("project") if isinstance(body, dict) else None
    return reference_id(reference) == project.label_studio_id


def _annotations(body: Json) -> Iterator[tuple[Json, int | None]]:
    """The annotations of an event, each with the event's task if there is only one."""
    tasks = _as_list(body.get("task"))
    task_id = tasks[0].get("id") if len(tasks) == 1 else None
    for key in ("annotation", "annotations"):
        for annotation in _as_list(body.get(key)):
            yield annotation, task_id


def _as_list(value: Any) -> list[Json]:
    entries: Collection[Any] = value if isinstance(value, list) else [] if value is None else [value]
    return [entry for entry in entries if isinstance(entry, dict)]
