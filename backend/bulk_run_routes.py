"""REST routes of bulk runs.

A bulk run predicts many tasks of a project and writes the predictions to Label Studio, or it orders the tasks that
have no annotation, or it looks for annotations that are probably wrong, or it embeds all tasks for search.
"""

from typing import Any

from flask import Blueprint

from backend import bulk_run_responses, http_bodies
from backend.http_bodies import read_body
from backend.project_routes import PROJECT, as_json
from backend.services import services
from lorabel.database import bulk_runs, label_error_reports, projects
from lorabel.database.tables import BulkRun, BulkRunKind
from lorabel.label_studio.access import require_api_access

blueprint = Blueprint("bulk_runs", __name__, url_prefix="/api/v1")
RUNS = f"{PROJECT}/preannotations"
RUN = f"{RUNS}/<int(max={http_bodies.LARGEST_ID}):run_id>"
Answer = dict[str, Any]


@blueprint.post(f"{PROJECT}/preannotate")
def preannotate(project_id: int) -> tuple[Answer, int]:
    """Queue a bulk run that predicts tasks. A waiting run that includes them is not queued twice."""
    body = http_bodies.parse(http_bodies.Preannotate, read_body() or b"{}")
    _require_api_access(project_id)
    run = bulk_runs.request(
        services().store,
        project_id,
        "asked for over REST",
        only_unlabeled=body.only_unlabeled,
        task_ids=body.task_ids,
    )
    services().jobs.carry_out(run)
    return _json(run), 202


@blueprint.post(f"{PROJECT}/order")
def order(project_id: int) -> tuple[Answer, int]:
    """Queue a bulk run that orders tasks. A waiting run with the same strategy is not queued twice."""
    body = http_bodies.parse(http_bodies.Order, read_body() or b"{}")
    _require_api_access(project_id)
    run = bulk_runs.request(
        services().store,
        project_id,
        "asked for over REST",
        kind=BulkRunKind.ORDER,
        only_unlabeled=True,
        strategy=body.strategy,
    )
    services().jobs.carry_out(run)
    return _json(run), 202


@blueprint.post(f"{PROJECT}/label-errors")
def find_label_errors(project_id: int) -> tuple[Answer, int]:
    """Queue a bulk run that looks for label errors. If one waits already, answer with that run."""
    run = bulk_runs.request(services().store, project_id, "asked for over REST", kind=BulkRunKind.LABEL_ERRORS)
    services().jobs.carry_out(run)
    return _json(run), 202


@blueprint.post(f"{PROJECT}/index")
def index(project_id: int) -> tuple[Answer, int]:
    """Queue a bulk run that embeds all tasks. If one waits already, answer with that run."""
    _require_api_access(project_id)
    run = bulk_runs.request(services().store, project_id, "asked for over REST", kind=BulkRunKind.INDEX)
    services().jobs.carry_out(run)
    return _json(run), 202


@blueprint.get(f"{PROJECT}/label-errors")
def list_label_errors(project_id: int) -> Answer:
    """Show what the last run found, and the newest run. Nothing is computed."""
    with services().store.read() as session:
        projects.get(session, project_id)
        run = bulk_runs.newest(session, project_id, BulkRunKind.LABEL_ERRORS)
        report = label_error_reports.get(session, project_id)
    label_errors = bulk_run_responses.LabelErrorList(
        run=None if run is None else bulk_run_responses.BulkRunRecord.of(run),
        report=None if report is None else bulk_run_responses.LabelErrorReportRecord.of(report),
    )
    return as_json(label_errors)


@blueprint.get(RUNS)
def list_bulk_runs(project_id: int) -> Answer:
    """List the bulk runs of a project, the newest first."""
    with services().store.read() as session:
        projects.get(session, project_id)
        runs = [bulk_run_responses.BulkRunRecord.of(row) for row in bulk_runs.list_of(session, project_id)]
    return as_json(bulk_run_responses.BulkRunList(runs=runs))


@blueprint.get(RUN)
def get_bulk_run(project_id: int, run_id: int) -> Answer:
    """Show a bulk run."""
    with services().store.read() as session:
        return _json(bulk_runs.get(session, project_id, run_id))


@blueprint.post(f"{RUN}/cancel")
def cancel_bulk_run(project_id: int, run_id: int) -> Answer:
    """Cancel a bulk run. Predictions that are already written stay."""
    return _json(bulk_runs.cancel(services().store, project_id, run_id))


def _require_api_access(project_id: int) -> None:
    """Refuse a bulk run that could not reach the project's tasks in Label Studio.

    Raises:
        NotFoundError: no such project.
        ConflictError: there is no token for the project's Label Studio.
    """
    with services().store.read() as session:
        require_api_access(projects.get(session, project_id), services().settings)


def _json(run: BulkRun) -> Answer:
    return as_json(bulk_run_responses.BulkRunRecord.of(run))
