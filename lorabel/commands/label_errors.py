"""`lorabel label-errors`: annotations that are probably wrong, found by a bulk run and listed in a terminal."""

from typing import Any

import typer

from lorabel.commands.bulk_runs import carry_out
from lorabel.commands.context import CommandContext, new_table, open_context, print_json
from lorabel.commands.heading import print_heading
from lorabel.commands.progress import report
from lorabel.database import bulk_runs, label_error_reports, projects
from lorabel.database.tables import BulkRunKind, LabelErrorReport, RunState, version_name


def find_label_errors(project_id: int, *, limit: int, is_detached: bool, is_json: bool) -> None:
    """Queue a bulk run that looks for label errors, show it until it has ended, and print what it found.

    Args:
        limit: most rows in the table.
        is_detached: return when the run is queued.

    Raises:
        Exit: as `lorabel.commands.bulk_runs.preannotate`.
    """
    with open_context(is_json=is_json) as context:
        run = bulk_runs.request(context.store, project_id, "lorabel label-errors", kind=BulkRunKind.LABEL_ERRORS)
        run = carry_out(context, run, is_detached=is_detached)
        report(run, context.console)
        if run.state != RunState.FINISHED:
            raise typer.Exit(1)
        _show_last(context, project_id, limit, is_json=is_json)


def show_last(project_id: int, *, limit: int, is_json: bool) -> None:
    """Print what the last run found. Starts nothing.

    Args:
        limit: most rows in the table.
    """
    with open_context(is_json=is_json) as context:
        _show_last(context, project_id, limit, is_json=is_json)


def _show_last(context: CommandContext, project_id: int, limit: int, *, is_json: bool) -> None:
    with context.store.read() as session:
        project = projects.get(session, project_id)
        label_errors = label_error_reports.get(session, project_id)
    if is_json:
        print_json({"report": None if label_errors is None else _record(label_errors, limit)})
    elif label_errors is None:
        context.console.print(f"no run has looked for label errors in project {project_id} yet")
    else:
        print_heading(context, project)
        _print(context, label_errors, limit)


def _record(label_errors: LabelErrorReport, limit: int) -> dict[str, Any]:
    """What REST says of a report, under the same names."""
    version = version_name(label_errors.project_id, label_errors.version_number)
    fields = {name: getattr(label_errors, name) for name in ("run_id", "found_at", "checked", "found", "left_out")}
    return {"version": version, **fields, "errors": label_errors.errors[:limit]}


def _print(context: CommandContext, label_errors: LabelErrorReport, limit: int) -> None:
    rows = [
        (
            str(error["task_id"]),
            str(error["annotation_id"]),
            error["from_name"],
            error["given"],
            error["suggested"],
            f"{error['score']:.2f}",
        )
        for error in label_errors.errors[:limit]
    ]
    columns = ("task", "annotation", "control tag", "given", "suggested", "score")
    context.console.print(new_table(columns, rows, wrapped=("control tag", "given", "suggested")))
    found_at = label_errors.found_at.strftime("%Y-%m-%d %H:%M")
    counts = f"{label_errors.found} of {label_errors.checked} annotations are probably wrong"
    context.console.print(f"{counts} (run {label_errors.run_id}, {found_at} UTC)")
    for reason in label_errors.left_out:
        context.console.print(f"left out: {reason}", highlight=False, markup=False)
