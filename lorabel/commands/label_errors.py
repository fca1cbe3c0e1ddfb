"""`lorabel label-errors`: annotations that are probably wrong, listed in a terminal."""

from contextlib import closing

from lorabel.commands.context import new_table, open_context
from lorabel.curation import label_errors
from lorabel.inference.model_client import ModelClient
from lorabel.label_studio.media_authorizations import Authorizations


def list_label_errors(project_id: int, *, limit: int) -> None:
    """Print the annotations that are probably wrong, the worst first.

    Args:
        limit: most rows in the table.
    """
    with open_context() as context, closing(ModelClient(context.settings)) as model_client:
        sources = label_errors.Sources(context.settings, context.store, model_client, Authorizations())
        report = label_errors.find(sources, project_id)
        table = new_table("task", "annotation", "control tag", "given", "suggested", "score")
        for error in report.errors[:limit]:
            table.add_row(
                str(error.task_id),
                str(error.annotation_id),
                error.from_name,
                error.given,
                error.suggested,
                f"{error.score:.2f}",
            )
        context.console.print(table)
        context.console.print(f"{len(report.errors)} of {report.checked} annotations are probably wrong")
        for reason in report.left_out:
            context.console.print(f"left out: {reason}", highlight=False)
