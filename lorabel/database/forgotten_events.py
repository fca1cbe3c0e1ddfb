"""Takes out of stored events what is to be forgotten: a task, or what an annotator did, or all of a project.

An event that is done is deleted whole if it has anything of it, since nobody reads it again. Of an event that
waits, or that failed, the other tasks and annotations stay: `ANNOTATIONS_CREATED` and `TASKS_CREATED` have lists.
"""

import json
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Any

from sqlalchemy import delete, or_, select
from sqlalchemy.orm import Session

from lorabel.database.store import id_chunks
from lorabel.database.tables import Event, EventState, Project
from lorabel.labeling.provenance import reference_id

DONE = frozenset({EventState.APPLIED, EventState.STALE, EventState.IGNORED})
EVENTS_AT_A_TIME = 200
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


def annotation_ids(session: Session, project: Project, subject: Subject) -> set[int]:
    """The annotations that events say belong to a task or an annotator, also those that were deleted since."""
    return {
        annotation["id"]
        for event in _events(session, project)
        for annotation, task_id in _annotations(json.loads(event.payload))
        if isinstance(annotation.get("id"), int) and subject.has_annotation(annotation, task_id)
    }


def remove(session: Session, project: Project, subject: Subject) -> int:
    """Delete the events, or take out of them what is to be forgotten. Returns how many were deleted or changed."""
    deleted: list[int] = []
    changed: dict[int, str] = {}
    for event in _events(session, project):
        body = json.loads(event.payload)
        rest = None if subject.is_project else without(body, subject)
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


def _events(session: Session, project: Project) -> Iterator[Event]:
    """The events of a project, those included that arrived before it was known here."""
    rows = select(Event).where(or_(Event.project_id == project.id, Event.project_id.is_(None))).order_by(Event.id)
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
