"""REST routes of a project's instructions: what a model that writes is told, by control tag."""

from flask import Blueprint

from backend import http_bodies, rest_responses
from backend.http_bodies import read_body
from backend.project_routes import PROJECT, Answer, as_json
from backend.services import services
from lorabel.database import instructions, projects

blueprint = Blueprint("instructions", __name__, url_prefix="/api/v1")


@blueprint.get(f"{PROJECT}/instructions")
def show(project_id: int) -> Answer:
    """Show the instructions that people set by hand, and those that were kept from prompt boxes."""
    with services().store.read() as session:
        project = projects.get(session, project_id)
        return as_json(rest_responses.Instructions.of(project))


@blueprint.put(f"{PROJECT}/instructions")
def change(project_id: int) -> Answer:
    """Set instructions by control tag. The next prediction follows them. null removes what was set or kept."""
    body = http_bodies.parse(http_bodies.ChangeInstructions, read_body())
    project = instructions.set_by_hand(services().store, project_id, body.instructions)
    return as_json(rest_responses.Instructions.of(project))
