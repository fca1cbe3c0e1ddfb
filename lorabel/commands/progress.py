"""A bulk run in a terminal: a progress bar while it is queued or running, and a report when it has ended."""

import time

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from lorabel.database import bulk_runs
from lorabel.database.store import Store
from lorabel.database.tables import BulkRun, BulkRunKind, RunState, version_name

POLL_S = 0.5
ACTIVE = (RunState.QUEUED, RunState.RUNNING)
FAILURES_SHOWN = 20


def show_until_ended(store: Store, run: BulkRun, console: Console) -> BulkRun:
    """Show a progress bar until the run has ended.

    Returns:
        The run as it ended.

    Raises:
        KeyboardInterrupt: the user pressed Ctrl-C, which leaves the run as it is.
    """
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task("waiting for a worker", total=None)
        while True:
            with store.read() as session:
                run = bulk_runs.get(session, run.project_id, run.id)
            _show(progress, bar, run)
            if run.state not in ACTIVE:
                return run
            time.sleep(POLL_S)


def _show(progress: Progress, bar: TaskID, run: BulkRun) -> None:
    version = "" if run.version_number is None else f" with {version_name(run.project_id, run.version_number)}"
    description = "waiting for a worker" if run.state == RunState.QUEUED else f"{run.state}{version}"
    completed = run.done + run.skipped + run.failed
    progress.update(bar, description=description, completed=completed, total=run.total)


def report(run: BulkRun, console: Console) -> None:
    """Print how the run ended: numbers of tasks, duration, and the reasons of the first failures."""
    console.print(f"bulk run {run.id} {run.state}: {_counts(run)}, {run.failed} failed")
    if run.started_at and run.finished_at:
        seconds = (run.finished_at - run.started_at).total_seconds()
        in_label_studio = f", {run.label_studio_s:.1f} of them in Label Studio" if run.label_studio_s else ""
        console.print(f"{seconds:.1f} s{in_label_studio}")
    for failure in run.failures[:FAILURES_SHOWN]:
        console.print(f"task {failure['task_id']}: {failure['reason']}", highlight=False, markup=False)
    if run.failed > FAILURES_SHOWN:
        path = f"/api/v1/projects/{run.project_id}/preannotations/{run.id}"
        console.print(f"and {run.failed - FAILURES_SHOWN} more: GET {path}")
    if run.error:
        console.print(f"[red]error:[/red] {escape(run.error)}", highlight=False)


def _counts(run: BulkRun) -> str:
    match run.kind:
        case BulkRunKind.ORDER | BulkRunKind.ORDER_RENEWAL:
            skipped = f", {run.skipped} not compared and therefore last" if run.skipped else ""
            return f"{run.done} tasks ordered by {run.strategy}{skipped}"
        case BulkRunKind.LABEL_ERRORS:
            skipped = f", {run.skipped} not compared" if run.skipped else ""
            return f"{run.done} annotated tasks compared{skipped}"
        case BulkRunKind.ACCEPTANCE:
            return f"{run.done} open tasks predicted"
        case BulkRunKind.ACCEPTANCE_UNDO:
            return f"{run.done} annotations taken back, {run.skipped} left, since somebody has changed them"
        case BulkRunKind.INDEX:
            return f"{run.done} tasks were embedded, {run.skipped} were already"
        case _:
            return f"{run.done} tasks predicted, {run.skipped} had a prediction already"
