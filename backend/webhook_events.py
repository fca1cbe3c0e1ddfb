"""Receives webhook events: `POST /webhook` -> a row in the table `event` -> a job.

Label Studio waits 1 s for the answer and never sends an event again, so the row is committed before anything else
happens. `workers/collect.py` applies the event later. The payload is stored as it came, unless REDACT is set.

{"action": "ANNOTATION_CREATED", "annotation": {"id": 7, ...}, "task": {"id": 3, ...}, "project": {"id": 1}}
"""

import json
import logging
from collections.abc import Mapping
from types import MappingProxyType

from pydantic import ValidationError
from pydantic_core import from_json
from sqlalchemy import update

from backend import http_bodies
from backend.services import Services
from lorabel.database import projects, training_runs, webhook_secrets
from lorabel.database.tables import Event, EventState, Project, now
from lorabel.errors import BadRequestError, ForgedEventError, RedactionError
from lorabel.labeling.redacted_bodies import RedactedBody

log = logging.getLogger(__name__)

START_TRAINING = "START_TRAINING"
TASKS_CREATED = "TASKS_CREATED"
EVENT_BODIES: Mapping[str, type[http_bodies.ProjectEvent]] = MappingProxyType(
    {
        "ANNOTATION_CREATED": http_bodies.AnnotationEvent,
        "ANNOTATIONS_CREATED": http_bodies.AnnotationEvent,
        "ANNOTATION_UPDATED": http_bodies.AnnotationEvent,
        "ANNOTATIONS_DELETED": http_bodies.AnnotationsDeleted,
        TASKS_CREATED: http_bodies.TasksEvent,
        "TASKS_DELETED": http_bodies.TasksEvent,
        "PROJECT_UPDATED": http_bodies.ProjectEvent,
        "PROJECT_DELETED": http_bodies.ProjectEvent,
        START_TRAINING: http_bodies.ProjectEvent,
    }
)


def receive(services: Services, raw: bytes, secret: str | None) -> http_bodies.WebhookAnswer:
    """Store an event, then enqueue a job that applies it. Without Redis, the sweep finds the event later.

    Args:
        raw: the body of the request.
        secret: the request's header `webhook_secrets.HEADER`.

    Raises:
        BadRequestError: the body is malformed; nothing was stored.
        ForgedEventError: the event has not the secret of its project's webhook; nothing was stored.
        ConflictError: it cannot be told whose event it is; nothing was stored.
        RedactionError: it cannot be masked (REDACT); nothing was stored.
    """
    envelope = _parse(raw)
    outlive = services.restarts.outlive
    project = outlive(lambda: _find_project(services, envelope))
    _check_secret(services, envelope, project, secret)
    payload = _redacted(services, envelope, raw)
    event = outlive(lambda: _store(services, envelope, project, payload))
    services.metrics.events.labels(_label(envelope.action), event.state).inc()
    if event.state != EventState.PENDING or envelope.project is None or event.project_id is None:
        return http_bodies.WebhookAnswer()
    if envelope.action == START_TRAINING:
        run_id = _start_training(services, event.id, event.project_id, envelope.project.label_config)
        return http_bodies.WebhookAnswer(job=str(run_id))
    services.jobs.collect(event.id)
    if envelope.action == TASKS_CREATED:
        services.jobs.look_ahead(event.project_id, event_id=event.id)
    return http_bodies.WebhookAnswer()


def _parse(raw: bytes) -> http_bodies.Envelope:
    try:
        body = http_bodies.check_numbers(from_json(raw, cache_strings="keys"))
    except ValueError as error:
        raise BadRequestError(f"the event is no JSON: {error}") from error
    try:
        envelope = http_bodies.Envelope.model_validate(body)
        body_type = EVENT_BODIES.get(envelope.action)
        return envelope if body_type is None else body_type.model_validate(body)
    except ValidationError as error:
        raise http_bodies.as_bad_request(error) from error


def _find_project(services: Services, envelope: http_bodies.Envelope) -> Project | None:
    """The row of the event's project, if there is one."""
    if envelope.project is None:
        return None
    with services.store.look_up() as session:
        return projects.find(session, envelope.project.key)


