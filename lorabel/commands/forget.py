"""`lorabel forget`: deletes what is kept of a project, a task or an annotator, wherever it is.

The rows go first. What may be left of them on the disk follows, from what is there, so that a second call ends
what a killed one has begun.
"""

import os
import shutil
import sys
from dataclasses import dataclass, field
from typing import Any

import typer
from redis.exceptions import RedisError
from rich.console import Console

from lorabel.commands import embedded_redis
from lorabel.commands.context import CommandContext, new_table, open_context, print_json
from lorabel.database import connecting_files, forgetting, projects
from lorabel.database.adapter_folders import AdapterFolders
from lorabel.database.erasure import erase_deleted
from lorabel.database.forgetting import Forgotten
from lorabel.database.forgotten_events import Subject
from lorabel.database.forgotten_folders import ForgottenFolders
from lorabel.database.forgotten_jobs import remove_jobs, rewrite_files
from lorabel.database.jobs import Jobs
from lorabel.errors import NotFoundError, SettingsError
from lorabel.settings import Settings

TRACKING = "tracking"
REDIS_ANSWER_S = 10.0
ELSEWHERE = {"wandb": "Weights & Biases", "mlflow": "MLflow"}


@dataclass
class Places:
    """What was deleted outside of the database.

    Attributes:
        deleted: place -> how many things were deleted there.
        left: what could not be deleted, a sentence each, with what to do.
    """

    deleted: dict[str, int] = field(default_factory=dict)
    left: list[str] = field(default_factory=list)


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
            planned = _plan(context, project_id, subject, is_retraining=is_retraining)
            if not is_json:
                _show(context.console, name, planned, Places(), is_dry=True)
            elif is_dry:
                print_json(_record(planned, Places()))
        if is_dry:
            return
        if not is_confirmed:
            _confirm(name)
        forgotten, places = _delete(context, project_id, subject, is_retraining=is_retraining)
        if is_json:
            print_json(_record(forgotten, places))
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


def _plan(context: CommandContext, project_id: int, subject: Subject, *, is_retraining: bool) -> Forgotten:
    try:
        return forgetting.forget(context.store, project_id, subject, is_retraining=is_retraining, is_dry=True)
    except NotFoundError:
        return _if_files_are_left(context, project_id, subject)


def _if_files_are_left(context: CommandContext, project_id: int, subject: Subject) -> Forgotten:
    """Nothing, for a project whose rows are deleted; a killed call may have left its files."""
    folders = AdapterFolders(context.settings.adapters_dir)
    has_folders = bool(folders.head_numbers(project_id) or folders.last_number(project_id))
    if not subject.is_project or not has_folders:
        with context.store.read() as session:
            projects.get(session, project_id)
    return Forgotten()


def _confirm(name: str) -> None:
    if not sys.stdin.isatty():
        raise SettingsError(f"{name} is deleted for good: add --yes where nobody can be asked")
    typer.confirm(f"Delete this of {name} for good?", abort=True)


def _delete(
    context: CommandContext, project_id: int, subject: Subject, *, is_retraining: bool
) -> tuple[Forgotten, Places]:
    folders = ForgottenFolders(AdapterFolders(context.settings.adapters_dir), project_id)
    try:
        forgotten = forgetting.forget(context.store, project_id, subject, is_retraining=is_retraining)
    except NotFoundError:
        forgotten = _if_files_are_left(context, project_id, subject)
    places = Places()
    removed = folders.remove_all() if subject.is_project else folders.remove_stale(context.store)
    places.deleted["folders of adapters and heads"] = removed
    _remove_tracking(context.settings, project_id, subject, places)
    if subject.is_project or is_retraining:
        _name_artifacts(context.settings, project_id, places)
    places.deleted["logs that were emptied"] = _empty_logs(context.settings)
    connecting_files.remove_old(context.settings, kept_s=0.0)
    _clean_redis(context.settings, project_id, places)
    left = erase_deleted(context.store, forgetting.tables())
    places.left += [] if left is None or not context.store.is_sqlite else [left]
    if left is not None and not context.store.is_sqlite:
        context.console.print(left, highlight=False, soft_wrap=True)
    if forgotten.retraining is not None:
        _queue(context.settings, forgotten)
    return forgotten, places


def _remove_tracking(settings: Settings, project_id: int, subject: Subject, places: Places) -> None:
    """The curves of a project's runs. They have no tasks, so those of a project that goes on stay."""
    if not subject.is_project:
        return
    folders = list((settings.data_dir.absolute() / TRACKING).glob(f"p{project_id}.*"))
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)
    places.deleted["curves of runs"] = len(folders)


def _name_artifacts(settings: Settings, project_id: int, places: Places) -> None:
    """Say where other programs may have adapters and curves, which only they can delete."""
    folder = settings.data_dir.absolute() / TRACKING / "wandb"
    runs = f"adapters and curves of its runs, named p{project_id}.run*"
    for tracker, where in ELSEWHERE.items():
        has_files = tracker == "wandb" and folder.exists()
        if settings.tracker == tracker or has_files:
            files = f", and their files in {folder}" if has_files else ""
            places.left.append(f"{where} may have {runs}: delete them there{files}")


def _empty_logs(settings: Settings) -> int:
    """Empty the logs of all parts, since any line may quote a task. Processes go on at the beginning."""
    count = 0
    for path in (settings.data_dir.absolute() / "logs").glob("*.log*"):
        count += path.stat().st_size > 0
        os.truncate(path, 0)
    return count


def _clean_redis(settings: Settings, project_id: int, places: Places) -> None:
    """Delete jobs, and have the embedded Redis write its files anew. Its data that were set aside go, too."""
    broken = settings.data_dir.absolute() / "redis.broken"
    shutil.rmtree(broken, ignore_errors=True)
    if settings.redis_url is None and not embedded_redis.is_listening(settings):
        # It only carries jobs that the database knows.
        shutil.rmtree(settings.data_dir.absolute() / "redis", ignore_errors=True)
        return
    jobs = Jobs(settings, REDIS_ANSWER_S)
    try:
        places.deleted["jobs in Redis"] = remove_jobs(jobs, project_id)
        if settings.redis_url is None and not rewrite_files(jobs):
            places.left.append("Redis is still writing its files anew: run the command again")
    except RedisError as error:
        places.left.append(f"jobs in Redis, which does not do what it is asked ({error}): run the command again")
    finally:
        jobs.redis.close()


def _queue(settings: Settings, forgotten: Forgotten) -> None:
    jobs = Jobs(settings)
    if forgotten.retraining is not None:
        jobs.train(forgotten.retraining.id, forgotten.retraining.attempt)
    jobs.redis.close()


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


def _record(forgotten: Forgotten, places: Places) -> dict[str, Any]:
    return {
        "rows": {table: count for table, count in forgotten.rows.items() if count},
        "places": places.deleted,
        "left": places.left,
        "learned": [version._asdict() for version in forgotten.learned],
        "active_runs": forgotten.active_runs,
        "retraining": None if forgotten.retraining is None else forgotten.retraining.id,
    }
