"""`lorabel versions`, `lorabel promote` and `lorabel rollback`: a project's model versions in a terminal."""

from contextlib import closing

from lorabel.commands.context import CommandContext, new_table, open_context
from lorabel.database import projects, versions
from lorabel.database.jobs import Jobs
from lorabel.inference import promotion
from lorabel.inference.model_client import ModelClient


def list_versions(project_id: int) -> None:
    """Print a project's versions, newest first, and the base models as version 0."""
    table = new_table("version", "state", "created", "trained on", "decision")
    with open_context() as context:
        with context.store.read() as session:
            live_version = projects.get(session, project_id).live_version
            for version in versions.list_of(session, project_id):
                table.add_row(
                    version.name,
                    version.state if version.adapters_removed_at is None else f"{version.state}, removed",
                    version.created_at.strftime("%Y-%m-%d %H:%M"),
                    str(len(version.trained_on)),
                    version.metrics.get("decision", ""),
                )
        base_state = "live" if live_version.endswith(".v0") else "base"
        table.add_row(f"p{project_id}.v0", base_state, "", "", "the base models")
        context.console.print(table)


def promote(project_id: int, version: str) -> None:
    """Make a version live.

    Args:
        version: `p1.v3`, `v3` or `3`.
    """
    with open_context() as context, closing(ModelClient(context.settings)) as model_client:
        number = versions.parse_number(project_id, version)
        live_version = promotion.promote(context.store, model_client, project_id, number)
        _report_live(context, project_id, live_version)


def rollback(project_id: int) -> None:
    """Make the parent of the live version live."""
    with open_context() as context, closing(ModelClient(context.settings)) as model_client:
        live_version = promotion.rollback(context.store, model_client, project_id)
        _report_live(context, project_id, live_version)


def _report_live(context: CommandContext, project_id: int, live_version: str) -> None:
    Jobs(context.settings).look_ahead(project_id)
    context.console.print(f"{live_version} is live")
