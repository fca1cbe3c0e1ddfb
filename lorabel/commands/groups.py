"""`lorabel groups`: what annotators did with predictions, by a field of the tasks' data."""

from lorabel.commands.context import new_table, open_context, print_json
from lorabel.commands.heading import print_heading
from lorabel.database import group_answers, projects
from lorabel.evaluation.group_figures import LEAST_CASES, GroupFigures, Share, compare_groups
from lorabel.evaluation.group_records import difference_text, groups_record, shown_group

COLUMNS = ("group", "tag", "label", "tasks", "unchanged", "precision", "recall", "support")


def show(project_id: int, field: str, *, is_json: bool) -> None:
    """Print figures by group, and which groups differ by more than chance.

    Raises:
        NotFoundError: no such project.
        BadRequestError: no field can be named so.
    """
    with open_context(is_json=is_json) as context:
        with context.store.read() as session:
            project = projects.get(session, project_id)
            shown = group_answers.shown_by_group(session, project_id, field)
        groups = compare_groups(shown)
        if is_json:
            print_json(groups_record(field, groups))
            return
        print_heading(context, project)
        if not groups.groups:
            context.console.print("nothing to count yet: it needs submitted tasks that had a prediction")
            return
        rows = [row for group in groups.groups for row in _rows(group)]
        context.console.print(new_table(COLUMNS, rows, wrapped=("group", "label")))
        lines = [difference_text(field, difference) for difference in groups.differences]
        lines = [f"differs by more than chance: {line}" for line in lines] or [
            f"no group differs from the others by more than chance ({groups.comparisons} comparisons)"
        ]
        if groups.left_out:
            lines.append(f"{groups.left_out} smaller groups are left out")
        for line in lines:
            context.console.print(line, highlight=False, markup=False)


def _rows(group: GroupFigures) -> list[tuple[str, ...]]:
    whole = (
        shown_group(group.group),
        "",
        "all",
        str(group.unchanged.cases),
        _text(group.unchanged),
        _text(group.precision),
        _text(group.recall),
        str(group.recall.cases),
    )
    labels = [
        (
            "",
            figures.control_tag,
            figures.label,
            "",
            "",
            _text(Share(figures.right, figures.predicted)),
            _text(Share(figures.right, figures.support)),
            str(figures.support),
        )
        for figures in group.labels
    ]
    return [whole, *labels]


def _text(share: Share) -> str:
    """The share with its interval in percent: `83 (74-90)`."""
    if share.value is None:
        return f"{share.cases} of {LEAST_CASES} cases"
    if share.interval is None:
        return f"{share.value:.0%}"
    low, high = share.interval
    return f"{share.value:.0%} ({low:.0%}-{high:.0%})"
