"""REST for bulk runs: predict a whole project and write the predictions back to Label Studio, or put its open
tasks into an order."""

from typing import Any

from flask import Blueprint

from backend import records, wire
from backend.admin import PROJECT
from backend.bodies import read_body
from backend.services import services
from lorabel.database import bulk_runs, projects
from lorabel.database.tables import BulkRun

blueprint = Blueprint("preannotations", __name__, url_prefix="/api/v1")
RUNS = f"{PROJECT}/preannotations"
RUN = f"{RUNS}/<int(max={wire.LARGEST_ID}):run_id>"
Answer = dict[str, Any]


@blueprint.post(f"{PROJECT}/preannotate")
def preannotate(project_id: int) -> tuple[Answer, int]:
    """The run that is queued now; if one that does all of it waited already, that one."""
    body = wire.parse(wire.Preannotate, read_body() or b"{}")
    run = bulk_runs.request(
        services().store,
        services().settings,
        project_id,
        "asked for over REST",
        only_unlabeled=body.only_unlabeled,
        task_ids=body.task_ids,
    )
    services().jobs.preannotate(run)
    return _json(run), 202


@blueprint.post(f"{PROJECT}/order")
def order(project_id: int) -> tuple[Answer, int]:
    """The run that is queued now; if one by the same strategy waited already, that one."""
    body = wire.parse(wire.Order, read_body())
    run = bulk_runs.request(
        services().store,
        services().settings,
        project_id,
        "asked for over REST",
        only_unlabeled=True,
        strategy=body.strategy,
    )
    services().jobs.preannotate(run)
    return _json(run), 202


@blueprint.get(RUNS)
def list_preannotations(project_id: int) -> Answer:
    """Newest first."""
    with services().store.read() as session:
        projects.get(session, project_id)
        found = [records.BulkRunRecord.of(row) for row in bulk_runs.list_of(session, project_id)]
    return records.BulkRunList(runs=found).model_dump(mode="json")


@blueprint.get(RUN)
def get_preannotation(project_id: int, run_id: int) -> Answer:
    with services().store.read() as session:
        return _json(bulk_runs.get(session, project_id, run_id))


@blueprint.post(f"{RUN}/cancel")
def cancel_preannotation(project_id: int, run_id: int) -> Answer:
    """What is written already stays."""
    return _json(bulk_runs.cancel(services().store, project_id, run_id))


def _json(run: BulkRun) -> Answer:
    return records.BulkRunRecord.of(run).model_dump(mode="json")
