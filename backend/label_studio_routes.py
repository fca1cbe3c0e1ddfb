"""The routes that Label Studio 1.23.2 calls: /health, /setup, /predict, /webhook and /versions; /validate for
people.

Label Studio calls /health and /setup before every prediction and waits 1 s and 3 s for them, so they answer from
the database alone. Label Studio shows nobody our error messages, so each failure is in the log and in the REST
API.
"""

import json
import logging
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from flask import Blueprint, Response, request

from backend import http_bodies, predictions, rest_responses, webhook_events
from backend.extra_params import read_extra_params
from backend.http_bodies import read_body
from backend.services import Services, services
from lorabel.database import projects, versions, webhook_secrets
from lorabel.database.tables import Project
from lorabel.errors import LabelConfigError
from lorabel.http_server.plain_route import PlainAnswer, raise_failure
from lorabel.problems.binding import bind

log = logging.getLogger(__name__)
blueprint = Blueprint("label_studio", __name__)
Answer = dict[str, Any]
PREDICT_PATH = "/predict"
ENCODER = json.JSONEncoder(separators=(",", ":"))


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
    project = services().restarts.outlive(lambda: _remember(services(), body))
    answer = http_bodies.SetupAnswer(model_version=project.served_version, unserved=_unserved(body.label_config))
    return answer.model_dump(exclude_none=True)


@blueprint.post("/validate")
def validate() -> Answer:
    """Tell which control tags of a label config we predict, and why not the others. Not called by Label Studio."""
    body = http_bodies.parse(http_bodies.Validate, read_body())
    return rest_responses.ServedRecord.of(bind(body.label_config)).model_dump()


@blueprint.post(PREDICT_PATH)
def predict() -> Response:
    """Predict tasks, see `backend/predictions.py`. When an annotator has opened a task, the next tasks are then
    predicted in the background."""
    raise_failure()
    answer = answer_prediction(services(), read_body(), request.environ)
    response = Response(answer.body, content_type="application/json")
    if answer.on_sent is not None:
        response.call_on_close(answer.on_sent)
    return response


def answer_prediction(services: Services, raw: bytes, environ: dict[str, Any]) -> PlainAnswer:
    """Answer a request to /predict. The look-ahead is enqueued, and what rules have removed is stored, after the
    answer is sent, so that the annotator waits neither for Redis nor for others who write to the database.

    Args:
        raw: the body.
        environ: of WSGI.
    """
    body = http_bodies.parse(http_bodies.Predict, raw)
    afterwards: list[Callable[[], object]] = []

    def attempt() -> list[predictions.Entry]:
        afterwards.clear()
        return predictions.predict(services, body, environ.get("gunicorn.socket"), afterwards=afterwards)

    entries = services.restarts.outlive(attempt)
    answer = {"results": [[] if entry is None else dict(entry) for entry in entries]}
    if predictions.is_opened_by_annotator(body):
        afterwards += _look_ahead(services, body)
    on_sent = partial(_call_all, afterwards) if afterwards else None
    return PlainAnswer(ENCODER.encode(answer).encode(), on_sent)


def _call_all(functions: Iterable[Callable[[], object]]) -> None:
    for function in functions:
        function()


@blueprint.post("/webhook")
def webhook() -> Answer:
    """Store an event, see `backend/webhook_events.py`."""
    secret = request.headers.get(webhook_secrets.HEADER)
    body = read_body()
    answer = webhook_events.receive(services(), body, secret)
    return answer.model_dump(exclude_none=True)


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


def _look_ahead(services: Services, body: http_bodies.Predict) -> list[Callable[[], object]]:
    """The function that enqueues the look-ahead; none if there is nothing to look ahead at."""
    project = services.live_projects.looked_ahead(body.key, body.label_config)
    if project is None:
        return []
    return [partial(services.jobs.look_ahead, project.id, after=body.tasks[0].id, project=project)]


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
