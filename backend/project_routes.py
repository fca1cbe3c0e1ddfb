"""REST routes of projects, for ML engineers: training runs, annotations and events; train."""

from collections.abc import Sequence
from typing import Any

from flask import Blueprint, request
from pydantic import BaseModel
from pydantic_core import from_json
from sqlalchemy import Select, func, select
from sqlalchemy.orm import undefer

from backend import http_bodies, rest_responses
from backend.services import services
from lorabel.database import projects, training_runs
from lorabel.database.tables import Annotation, Event, EventState
from lorabel.errors import BadRequestError

blueprint = Blueprint("projects", __name__, url_prefix="/api/v1")
PROJECT = f"/projects/<int(max={http_bodies.LARGEST_ID}):project_id>"
MAX_ROWS = 1000
DEFAULT_ROWS = 100
Answer = dict[str, Any]


@blueprint.get("/projects")
def list_projects() -> Answer:
    """List all projects that are not deleted."""
    with services().store.read() as session:
        summaries = [rest_responses.summarize(session, project) for project in projects.list_all(session)]
    return as_json(rest_responses.ProjectList(projects=summaries))


@blueprint.get(PROJECT)
def get_project(project_id: int) -> Answer:
    """Show a project, with its label config and the tasks that could not be read."""
    with services().store.read() as session:
        return as_json(rest_responses.describe(session, projects.get(session, project_id)))


@blueprint.get(f"{PROJECT}/runs")
def list_runs(project_id: int) -> Answer:
    """List the training runs of a project, the newest first."""
    with services().store.read() as session:
        projects.get(session, project_id)
        runs = [rest_responses.RunRecord.of(row) for row in training_runs.list_of(session, project_id)]
    return as_json(rest_responses.RunList(runs=runs))


@blueprint.get(f"{PROJECT}/annotations")
def list_annotations(project_id: int) -> Answer:
    """List the annotations of a project by id, also the deleted ones, a page at a time (`?limit=100&offset=0`)."""
    with services().store.read() as session:
        projects.get(session, project_id)
    query = select(Annotation).where(Annotation.project_id == project_id).order_by(Annotation.id)
    rows, total = _page(query.options(undefer(Annotation.prediction_result)))
    annotations = [rest_responses.AnnotationRecord.model_validate(row) for row in rows]
    return as_json(rest_responses.AnnotationList(total=total, annotations=annotations))


@blueprint.get("/events")
def list_events() -> Answer:
    """List events of all projects, the newest first, a page at a time. `?state=failed` shows those that failed."""
    query = select(Event).order_by(Event.id.desc())
    if state := request.args.get("state"):
        if state not in set(EventState):
            raise BadRequestError(f"state {state!r} is none of {', '.join(EventState)}")
        query = query.where(Event.state == state)
    rows, total = _page(query)
    events = [rest_responses.EventRecord.model_validate(row) for row in rows]
    return as_json(rest_responses.EventList(total=total, events=events))


@blueprint.post(f"{PROJECT}/train")
def train(project_id: int) -> tuple[Answer, int]:
    """Queue a training run. If a run of the project waits already, answer with that run."""
    run = training_runs.request(services().store, project_id, "asked for over REST")
    services().jobs.train(run.id, run.attempt)
    return as_json(rest_responses.RunRecord.of(run)), 202


def _page(query: Select[Any]) -> tuple[Sequence[Any], int]:
    """The rows that `?limit=N&offset=N` ask for, and the number of rows of the query without a limit."""
    limit, offset = read_number("limit", DEFAULT_ROWS, MAX_ROWS), read_number("offset", 0, http_bodies.LARGEST_ID)
    with services().store.read() as session:
        total = session.scalar(select(func.count()).select_from(query.order_by(None).subquery()))
        return session.scalars(query.limit(limit).offset(offset)).all(), total or 0


def read_number(name: str, default: int, largest: int) -> int:
    """A number of the URL's query, such as `?limit=20`.

    Raises:
        BadRequestError: the text is no whole number from 0 to `largest`.
    """
    text = request.args.get(name, str(default))
    is_number = text.isascii() and text.isdigit() and len(text) <= len(str(largest))
    if not is_number or int(text) > largest:
        raise BadRequestError(f"{name}={text[:20]!r} is no number from 0 to {largest}")
    return int(text)


def as_json(record: BaseModel) -> Answer:
    """The body of an answer: the record with values that JSON has; an infinite number is null."""
    body: Answer = from_json(record.model_dump_json())
    return body
