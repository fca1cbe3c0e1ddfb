"""`lorabel train` and `lorabel status`: training runs in a terminal."""

import time

from lorabel.commands.context import CommandContext, new_table, open_context
from lorabel.database import projects, training_runs
from lorabel.database.jobs import Jobs
from lorabel.database.tables import Project, RunState, TrainingRun
from lorabel.errors import LorabelError

POLL_S = 0.5


def train(project_id: int, *, is_waiting: bool) -> None:
    """Queue a training run.

    Args:
        is_waiting: return when the run has ended, not when it is queued.

    Raises:
        NotFoundError: no such project.
        LorabelError: the run failed.
    """
    with open_context() as context:
        run = training_runs.request(context.store, project_id, "lorabel train")
        if not Jobs(context.settings).train(run.id, run.attempt):
            context.console.print("Redis cannot be reached: the run starts with the next sweep")
        context.console.print(f"run {run.id} of project {project_id} is queued")
        if is_waiting:
            _wait_for_end(context, project_id, run.id)


def show_status() -> None:
    """Print every project with its live version and its newest training run."""
    table = new_table(
        "project", "live", "run", "state", "step", "loss", "seconds left", "reason, decision or error"
    )
    with open_context() as context:
        with context.store.read() as session:
            for project in projects.list_all(session):
                newest_run = next(iter(training_runs.list_of(session, project.id)), None)
                table.add_row(*_status_row(project, newest_run))
        context.console.print(table)


def _status_row(project: Project, run: TrainingRun | None) -> list[str]:
    if run is None:
        return [project.both_ids, project.live_version, "", "", "", "", "", "no run yet"]
    return [
        project.both_ids,
        project.live_version,
        str(run.id),
        run.state,
        f"{run.step} of {run.steps}",
        "" if run.loss is None else f"{run.loss:.3f}",
        "" if run.seconds_left is None else f"{run.seconds_left:.0f}",
        run.error or run.decision or run.reason,
    ]


def _wait_for_end(context: CommandContext, project_id: int, run_id: int) -> None:
    while True:
        with context.store.read() as session:
            run = training_runs.get(session, project_id, run_id)
        if run.state == RunState.FAILED:
            raise LorabelError(f"run {run_id} failed: {run.error}")
        if run.state == RunState.FINISHED:
            context.console.print(run.decision or "finished")
            return
        time.sleep(POLL_S)
