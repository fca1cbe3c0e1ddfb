"""`lorabel train` and `lorabel status`: training runs in a terminal."""

import time
from typing import Any

from lorabel.commands.context import CommandContext, new_table, open_context, print_json
from lorabel.database import projects, training_runs, versions
from lorabel.database.jobs import Jobs
from lorabel.database.tables import Project, RunState, TrainingRun
from lorabel.errors import LorabelError
from lorabel.label_studio.project_titles import project_titles

POLL_S = 0.5
RUN_FIELDS = ("id", "state", "reason", "step", "steps", "loss", "seconds_left", "decision", "error", "created_at")


def train(project_id: int, *, is_waiting: bool) -> None:
    """Queue a training run.

    Args:
        is_waiting: return when the run has ended, not when it is queued.

    Raises:
        NotFoundError: no such project.
        LorabelError: the run failed.
    """
    with open_context() as context:
        run = training_runs.request(context.store, project_id, "lorabel train")
        if not Jobs(context.settings).train(run.id, run.attempt):
            context.console.print("Redis cannot be reached: the run starts with the next sweep")
        context.console.print(f"run {run.id} of project {project_id} is queued")
        if is_waiting:
            _wait_for_end(context, project_id, run.id)


def show_status(*, is_json: bool) -> None:
    """Print every project with its title, its live version and its newest training run."""
    with open_context(is_json=is_json) as context:
        with context.store.read() as session:
            rows = [(project, training_runs.newest(session, project.id)) for project in projects.list_all(session)]
        if not rows and not is_json:
            context.console.print("no project is connected yet; `lorabel connect` connects one")
            return
        titles = project_titles([project for project, _ in rows], context.settings)
        if is_json:
            print_json({"projects": [_status(project, titles.get(project.id), run) for project, run in rows]})
            return
        cells = [
            (project.both_ids, titles.get(project.id, ""), project.live_version, _in_words(run))
            for project, run in rows
        ]
        wrapped = ("project", "title", "newest training run")
        context.console.print(new_table(("project", "title", "live", "newest training run"), cells, wrapped))


def _status(project: Project, title: str | None, run: TrainingRun | None) -> dict[str, Any]:
    """What REST says of project and run under the same names, and the title."""
    return {
        "id": project.id,
        "label_studio_id": project.label_studio_id,
        "label_studio_url": project.label_studio_url,
        "title": title,
        "live_version": project.live_version,
        "run": None if run is None else _run_record(run),
    }


def _run_record(run: TrainingRun) -> dict[str, Any]:
    """Some of what REST says of a run. `over_head`: by control tag, the gain over the fitted head alone."""
    fields = {name: getattr(run, name) for name in RUN_FIELDS}
    return {**fields, versions.OVER_HEAD: (run.metrics or {}).get(versions.OVER_HEAD, {})}


def _in_words(run: TrainingRun | None) -> str:
    if run is None:
        return "none yet"
    parts = [f"{run.id} {run.state}"]
    if run.state == RunState.RUNNING:
        parts.append(f"step {run.step} of {run.steps}")
        if run.loss is not None:
            parts.append(f"loss {run.loss:.3f}")
        if run.seconds_left is not None:
            parts.append(f"{run.seconds_left:.0f} s left")
    return f"{', '.join(parts)}: {run.error or run.decision or run.reason}"


def _wait_for_end(context: CommandContext, project_id: int, run_id: int) -> None:
    while True:
        with context.store.read() as session:
            run = training_runs.get(session, project_id, run_id)
        if run.state == RunState.FAILED:
            raise LorabelError(f"run {run_id} failed: {run.error}")
        if run.state == RunState.FINISHED:
            context.console.print(run.decision or "finished")
            return
        time.sleep(POLL_S)
