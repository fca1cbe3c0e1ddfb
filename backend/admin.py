"""REST for ML engineers under /api/v1: what was trained on what, is it better, promote, roll back, train."""

from collections.abc import Sequence
from typing import Any

from flask import Blueprint, request
from pydantic import BaseModel
from sqlalchemy import Select, func, select

from backend import records, wire
from backend.bodies import read_body
from backend.services import services
from lorabel.curation import label_errors
from lorabel.database import projects, training_runs, versions
from lorabel.database.tables import Annotation, Event, EventState
from lorabel.errors import BadRequestError
from lorabel.inference import promotion

blueprint = Blueprint("admin", __name__, url_prefix="/api/v1")
PROJECT = f"/projects/<int(max={wire.LARGEST_ID}):project_id>"
MOST_ROWS = 1000
DEFAULT_ROWS = 100
Answer = dict[str, Any]


@blueprint.get("/projects")
def list_projects() -> Answer:
    with services().store.read() as session:
        found = [records.summarize(session, project) for project in projects.list_all(session)]
    return _json(records.ProjectList(projects=found))


@blueprint.get(PROJECT)
def get_project(project_id: int) -> Answer:
    with services().store.read() as session:
        return _json(records.describe(session, projects.get(session, project_id)))


@blueprint.get(f"{PROJECT}/versions")
def list_versions(project_id: int) -> Answer:
    """Newest first; v0 is the last."""
    with services().store.read() as session:
        project = projects.get(session, project_id)
        found = [records.VersionRecord.of(row) for row in versions.list_of(session, project_id)]
    found.append(records.VersionRecord.of_base(project))
    return _json(records.VersionList(live_version=project.live_version, versions=found))


@blueprint.get(f"{PROJECT}/versions/<version>")
def get_version(project_id: int, version: str) -> Answer:
    """`3`, `v3` or `p12.v3`."""
    with services().store.read() as session:
        project = projects.get(session, project_id)
        number = versions.parse_number(project_id, version)
        if number == 0:
            return _json(records.VersionRecord.of_base(project))
        return _json(records.VersionRecord.of(versions.get(session, project_id, number)))


@blueprint.get(f"{PROJECT}/runs")
def list_runs(project_id: int) -> Answer:
    """Newest first."""
    with services().store.read() as session:
        projects.get(session, project_id)
        found = [records.RunRecord.of(row) for row in training_runs.list_of(session, project_id)]
    return _json(records.RunList(runs=found))


@blueprint.get(f"{PROJECT}/annotations")
def list_annotations(project_id: int) -> Answer:
    """By id, a page at a time (`?limit=100&offset=0`); deleted ones too."""
    with services().store.read() as session:
        projects.get(session, project_id)
    rows, total = _page(select(Annotation).where(Annotation.project_id == project_id).order_by(Annotation.id))
    found = [records.AnnotationRecord.model_validate(row) for row in rows]
    return _json(records.AnnotationList(total=total, annotations=found))


@blueprint.get(f"{PROJECT}/label-errors")
def list_label_errors(project_id: int) -> Answer:
    """The worst first."""
    here = services()
    sources = label_errors.Sources(here.settings, here.store, here.model_client, here.authorizations)
    found = label_errors.find(sources, project_id)
    return _json(records.LabelErrorList.model_validate(found))


@blueprint.get("/events")
def list_events() -> Answer:
    """Newest first, a page at a time; `?state=failed` finds what needs a look."""
    query = select(Event).order_by(Event.id.desc())
    if state := request.args.get("state"):
        if state not in set(EventState):
            raise BadRequestError(f"state {state!r} is none of {', '.join(EventState)}")
        query = query.where(Event.state == state)
    rows, total = _page(query)
    found = [records.EventRecord.model_validate(row) for row in rows]
    return _json(records.EventList(total=total, events=found))


@blueprint.post(f"{PROJECT}/train")
def train(project_id: int) -> tuple[Answer, int]:
    """The run that is queued now; if one waited already, that one."""
    run = training_runs.request(services().store, project_id, "asked for over REST")
    services().jobs.train(run.id, run.attempt)
    return _json(records.RunRecord.of(run)), 202


@blueprint.post(f"{PROJECT}/promote")
def promote(project_id: int) -> Answer:
    """The next prediction uses the version; no restart."""
    body = wire.parse(wire.Promote, read_body())
    number = versions.parse_number(project_id, body.version)
    live = promotion.promote(services().store, services().model_client, project_id, number)
    services().jobs.look_ahead(project_id)
    return _json(records.LiveVersion(live_version=live))


@blueprint.post(f"{PROJECT}/rollback")
def rollback(project_id: int) -> Answer:
    """Back to the live version's parent."""
    live = promotion.rollback(services().store, services().model_client, project_id)
    services().jobs.look_ahead(project_id)
    return _json(records.LiveVersion(live_version=live))


def _page(query: Select[Any]) -> tuple[Sequence[Any], int]:
    """The rows that `?limit&offset` ask for, and how many there are in all."""
    limit, offset = read_number("limit", DEFAULT_ROWS, MOST_ROWS), read_number("offset", 0, wire.LARGEST_ID)
    with services().store.read() as session:
        total = session.scalar(select(func.count()).select_from(query.order_by(None).subquery()))
        return session.scalars(query.limit(limit).offset(offset)).all(), total or 0


def read_number(name: str, default: int, largest: int) -> int:
    """A field of the query. Raises BadRequestError."""
    text = request.args.get(name, str(default))
    if not text.isascii() or not text.isdigit() or int(text) > largest:
        raise BadRequestError(f"{name}={text[:20]!r} is no number from 0 to {largest}")
    return int(text)


def _json(record: BaseModel) -> Answer:
    return record.model_dump(mode="json")
