"""`lorabel versions`, `lorabel promote` and `lorabel rollback`: a project's model versions in a terminal."""

from collections.abc import Mapping
from contextlib import closing
from typing import Any

from lorabel.commands.context import CommandContext, new_table, open_context, print_json
from lorabel.commands.heading import print_heading
from lorabel.database import project_heads, projects, shown_predictions, versions
from lorabel.database.jobs import Jobs
from lorabel.database.shown_predictions import Shown
from lorabel.database.tables import ModelVersion, Project, VersionState, version_name
from lorabel.inference import promotion
from lorabel.inference.model_client import ModelClient

FIELDS = (
    *("state", "metrics", "base_models", "adapters", "trained_on"),
    *("run_id", "created_at", "promoted_at", "adapters_removed_at"),
)


def list_versions(project_id: int, *, is_json: bool) -> None:
    """Print a project's versions, newest first. The base models, version 0, are the last."""
    with open_context(is_json=is_json) as context:
        with context.store.read() as session:
            project = projects.get(session, project_id)
            rows = versions.list_of(session, project_id)
            shown = shown_predictions.by_version(session, project_id)
        if is_json:
            records = [version_record(project, version, shown) for version in (*rows, None)]
            print_json({"live_version": project.live_version, "versions": records})
            return
        print_heading(context, project)
        base_name = version_name(project_id, 0)
        words = _with_accepted("the base models", shown, base_name)
        base = (base_name, shown_state(project, None), "", "", words)
        columns = ("version", "state", "created", "trained on", "decision")
        cells = [*(_cells(project, row, shown) for row in rows), base]
        context.console.print(new_table(columns, cells, wrapped=("decision",)))


def shown_state(project: Project, version: ModelVersion | None) -> str:
    """The state of a version in tables; `base` for version 0 (None) while another version is live."""
    if version is None:
        return "base" if project.live_number else VersionState.LIVE
    return version.state if version.adapters_removed_at is None else f"{version.state},\nremoved"


def _with_accepted(decision: str, shown: Mapping[str, Shown], name: str) -> str:
    """The decision, and how many of the predictions that annotators were shown they accepted."""
    of_version = shown.get(name, Shown())
    accepted = f"annotators accepted {of_version.accepted} of {of_version.shown}" if of_version.shown else ""
    return "; ".join(filter(None, (decision, accepted)))


def _cells(project: Project, version: ModelVersion, shown: Mapping[str, Shown]) -> tuple[str, ...]:
    return (
        version.name,
        shown_state(project, version),
        version.created_at.strftime("%Y-%m-%d %H:%M"),
        str(len(version.trained_on)),
        _with_accepted(version.metrics.get("decision", ""), shown, version.name),
    )


def version_record(project: Project, version: ModelVersion | None, shown: Mapping[str, Shown]) -> dict[str, Any]:
    """What REST says of a version, under the same names.

    Args:
        version: None for version 0, the base models, which has no row.
        shown: by name of a version.
    """
    if version is None:
        state = VersionState.RETIRED if project.live_number else VersionState.LIVE
        base = ModelVersion(number=0, state=state, base_models={}, adapters={}, metrics={}, trained_on=[])
        base.project_id, base.created_at = project.id, project.created_at
        return version_record(project, base, shown) | {"parent": None}
    fields = {name: getattr(version, name) for name in FIELDS} | shown.get(version.name, Shown())._asdict()
    return {"version": version.name, "parent": version_name(project.id, version.parent or 0), **fields}


def promote(project_id: int, version: str, *, learns_from_all: bool) -> None:
    """Make a version live.

    Args:
        version: `p1.v3`, `v3` or `3`.
        learns_from_all: see `promotion.promote`.
    """
    with open_context() as context, closing(ModelClient(context.settings)) as model_client:
        number = versions.parse_number(project_id, version)
        live_version = promotion.promote(
            context.store, model_client, project_id, number, learns_from_all=learns_from_all
        )
        _report_live(context, project_id, live_version)


def rollback(project_id: int) -> None:
    """Make the parent of the live version live."""
    with open_context() as context, closing(ModelClient(context.settings)) as model_client:
        live_version = promotion.rollback(context.store, model_client, project_id)
        _report_live(context, project_id, live_version)


def _report_live(context: CommandContext, project_id: int, live_version: str) -> None:
    Jobs(context.settings).look_ahead(project_id)
    context.console.print(f"{live_version} is live")
    with context.store.read() as session:
        left_out = project_heads.count_left_out(session, projects.get(session, project_id))
    if left_out:
        context.console.print(
            f"its heads leave out {left_out} annotations that have arrived since it was made; to learn from them: "
            f"lorabel promote {project_id} {live_version} --all-annotations"
        )
