"""`lorabel forget` with its arguments and options. Imports nothing that takes long (`lorabel/commands/cli.py`)."""

from typing import Annotated

import typer


def forget(
    project: Annotated[int, typer.Argument(help="The project's id in Label Studio.")],
    task: Annotated[int | None, typer.Option(help="Only this task, by id.")] = None,
    annotator: Annotated[int | None, typer.Option(help="Only what this user has done, by id.")] = None,
    retrain: Annotated[
        bool, typer.Option("--retrain", help="Remove adapters that have learned from it, and train without it.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be deleted.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask before.")] = False,
    json: Annotated[
        bool, typer.Option("--json", help="Print JSON, for scripts; needs --yes or --dry-run.")
    ] = False,
) -> None:
    """Delete what is kept of a project, a task or an annotator, also heads, jobs and logs."""
    if task is not None and annotator is not None:
        raise typer.BadParameter("give --task or --annotator, not both")
    if retrain and task is None and annotator is None:
        raise typer.BadParameter(
            "--retrain goes with --task or --annotator: of a whole project no version is left"
        )
    if json and not (yes or dry_run):
        raise typer.BadParameter("--json cannot ask; add --yes or --dry-run")
    from lorabel.commands import forget as forgetting
    from lorabel.database.forgotten_events import Subject

    forgetting.forget(
        project, Subject(task, annotator), is_retraining=retrain, is_dry=dry_run, is_confirmed=yes, is_json=json
    )
