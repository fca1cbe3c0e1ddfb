"""`lorabel rules`: sets, checks, shows and deletes the rules of a project."""

from collections.abc import Sequence
from pathlib import Path

from lorabel.commands.context import CommandContext, new_table, open_context, print_json
from lorabel.commands.heading import print_heading
from lorabel.database import projects, rule_effects, rules
from lorabel.database.rule_effects import RuleCount
from lorabel.database.tables import Project, RuleEffect
from lorabel.errors import RulesError
from lorabel.labeling.rule_file import LONGEST_FILE

COLUMNS = ("rule", "kind", "tasks", "removed")
EFFECT_COLUMNS = ("task", "rule", "removed", "why")


def set_file(project_id: int, file: Path) -> None:
    """Set the rules of a project to those of a file.

    Raises:
        NotFoundError: no such project.
        RulesError: the file cannot be read, or its rules do not fit the project; nothing is changed.
    """
    with open_context() as context:
        project = rules.set_file(context.store, project_id, _read(file))
        count = len(list(rules.read_of(project).in_order))
        counted = "1 rule" if count == 1 else f"{count} rules"
        context.console.print(
            f"project {project_id} has {counted} now, which the next predictions follow; "
            f"`lorabel preannotate {project_id}` renews those that Label Studio has",
            highlight=False,
        )


def check(project_id: int, file: Path | None) -> None:
    """Check a file, or the rules that a project has, against its label config. Nothing is changed.

    Raises: as `set_file`.
    """
    with open_context() as context:
        with context.store.read() as session:
            text = rules.file_of(projects.get(session, project_id)) if file is None else _read(file)
            if text is None:
                context.console.print(f"project {project_id} has no rules")
                return
            checked = rules.check(session, project_id, text)
        count = len(list(checked.in_order))
        fitting = "1 rule fits" if count == 1 else f"{count} rules fit"
        context.console.print(f"{fitting} the label config of project {project_id}", highlight=False)


def delete(project_id: int) -> None:
    """Remove the rules of a project.

    Raises:
        NotFoundError: no such project.
    """
    with open_context() as context:
        rules.remove(context.store, project_id)
        context.console.print(f"project {project_id} has no rules now", highlight=False)


def show(project_id: int, limit: int, *, is_json: bool) -> None:
    """Print the rules of a project, what each has removed, and from which tasks.

    Args:
        limit: most tasks.

    Raises:
        NotFoundError: no such project.
    """
    with open_context(is_json=is_json) as context:
        with context.store.read() as session:
            project = projects.get(session, project_id)
            counts = rule_effects.counts(session, project_id)
            effects = rule_effects.newest(session, project_id, limit)
        faults = rules.faults_of(project)
        if is_json:
            print_json(
                {
                    "file": rules.file_of(project),
                    "rules": [count._asdict() for count in counts],
                    "faults": faults,
                    "tasks": [_record(effect) for effect in effects],
                }
            )
            return
        _print(context, project, counts, faults, effects)


def _print(
    context: CommandContext,
    project: Project,
    counts: Sequence[RuleCount],
    faults: Sequence[str],
    effects: Sequence[RuleEffect],
) -> None:
    print_heading(context, project)
    text = rules.file_of(project)
    if text is None:
        context.console.print(
            "no rules; `lorabel rules PROJECT set FILE` sets them", highlight=False, markup=False
        )
        return
    context.console.print(text.strip(), highlight=False, markup=False)
    rows = [(count.rule, count.kind, str(count.tasks), str(count.removals)) for count in counts]
    context.console.print(new_table(COLUMNS, rows, wrapped=("rule",)))
    for fault in faults:
        context.console.print(f"not applied: {fault}", highlight=False, markup=False)
    if effects:
        effect_rows = [
            (str(effect.task_id), effect.rule, f"{removal['what']} ({removal['from_name']})", removal["why"])
            for effect in effects
            for removal in effect.removals[:1]
        ]
        context.console.print(new_table(EFFECT_COLUMNS, effect_rows, wrapped=("rule", "removed", "why")))


def _record(effect: RuleEffect) -> dict[str, object]:
    names = ("task_id", "rule", "version", "count", "removals", "predicted_at")
    return {name: getattr(effect, name) for name in names}


def _read(file: Path) -> str:
    try:
        with file.open("rb") as opened:
            return opened.read(4 * LONGEST_FILE).decode()
    except (OSError, UnicodeDecodeError) as error:
        raise RulesError(f"{str(file)!r} cannot be read as a text in UTF-8: {error}") from None
