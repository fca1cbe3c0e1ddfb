"""The routes that Label Studio 1.23.2 calls: /health, /setup, /predict, /webhook and /versions; /validate for
people.

Label Studio calls /health and /setup before every prediction and waits 1 s and 3 s for them, so they answer from
the database alone. Label Studio shows nobody our error messages, so each failure is in the log and in the REST
API.
"""

import logging
from typing import Any

from flask import Blueprint, Response, after_this_request, request

from backend import http_bodies, predictions, rest_responses, webhook_events
from backend.extra_params import read_extra_params
from backend.http_bodies import read_body
from backend.services import Services, services
from lorabel.database import projects, versions, webhook_secrets
from lorabel.database.tables import Project
from lorabel.errors import LabelConfigError
from lorabel.problems.binding import bind

log = logging.getLogger(__name__)
blueprint = Blueprint("label_studio", __name__)
Answer = dict[str, Any]


@blueprint.get("/health")
def health() -> Answer:
    """Tell Label Studio that the backend answers. Touches neither database nor model server."""
    return http_bodies.HealthAnswer().model_dump()


@blueprint.post("/setup")
def setup() -> Answer:
    """Remember what Label Studio says about a project, and answer with its live version.

    A label config that we cannot read gets status 200 too, so that people can label without predictions.
    """
    body = http_bodies.parse(http_bodies.Setup, read_body())
    project = _remember(services(), body)
    answer = http_bodies.SetupAnswer(model_version=project.served_version, unserved=_unserved(body.label_config))
    return answer.model_dump(exclude_none=True)


@blueprint.post("/validate")
def validate() -> Answer:
    """Tell which control tags of a label config we predict, and why not the others. Not called by Label Studio."""
    body = http_bodies.parse(http_bodies.Validate, read_body())
    return rest_responses.ServedRecord.of(bind(body.label_config)).model_dump()


@blueprint.post("/predict")
def predict() -> Answer:
    """Predict tasks, see `backend/predictions.py`. When an annotator has opened a task, the next tasks are then
    predicted in the background."""
    body = http_bodies.parse(http_bodies.Predict, read_body())
    entries = predictions.predict(services(), body, request.environ.get("gunicorn.socket"))
    if predictions.is_opened_by_annotator(body):
        _look_ahead(services(), body)
    return {"results": [[] if entry is None else entry.model_dump() for entry in entries]}


@blueprint.post("/webhook")
def webhook() -> Answer:
    """Store an event, see `backend/webhook_events.py`."""
    secret = request.headers.get(webhook_secrets.HEADER)
    return webhook_events.receive(services(), read_body(), secret).model_dump(exclude_none=True)


@blueprint.get("/versions")
def list_versions() -> Answer:
    """List the versions of every project, since Label Studio does not say which project it asks about."""
    with services().store.read() as session:
        names = [
            name
            for project in projects.list_all(session)
            for name in reversed(versions.names(session, project.id))
        ]
    return http_bodies.VersionsAnswer(versions=names).model_dump()


def _look_ahead(services: Services, body: http_bodies.Predict) -> None:
    """Enqueue the look-ahead after the answer is sent, so that the annotator does not wait for Redis."""
    project_id = services.live_projects.looked_ahead_id(body.key, body.label_config)
    if project_id is None:
        return

    @after_this_request
    def enqueue_when_sent(answer: Response) -> Response:
        answer.call_on_close(lambda: services.jobs.look_ahead(project_id, after=body.tasks[0].id))
        return answer


def _remember(services: Services, body: http_bodies.Setup) -> Project:
    project = projects.resolve(services.store, body.key)
    if project.label_config != body.label_config:
        _log_unserved(project.id, body.label_config)
    extra_params = read_extra_params(body.extra_params)
    if extra_params is None and body.extra_params not in (None, ""):
        log.warning("project %d: extra params are ignored, expected a JSON object", project.id)
    return projects.upsert(
        services.store,
        project.id,
        label_config=body.label_config,
        hostname=body.hostname,
        setup_token=body.access_token,
        extra_params=extra_params,
        is_deleted=False,
    )


def _log_unserved(project_id: int, label_config: str) -> None:
    try:
        bound = bind(label_config)
    except LabelConfigError as error:
        log.error("project %d: no predictions, %s", project_id, error)
        return
    for unclaimed in bound.unclaimed:
        name = unclaimed.control.name
        log.warning("project %d: control tag %r is left to people: %s", project_id, name, unclaimed.reason)


def _unserved(label_config: str) -> dict[str, str] | None:
    """By control tag why we do not predict it; None if we predict all of them."""
    try:
        return {unclaimed.control.name: unclaimed.reason for unclaimed in bind(label_config).unclaimed} or None
    except LabelConfigError as error:
        return {"label config": str(error)}
