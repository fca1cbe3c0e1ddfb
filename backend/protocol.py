"""The Label Studio wire: the five endpoints that Label Studio 1.23.2 calls, and `/validate` for people.

/health and /setup come before every prediction and have 1 s and 3 s: they answer from the database alone.
What we answer to a failure is never shown to anyone, so each failure is in the log and in the REST API.
"""

import logging
from typing import Any

from flask import Blueprint, Response, after_this_request, request

from backend import events, predictions, records, wire
from backend.bodies import read_body
from backend.services import Services, services
from lorabel.database import projects, versions
from lorabel.database.jobs import Jobs
from lorabel.database.tables import Project, version_name
from lorabel.errors import LabelConfigError
from lorabel.problems.binding import bind

log = logging.getLogger(__name__)
blueprint = Blueprint("protocol", __name__)
Answer = dict[str, Any]


@blueprint.get("/health")
def health() -> Answer:
    return wire.HealthAnswer().model_dump()


@blueprint.post("/setup")
def setup() -> Answer:
    """The live version, also for a label config that we cannot read: labeling goes on without us."""
    body = wire.parse(wire.Setup, read_body())
    project = _remember(services(), body)
    answer = wire.SetupAnswer(model_version=project.live_version, unserved=_unserved(body.label_config))
    return answer.model_dump(exclude_none=True)


@blueprint.post("/validate")
def validate() -> Answer:
    """What we would serve of a label config, and why not the rest. For people: Label Studio does not ask."""
    body = wire.parse(wire.Validate, read_body())
    return records.ServedRecord.of(bind(body.label_config)).model_dump()


@blueprint.post("/predict")
def predict() -> Answer:
    """The tasks after an opened one are predicted ahead, which must not delay this one: see `_look_ahead`."""
    body = wire.parse(wire.Predict, read_body())
    entries = predictions.predict(services(), body, request.environ.get("gunicorn.socket"))
    if predictions.is_opened_by_annotator(body):
        _look_ahead(services().jobs, project_id_of(body.project), body.tasks[0].id)
    return {"results": [[] if entry is None else entry.model_dump() for entry in entries]}


@blueprint.post("/webhook")
def webhook() -> Answer:
    return events.receive(services(), read_body()).model_dump(exclude_none=True)


@blueprint.get("/versions")
def list_versions() -> Answer:
    """Of every project, since Label Studio does not say which one it asks for."""
    with services().store.read() as session:
        names = [
            name
            for project in projects.list_all(session)
            for name in (
                version_name(project.id, 0),
                *(version.name for version in reversed(versions.list_of(session, project.id))),
            )
        ]
    return wire.VersionsAnswer(versions=names).model_dump()


def _look_ahead(jobs: Jobs, project_id: int, task_id: int) -> None:
    """The job is put on its queue after the answer is sent: even Redis would be in its way."""

    @after_this_request
    def when_sent(answer: Response) -> Response:
        answer.call_on_close(lambda: jobs.look_ahead(project_id, after=task_id))
        return answer


def _remember(services: Services, body: wire.Setup) -> Project:
    project_id = project_id_of(body.project)
    with services.store.read() as session:
        known = session.get(Project, project_id)
    if known is None or known.label_config != body.label_config:
        _log_unserved(project_id, body.label_config)
    if body.extra_params is not None and not isinstance(body.extra_params, dict):
        log.warning("project %d: extra params are ignored, expected a JSON object", project_id)
    return projects.remember(
        services.store,
        project_id,
        label_config=body.label_config,
        hostname=body.hostname,
        setup_token=body.access_token,
        extra_params=body.extra_params if isinstance(body.extra_params, dict) else None,
        is_deleted=False,
    )


def _log_unserved(project_id: int, label_config: str) -> None:
    try:
        bound = bind(label_config)
    except LabelConfigError as error:
        log.error("project %d: no predictions, %s", project_id, error)
        return
    for one in bound.unclaimed:
        log.warning("project %d: control tag %r is left to people: %s", project_id, one.control.name, one.reason)


def _unserved(label_config: str) -> dict[str, str] | None:
    try:
        return {one.control.name: one.reason for one in bind(label_config).unclaimed} or None
    except LabelConfigError as error:
        return {"label config": str(error)}


def project_id_of(project: str) -> int:
    """`12.1795324321` -> 12."""
    return int(project.split(".", 1)[0])
