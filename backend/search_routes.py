"""REST route of search: the tasks of a project that are most similar to a text or to another task."""

from typing import Any

from flask import Blueprint, request

from backend import rest_responses
from backend.http_bodies import LARGEST_ID
from backend.project_routes import PROJECT, as_json, read_number
from backend.services import prediction_slot, services
from lorabel.database import projects
from lorabel.errors import BadRequestError
from lorabel.search.searcher import task_links

blueprint = Blueprint("search", __name__, url_prefix="/api/v1")
DEFAULT_HITS = 20
MAX_HITS = 1000
MAX_QUERY_LENGTH = 10_000


@blueprint.get(f"{PROJECT}/search")
def search(project_id: int) -> dict[str, Any]:
    """Find similar tasks: `?q=text` or `?task=ID`, and optionally `?limit=N`, by default 20."""
    searcher, limit = services().searcher, read_number("limit", DEFAULT_HITS, MAX_HITS)
    text, has_task = request.args.get("q", "").strip(), "task" in request.args
    if bool(text) == has_task:
        raise BadRequestError("search needs either q=text or task=ID")
    if len(text) > MAX_QUERY_LENGTH:
        raise BadRequestError(f"q has {len(text)} characters, at most {MAX_QUERY_LENGTH} are read")
    with prediction_slot(services()):
        if has_task:
            result = searcher.like_task(project_id, read_number("task", 0, LARGEST_ID), limit)
        else:
            result = searcher.by_text(project_id, text, limit)
    with services().store.read() as session:
        links = task_links(projects.get(session, project_id), services().settings, result.hits)
    hits = [
        rest_responses.HitRecord(task_id=hit.task_id, similarity=hit.similarity, url=url)
        for hit, url in zip(result.hits, links, strict=True)
    ]
    answer = rest_responses.SearchRecord(hits=hits, indexed=result.indexed, missing=result.missing)
    return as_json(answer)
