"""Deletes what is kept of a project, a task or an annotator, wherever it is, for `lorabel forget` and for its job.

The rows go first. What may be left of them on the disk follows, from what is there, so that a second call ends
what a killed one has begun.
"""

import os
import shutil
from dataclasses import dataclass, field
from typing import Any

from redis.exceptions import RedisError

from lorabel.commands import embedded_redis
from lorabel.database import connecting_files, forgetting, projects
from lorabel.database.adapter_folders import AdapterFolders
from lorabel.database.erasure import erase_deleted
from lorabel.database.forgetting import Forgotten
from lorabel.database.forgotten_events import Subject
from lorabel.database.forgotten_folders import ForgottenFolders
from lorabel.database.forgotten_jobs import remove_jobs, rewrite_files
from lorabel.database.jobs import Jobs
from lorabel.database.store import Store
from lorabel.database.tables import PrivacyRelease
from lorabel.errors import NotFoundError
from lorabel.settings import Settings

TRACKING = "tracking"
_RELEASES = PrivacyRelease.__tablename__
REDIS_ANSWER_S = 10.0
ELSEWHERE = {"wandb": "Weights & Biases", "mlflow": "MLflow"}


@dataclass
class Places:
    """What was deleted outside of the database.

    Attributes:
        deleted: place -> how many things were deleted there.
        left: what could not be deleted, a sentence each, with what to do.
        advice: what to know of the bytes on the disk; empty if there is nothing to say.
    """

    deleted: dict[str, int] = field(default_factory=dict)
    left: list[str] = field(default_factory=list)
    advice: str = ""


def plan(settings: Settings, store: Store, project_id: int, subject: Subject, *, is_retraining: bool) -> Forgotten:
    """What would be deleted. Raises NotFoundError if there is no such project, and nothing is left of one."""
    try:
        return forgetting.forget(store, project_id, subject, is_retraining=is_retraining, is_dry=True)
    except NotFoundError:
        return _if_files_are_left(settings, store, project_id, subject)


def _if_files_are_left(settings: Settings, store: Store, project_id: int, subject: Subject) -> Forgotten:
    """Nothing, for a project whose rows are deleted; a killed call may have left its files."""
    folders = AdapterFolders(settings.adapters_dir)
    has_folders = bool(folders.head_numbers(project_id) or folders.last_number(project_id))
    if not subject.is_project or not has_folders:
        with store.read() as session:
            projects.get(session, project_id)
    return Forgotten()


def delete(
    settings: Settings, store: Store, project_id: int, subject: Subject, *, is_retraining: bool
) -> tuple[Forgotten, Places]:
    """Delete a project, a task or what an annotator did.

    Args:
        is_retraining: remove the adapters that have learned from it, and queue a run without it.

    Raises:
        NotFoundError: no such project, and nothing is left of one.
    """
    folders = ForgottenFolders(AdapterFolders(settings.adapters_dir), project_id)
    try:
        forgotten = forgetting.forget(store, project_id, subject, is_retraining=is_retraining)
    except NotFoundError:
        forgotten = _if_files_are_left(settings, store, project_id, subject)
    places = Places()
    removed = folders.remove_all() if subject.is_project else folders.remove_stale(store)
    places.deleted["folders of adapters and heads"] = removed
    _remove_tracking(settings, project_id, subject, places)
    if subject.is_project or is_retraining:
        places.left += artifacts_elsewhere(settings, project_id)
    places.deleted["logs that were emptied"] = _empty_logs(settings)
    if connecting_files.remove_ended(settings):
        places.left.append("what is being connected on the page now: run the command again in a few minutes")
    _clean_redis(settings, project_id, subject, places)
    left = erase_deleted(store, forgetting.tables())
    if left is not None and store.is_sqlite:
        places.left.append(left)
    elif left is not None:
        places.advice = left
    if forgotten.retraining is not None:
        _queue(settings, forgotten)
    return forgotten, places


def _remove_tracking(settings: Settings, project_id: int, subject: Subject, places: Places) -> None:
    """The curves of a project's runs. They have no tasks, so those of a project that goes on stay."""
    if not subject.is_project:
        return
    folders = list((settings.data_dir.absolute() / TRACKING).glob(f"p{project_id}.*"))
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)
    places.deleted["curves of runs"] = len(folders)


def artifacts_elsewhere(settings: Settings, project_id: int) -> list[str]:
    """Sentences that say where other programs may have adapters and curves, which only they can delete."""
    folder = settings.data_dir.absolute() / TRACKING / "wandb"
    runs = f"adapters and curves of its runs, named p{project_id}.run*"
    sentences = []
    for tracker, where in ELSEWHERE.items():
        has_files = tracker == "wandb" and folder.exists()
        if settings.tracker == tracker or has_files:
            files = f", and their files in {folder}" if has_files else ""
            sentences.append(f"{where} may have {runs}: delete them there{files}")
    return sentences


def budget_advice(subject: Subject, forgotten: Forgotten) -> str:
    """What to know of the privacy budget of a project that is forgotten; empty if nothing was spent."""
    if not subject.is_project or not forgotten.rows[_RELEASES]:
        return ""
    return (
        "what its privacy budget has paid for stays known to whoever has seen its models: if it is connected "
        "again, its budget begins anew, and both add up for tasks that were annotated in both"
    )


def _empty_logs(settings: Settings) -> int:
    """Empty the logs of all parts, since any line may quote a task. Processes go on at the beginning."""
    count = 0
    for path in (settings.data_dir.absolute() / "logs").glob("*.log*"):
        count += path.stat().st_size > 0
        os.truncate(path, 0)
    return count


def _clean_redis(settings: Settings, project_id: int, subject: Subject, places: Places) -> None:
    """Delete jobs, and have the embedded Redis write its files anew. Its data that were set aside go, too."""
    broken = settings.data_dir.absolute() / "redis.broken"
    shutil.rmtree(broken, ignore_errors=True)
    if settings.redis_url is None and not embedded_redis.is_listening(settings):
        # It only carries jobs that the database knows.
        shutil.rmtree(settings.data_dir.absolute() / "redis", ignore_errors=True)
        return
    jobs = Jobs(settings, REDIS_ANSWER_S)
    try:
        removed = remove_jobs(jobs, project_id, is_all=subject.is_project)
        places.deleted["jobs and lists of predicted tasks in Redis"] = removed
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


def record(forgotten: Forgotten, places: Places) -> dict[str, Any]:
    """What was deleted, or would be, as JSON has it."""
    return {
        "rows": {table: count for table, count in forgotten.rows.items() if count},
        "places": places.deleted,
        "left": places.left,
        "learned": [version._asdict() for version in forgotten.learned],
        "active_runs": forgotten.active_runs,
        "retraining": None if forgotten.retraining is None else forgotten.retraining.id,
    }