def _check_secret(
    services: Services, envelope: http_bodies.Envelope, project: Project | None, secret: str | None
) -> None:
    """Refuse an event that has not the secret of its project's webhook.

    START_TRAINING needs no secret where the project has one: Label Studio sends it without the webhook's headers,
    with the backend's user and password.
    """
    if envelope.project is None:
        return
    if envelope.action == START_TRAINING and project is not None and project.secret_hash is not None:
        return
    is_required = services.settings.webhook_secret_required
    refusal = webhook_secrets.find_refusal(project, secret, is_required=is_required)
    if refusal is None:
        return
    label = str(project.id) if project else "unknown"  # A made-up project gets no time series of its own.
    services.metrics.refused_events.labels(label, refusal).inc()
    raise ForgedEventError(
        f"{_name(envelope.project)}: {envelope.action} is refused, {refusal}; if it is from Label Studio, run "
        "`lorabel connect` again for this project"
    )


def _store(services: Services, envelope: http_bodies.Envelope, project: Project | None, payload: str) -> Event:
    """Insert the event, and the row of its project if that is new. An event that cannot be applied is ignored.

    The identity of a known project stays as it is: only `/setup`, `/predict` and `lorabel connect` complete it,
    since anybody may send an event.
    """
    reference = envelope.project
    event = Event(action=envelope.action, payload=payload, state=EventState.PENDING)
    if envelope.action not in EVENT_BODIES:
        log.info("%s: event %r is not known here and is kept as ignored", _name(reference), envelope.action)
        event.state = EventState.IGNORED
    elif reference is not None and not _has_label_config(envelope, project):
        log.warning("%s has no known label config: its event %s is ignored", _name(reference), envelope.action)
        event.state = EventState.IGNORED
    elif reference is not None and project is None:
        project = projects.resolve(services.store, reference.key)
    event.project_id = project.id if project else None
    services.event_writer.put(event)
    return event


def _has_label_config(envelope: http_bodies.Envelope, project: Project | None) -> bool:
    """Whether `/setup` or an earlier event has brought the project's label config, or this event does.

    START_TRAINING needs no secret, so it cannot make a project known: something else came before it.
    """
    if project is None and envelope.action == START_TRAINING:
        return False
    brought = envelope.project.label_config if envelope.project else None
    return bool(brought or (project and project.label_config))


def _redacted(services: Services, envelope: http_bodies.Envelope, raw: bytes) -> str:
    """The body as it is stored: as it came, or with personal data masked (REDACT)."""
    if not services.redactor.is_on:
        return raw.decode()
    redacted = RedactedBody(services.redactor)
    try:
        payload = json.dumps(redacted.of(json.loads(raw)))
    except RedactionError as error:
        services.metrics.unmasked_events.labels(_label(envelope.action)).inc()
        raise RedactionError(
            f"{_name(envelope.project)}: {_label(envelope.action)} is refused: {error}; a training run finds its "
            "annotations in Label Studio later"
        ) from None
    for kind, count in redacted.counts.items():
        services.metrics.redacted.labels(kind).inc(count)
    if redacted.counts:
        counts = ", ".join(f"{count} {kind}" for kind, count in sorted(redacted.counts.items()))
        log.info("%s: masked in %s: %s", _name(envelope.project), _label(envelope.action), counts)
    return payload


def _name(reference: http_bodies.ProjectReference | None) -> str:
    return "no project" if reference is None else str(reference.key)


def _start_training(services: Services, event_id: int, project_id: int, label_config: str | None) -> int:
    """Request a training run and mark the event as applied. Returns the id of the run.

    If the process is killed in between, the sweep finds the event pending and applies it again.
    """
    with services.store.read() as session:
        is_known = bool(projects.get(session, project_id).label_config)
    if label_config and not is_known:
        projects.upsert(services.store, project_id, label_config=label_config)
    run = training_runs.request(services.store, project_id, START_TRAINING)
    services.jobs.train(run.id, run.attempt)
    with services.store.write() as session:
        update_event = update(Event).where(Event.id == event_id)
        session.execute(update_event.values(state=EventState.APPLIED, applied_at=now()))
    return run.id


def _label(action: str) -> str:
    """The label of the metric. Unknown actions share one, so that nobody can create many time series."""
    return action if action in EVENT_BODIES else "other"
