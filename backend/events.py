"""Webhook request -> a row in `event` -> a job. Label Studio gives an event 1 s and never sends it again.

The row is written before anything else happens, in one transaction; what the event means is found out later
by `workers/collect.py`. A project's title, its tasks' text and the annotations stay in the payload, untouched.

{"action": "ANNOTATION_CREATED", "annotation": {"id": 7, ...}, "task": {"id": 3, ...}, "project": {"id": 1}}
"""

import logging
from collections.abc import Mapping
from types import MappingProxyType

from pydantic import ValidationError
from pydantic_core import from_json
from sqlalchemy import update

from backend import wire
from backend.services import Services
from lorabel.database import training_runs
from lorabel.database.tables import Event, EventState, now
from lorabel.errors import BadRequestError

log = logging.getLogger(__name__)

START_TRAINING = "START_TRAINING"
TASKS_CREATED = "TASKS_CREATED"
KNOWN: Mapping[str, type[wire.ProjectEvent]] = MappingProxyType(
    {
        "ANNOTATION_CREATED": wire.AnnotationEvent,
        "ANNOTATIONS_CREATED": wire.AnnotationEvent,
        "ANNOTATION_UPDATED": wire.AnnotationEvent,
        "ANNOTATIONS_DELETED": wire.AnnotationsDeleted,
        TASKS_CREATED: wire.TasksEvent,
        "TASKS_DELETED": wire.TasksEvent,
        "PROJECT_UPDATED": wire.ProjectEvent,
        "PROJECT_DELETED": wire.ProjectEvent,
        START_TRAINING: wire.ProjectEvent,
    }
)


def receive(services: Services, raw: bytes) -> wire.WebhookAnswer:
    """Store an event for good, then spread the news; without Redis the sweep finds it later.

    Raises:
        BadRequestError: the body is malformed, and nothing was stored.
    """
    envelope = _parse(raw)
    event = _store(services, envelope, raw.decode())
    services.metrics.events.labels(_label(envelope.action), event.state).inc()
    if envelope.action == START_TRAINING and event.project_id is not None:
        return wire.WebhookAnswer(job=str(_start_training(services, event.id, event.project_id)))
    if event.state == EventState.PENDING:
        services.jobs.collect(event.id)
    if envelope.action == TASKS_CREATED and event.project_id is not None:
        services.jobs.look_ahead(event.project_id, event_id=event.id)
    return wire.WebhookAnswer()


def _parse(raw: bytes) -> wire.Envelope:
    try:
        body = from_json(raw, cache_strings="keys")
    except ValueError as error:
        raise BadRequestError(f"the event is no JSON: {error}") from error
    try:
        envelope = wire.Envelope.model_validate(body)
        known = KNOWN.get(envelope.action)
        return envelope if known is None else known.model_validate(body)
    except ValidationError as error:
        raise wire.refusal(error) from error


def _store(services: Services, envelope: wire.Envelope, payload: str) -> Event:
    project_id = envelope.project.id if envelope.project else None
    event = Event(action=envelope.action, project_id=project_id, payload=payload, state=EventState.PENDING)
    if envelope.action not in KNOWN:
        log.info("project %s: event %r is not known here and is kept as ignored", project_id, envelope.action)
        event.state = EventState.IGNORED
    services.event_writer.put(event)
    return event


def _start_training(services: Services, event_id: int, project_id: int) -> int:
    """The id of the run that is queued now. If we are killed half-way, the sweep finds the event pending."""
    run = training_runs.request(services.store, project_id, START_TRAINING)
    services.jobs.train(run.id, run.attempt)
    with services.store.write() as session:
        applied = update(Event).where(Event.id == event_id)
        session.execute(applied.values(state=EventState.APPLIED, applied_at=now()))
    return run.id


def _label(action: str) -> str:
    """Strangers must not be able to fill the memory with time series."""
    return action if action in KNOWN else "other"
