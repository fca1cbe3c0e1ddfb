"""REST routes of model versions, for ML engineers: list and show them, promote, roll back."""

from flask import Blueprint

from backend import http_bodies, rest_responses
from backend.http_bodies import read_body
from backend.project_routes import PROJECT, Answer, as_json
from backend.services import services
from lorabel.database import projects, shown_predictions, versions
from lorabel.inference import promotion

blueprint = Blueprint("versions", __name__, url_prefix="/api/v1")


@blueprint.get(f"{PROJECT}/versions")
def list_versions(project_id: int) -> Answer:
    """List the versions of a project, the newest first. The base models, v0, are the last."""
    with services().store.read() as session:
        project = projects.get(session, project_id)
        shown = shown_predictions.by_version(session, project_id)
        version_records = [
            rest_responses.VersionRecord.of(row, shown) for row in versions.list_of(session, project_id)
        ]
    version_records.append(rest_responses.VersionRecord.of_base(project, shown))
    return as_json(rest_responses.VersionList(live_version=project.live_version, versions=version_records))


@blueprint.get(f"{PROJECT}/versions/<version>")
def get_version(project_id: int, version: str) -> Answer:
    """Show a version, which is named `3`, `v3` or `p12.v3`."""
    with services().store.read() as session:
        project = projects.get(session, project_id)
        shown = shown_predictions.by_version(session, project_id)
        number = versions.parse_number(project_id, version)
        if number == 0:
            return as_json(rest_responses.VersionDetails.of_base(project, shown))
        return as_json(rest_responses.VersionDetails.of(versions.get(session, project_id, number), shown))


@blueprint.post(f"{PROJECT}/promote")
def promote(project_id: int) -> Answer:
    """Make a version live. The next prediction uses it; no restart is needed."""
    body = http_bodies.parse(http_bodies.Promote, read_body())
    number = versions.parse_number(project_id, body.version)
    live = promotion.promote(
        services().store, services().model_client, project_id, number, learns_from_all=body.all_annotations
    )
    services().jobs.look_ahead(project_id)
    return as_json(rest_responses.LiveVersion(live_version=live))


@blueprint.post(f"{PROJECT}/rollback")
def rollback(project_id: int) -> Answer:
    """Make the live version's parent live."""
    live = promotion.rollback(services().store, services().model_client, project_id)
    services().jobs.look_ahead(project_id)
    return as_json(rest_responses.LiveVersion(live_version=live))
