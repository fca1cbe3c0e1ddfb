"""`lorabel forget`: deletes what is kept of a project, a task or an annotator, after a confirmation."""

import sys

import typer
from rich.console import Console

from lorabel.commands.context import new_table, open_context, print_json
from lorabel.commands.forgotten_places import Places, budget_advice, delete, plan, record
from lorabel.database.forgetting import Forgotten
from lorabel.database.forgotten_events import Subject
from lorabel.errors import SettingsError


def forget(
    project_id: int, subject: Subject, *, is_retraining: bool, is_dry: bool, is_confirmed: bool, is_json: bool
) -> None:
    """Delete a project, a task or what an annotator did, after a confirmation.

    Args:
        is_retraining: remove the adapters that have learned from it, and queue a run without it.
        is_dry: only show what would be deleted.
        is_confirmed: do not ask.

    Raises:
        NotFoundError: no such project, and nothing is left of one.
        SettingsError: nobody can be asked.
        Exit: something is left that must be deleted otherwise; status 1.
    """
    with open_context(is_json=is_json) as context:
        name = _name(project_id, subject)
        if is_dry or not is_confirmed:
            planned = plan(context.settings, context.store, project_id, subject, is_retraining=is_retraining)
            if not is_json:
                _show(context.console, name, planned, Places(), is_dry=True)
                _say_budget(context.console, subject, planned)
            elif is_dry:
                print_json(record(planned, Places()))
        if is_dry:
            return
        if not is_confirmed:
            _confirm(name)
        forgotten, places = delete(
            context.settings, context.store, project_id, subject, is_retraining=is_retraining
        )
        if places.advice:
            context.console.print(places.advice, highlight=False, soft_wrap=True)
        if is_json:
            print_json(record(forgotten, places))
        else:
            _show(context.console, name, forgotten, places)
            _advise(context.console, project_id, subject, forgotten)
        if places.left:
            raise typer.Exit(1)


def _name(project_id: int, subject: Subject) -> str:
    if subject.task_id is not None:
        return f"task {subject.task_id} of project {project_id}"
    if subject.annotator_id is not None:
        return f"annotator {subject.annotator_id} in project {project_id}"
    return f"project {project_id}"


def _confirm(name: str) -> None:
    if not sys.stdin.isatty():
        raise SettingsError(f"{name} is deleted for good: add --yes where nobody can be asked")
    typer.confirm(f"Delete this of {name} for good?", abort=True)


def _show(console: Console, name: str, forgotten: Forgotten, places: Places, *, is_dry: bool = False) -> None:
    title = f"{'would be deleted' if is_dry else 'deleted'} or changed of {name}"
    rows = {f"table {table}": count for table, count in sorted(forgotten.rows.items())} | places.deleted
    cells = [(place, str(count)) for place, count in rows.items() if count]
    if cells:
        console.print(new_table((title, "how many"), cells, wrapped=(title,)))
    else:
        console.print(f"nothing is kept of {name}", highlight=False)
    for version in forgotten.learned:
        console.print(f"adapters have learned from it: {version}", highlight=False, soft_wrap=True)
    if forgotten.active_runs:
        console.print(f"queued and running runs that are ended: {forgotten.active_runs}", highlight=False)
    for sentence in places.left:
        console.print(f"[red]left:[/red] {sentence}", highlight=False, soft_wrap=True)


def _say_budget(console: Console, subject: Subject, planned: Forgotten) -> None:
    if advice := budget_advice(subject, planned):
        console.print(advice, highlight=False, soft_wrap=True)


def _advise(console: Console, project_id: int, subject: Subject, forgotten: Forgotten) -> None:
    if forgotten.retraining is not None:
        console.print(f"run {forgotten.retraining.id} trains without it; the adapters above were removed")
    elif forgotten.learned and not subject.is_project:
        option = (
            f"--task {subject.task_id}" if subject.task_id is not None else f"--annotator {subject.annotator_id}"
        )
        console.print(
            f"to remove these adapters and train without it: lorabel forget {project_id} {option} --retrain",
            highlight=False,
            soft_wrap=True,
        )
    advice = "what Label Studio still has comes back with its next event or comparison: delete it there, too"
    console.print(advice, soft_wrap=True)
