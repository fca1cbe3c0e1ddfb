"""The line above a table: which project the table is about."""

from lorabel.commands.context import CommandContext
from lorabel.database.tables import Project
from lorabel.label_studio.project_titles import project_titles


def print_heading(context: CommandContext, project: Project) -> None:
    """Print the project's id, and its title if Label Studio says it."""
    title = project_titles([project], context.settings).get(project.id)
    text = f"project {project.both_ids}" + (f": {title}" if title else "")
    context.console.print(text, highlight=False, markup=False)
