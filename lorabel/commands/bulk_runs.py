"""`lorabel preannotate` and `lorabel order`: bulk runs are queued, shown and cancelled from a terminal."""

import signal

import typer

from lorabel.commands.context import CommandContext, open_context
from lorabel.commands.progress import ACTIVE, report, show_until_ended
from lorabel.curation.strategy import Strategy
from lorabel.database import bulk_runs, projects
from lorabel.database.jobs import Jobs
from lorabel.database.tables import BulkRun, BulkRunKind, RunState
from lorabel.label_studio.access import require_api_access


def preannotate(project_id: int, task_ids: list[int] | None, *, only_unlabeled: bool, is_detached: bool) -> None:
    """Queue a bulk run that predicts tasks, and show it until it has ended.

    Args:
        task_ids: predict these tasks; None for all tasks of the project.
        only_unlabeled: leave out tasks that have an annotation.
        is_detached: return when the run is queued.

    Raises:
        Exit: the run has ended; the exit code is 0 if it finished, 1 if it failed or was cancelled, and 130 if the
            user pressed Ctrl-C, which leaves the run as it is.
    """
    with open_context() as context:
        require_project_access(context, project_id)
        run = bulk_runs.request(
            context.store,
            project_id,
            "lorabel preannotate",
            only_unlabeled=only_unlabeled,
            task_ids=task_ids,
        )
        start(context, run, is_detached=is_detached)


def order(project_id: int, strategy: Strategy, *, is_detached: bool) -> None:
    """Queue a bulk run that orders the unlabeled tasks, and show it until it has ended.

    Raises:
        Exit: as `preannotate`.
    """
    with open_context() as context:
        require_project_access(context, project_id)
        run = bulk_runs.request(
            context.store,
            project_id,
            "lorabel order",
            kind=BulkRunKind.ORDER,
            only_unlabeled=True,
            strategy=strategy.value,
        )
        start(context, run, is_detached=is_detached)


def cancel(project_id: int) -> None:
    """Cancel every bulk run of the project that is queued or running."""
    with open_context() as context:
        with context.store.read() as session:
            projects.get(session, project_id)
            active_runs = [run for run in bulk_runs.list_of(session, project_id) if run.state in ACTIVE]
        for run in active_runs:
            report(bulk_runs.cancel(context.store, project_id, run.id), context.console)
        if not active_runs:
            context.console.print(f"project {project_id} has no bulk run that is queued or running")


def require_project_access(context: CommandContext, project_id: int) -> None:
    """Refuse a bulk run that could not reach the project's tasks in Label Studio.

    Raises:
        NotFoundError: no such project.
        ConflictError: there is no token for its Label Studio.
    """
    with context.store.read() as session:
        require_api_access(projects.get(session, project_id), context.settings)


def start(context: CommandContext, run: BulkRun, *, is_detached: bool) -> None:
    """Have a queued run done, show it until it has ended, and end the command; see `preannotate`."""
    run = carry_out(context, run, is_detached=is_detached)
    report(run, context.console)
    raise typer.Exit(0 if run.state == RunState.FINISHED else 1)


def carry_out(context: CommandContext, run: BulkRun, *, is_detached: bool) -> BulkRun:
    """Have a queued run done, and show it until it has ended.

    Returns:
        The run as it ended.

    Raises:
        Exit: the run is queued, and `is_detached`; or the user pressed Ctrl-C, which leaves the run as it is.
    """
    try:
        if not Jobs(context.settings).carry_out(run):
            context.console.print("Redis cannot be reached: the run starts with the next sweep")
        if is_detached:
            context.console.print(f"bulk run {run.id} of project {run.project_id} is queued")
            raise typer.Exit
        return show_until_ended(context.store, run, context.console)
    except KeyboardInterrupt:
        context.console.print(
            f"bulk run {run.id} goes on; `lorabel preannotate {run.project_id} --cancel` ends it"
        )
        raise typer.Exit(128 + signal.SIGINT) from None
