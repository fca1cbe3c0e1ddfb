"""`lorabel rules` and `lorabel groups` with their arguments. Imports nothing that takes long (`cli.py`)."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

ProjectId = Annotated[int, typer.Argument(help="The project's id in Label Studio.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]


class Action(StrEnum):
    """What to do with a project's rules."""

    SHOW = "show"
    CHECK = "check"
    SET = "set"
    DELETE = "delete"


def rules(
    project: ProjectId,
    action: Annotated[Action, typer.Argument(help="What to do.")] = Action.SHOW,
    file: Annotated[
        Path | None,
        typer.Argument(help="The file of rules, for set and check."),
    ] = None,
    limit: Annotated[int, typer.Option("--most", min=0, help="Most tasks that show lists.")] = 20,
    json: AsJson = False,
) -> None:
    """Limit what is predicted by rules, and show what they have removed."""
    from lorabel.commands import rules as rules_of_projects

    if action == Action.SET and file is None:
        raise typer.BadParameter("name the file of rules: `lorabel rules 1 set rules.toml`", param_hint="FILE")
    if file is not None and action not in (Action.SET, Action.CHECK):
        raise typer.BadParameter(f"{action} takes no file", param_hint="FILE")
    if action == Action.SHOW:
        rules_of_projects.show(project, limit, is_json=json)
    elif action == Action.CHECK:
        rules_of_projects.check(project, file)
    elif action == Action.DELETE:
        rules_of_projects.delete(project)
    elif file is not None:
        rules_of_projects.set_file(project, file)


def groups(
    project: ProjectId,
    field: Annotated[str, typer.Option(help="A field of the tasks' data, e.g. country or meta.country.")],
    json: AsJson = False,
) -> None:
    """Show what annotators did with predictions by group, and where groups differ by more than chance."""
    from lorabel.commands import groups as groups_of_projects

    groups_of_projects.show(project, field, is_json=json)
