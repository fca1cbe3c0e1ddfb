"""REST for search: a project's tasks by how much they are like a text or another task."""

from typing import Any

from flask import Blueprint, request

from backend import records
from backend.admin import PROJECT, read_number
from backend.services import prediction_slot, services
from backend.wire import LARGEST_ID
from lorabel.database import projects
from lorabel.errors import BadRequestError
from lorabel.search.searcher import task_links

blueprint = Blueprint("search", __name__, url_prefix="/api/v1")
DEFAULT_HITS = 20
MOST_HITS = 1000
LONGEST_QUERY = 10_000


@blueprint.get(f"{PROJECT}/search")
def search(project_id: int) -> dict[str, Any]:
    """`?q=text` or `?task=ID`; `?limit=` how many, 20 by default."""
    here, limit = services(), read_number("limit", DEFAULT_HITS, MOST_HITS)
    text, has_task = request.args.get("q", "").strip(), "task" in request.args
    if bool(text) == has_task:
        raise BadRequestError("search needs either q=text or task=ID")
    if len(text) > LONGEST_QUERY:
        raise BadRequestError(f"q has {len(text)} characters, at most {LONGEST_QUERY} are read")
    with prediction_slot(here):
        if has_task:
            found = here.searcher.like_task(project_id, read_number("task", 0, LARGEST_ID), limit)
        else:
            found = here.searcher.by_text(project_id, text, limit)
    with here.store.read() as session:
        links = task_links(projects.get(session, project_id), here.settings, found.hits)
    hits = [
        records.HitRecord(task_id=hit.task_id, similarity=hit.similarity, url=url)
        for hit, url in zip(found.hits, links, strict=True)
    ]
    answer = records.SearchRecord(hits=hits, indexed=found.indexed, missing=found.missing)
    return answer.model_dump(mode="json")
