"""`lorabel logs`: why a project's runs were started and how they ended, and what could not be read."""

from lorabel.commands.context import new_table, open_context, print_json
from lorabel.commands.heading import print_heading
from lorabel.database import projects, reasons


def show_log(project_id: int, *, limit: int, is_json: bool) -> None:
    """Print the reasons that the database has about a project, newest first.

    Args:
        limit: most rows.
    """
    with open_context(is_json=is_json) as context:
        with context.store.read() as session:
            project = projects.get(session, project_id)
            newest_reasons = reasons.list_of(session, project_id, limit)
        if is_json:
            print_json({"reasons": [reason._asdict() for reason in newest_reasons]})
            return
        print_heading(context, project)
        rows = [(reason.at.strftime("%Y-%m-%d %H:%M"), reason.subject, reason.reason) for reason in newest_reasons]
        context.console.print(new_table(("time (UTC)", "about", "reason"), rows, wrapped=("reason",)))
