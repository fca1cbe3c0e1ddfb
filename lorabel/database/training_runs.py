"""Rows of training runs: requested, claimed by a worker, reported on, finished; and when a run is due.

At most one run of a project is queued and at most one is running; two unique indexes ensure this.
`workers/finetune.py` does the training.
"""

from datetime import timedelta
from typing import Any

from sqlalchemy import Exists, Select, exists, func, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from lorabel.database import leases, projects
from lorabel.database.store import Store
from lorabel.database.tables import Annotation, Project, RunState, TrainingRun, now
from lorabel.errors import LabelConfigError, NotFoundError
from lorabel.problems.binding import bind
from lorabel.settings import Settings

MOST_ATTEMPTS = 2
FIRST_PAUSE = timedelta(minutes=1)
MOST_FAILURES = 11  # the pause no longer doubles after so many: a run is then tried about once a day


def request(store: Store, project_id: int, reason: str) -> TrainingRun:
    """Return the project's queued run; a new one if none is queued.

    Args:
        reason: who or what asks for the run, in words.

    Raises:
        NotFoundError: no such project.
    """
    try:
        with store.write() as session:
            # The job that applies START_TRAINING events also locks the project first. With another order here,
            # the two transactions could wait for each other.
            projects.get(session, project_id, is_locked=True)
            return find_queued(session, project_id) or add(session, project_id, reason)
    except IntegrityError:  # another process has just added a run
        with store.write() as session:
            return find_queued(session, project_id) or add(session, project_id, reason)


def find_queued(session: Session, project_id: int) -> TrainingRun | None:
    """The project's queued run, if there is one."""
    return session.scalar(_of(project_id, RunState.QUEUED))


def add(session: Session, project_id: int, reason: str) -> TrainingRun:
    """Add a queued run. Raises IntegrityError if the project has one already."""
    run = TrainingRun(project_id=project_id, state=RunState.QUEUED, reason=reason)
    session.add(run)
    session.flush()
    return run


def claim(store: Store, run_id: int) -> TrainingRun | None:
    """Mark a queued run as running and return it; None if it cannot be claimed (see `leases.claim`)."""
    return leases.claim(store, TrainingRun, run_id)


def report(store: Store, run: TrainingRun, **columns: Any) -> None:
    """Renew the lease on a claimed run and write its progress. Raises RunLostError (see `leases.report`)."""
    leases.report(store, run, **columns)


def finish(session: Session, run: TrainingRun, state: RunState, **columns: Any) -> None:
    """End a claimed run in the caller's transaction. Raises RunLostError (see `leases.finish`)."""
    leases.finish(session, run, state, seconds_left=None, **columns)


def requeue_killed(store: Store, settings: Settings) -> None:
    """Queue the runs again whose worker was killed; a run whose worker was killed twice fails instead.

    It also fails if the project has a queued run by now, since that run will do its work.
    """
    with store.write() as session:
        for run in leases.list_expired(session, TrainingRun, settings):
            if run.attempt >= MOST_ATTEMPTS or find_queued(session, run.project_id) is not None:
                run.state, run.finished_at = RunState.FAILED, now()
                run.error = f"the worker was killed in attempt {run.attempt} of {MOST_ATTEMPTS}"
            else:
                run.state, run.attempt = RunState.QUEUED, run.attempt + 1


def list_queued(session: Session) -> list[TrainingRun]:
    """Queued runs of all projects."""
    return list(session.scalars(select(TrainingRun).where(TrainingRun.state == RunState.QUEUED)))


def get(session: Session, project_id: int, run_id: int) -> TrainingRun:
    """Raises NotFoundError if the project has no such run."""
    run = session.get(TrainingRun, run_id)
    if run is None or run.project_id != project_id:
        raise NotFoundError(f"project {project_id} has no training run {run_id}")
    return run


def list_of(session: Session, project_id: int) -> list[TrainingRun]:
    """All runs of a project, newest first."""
    return list(
        session.scalars(
            select(TrainingRun).where(TrainingRun.project_id == project_id).order_by(TrainingRun.id.desc())
        )
    )


def request_due(store: Store, settings: Settings) -> list[TrainingRun]:
    """Request a run for each project that is due for one, and return these runs.

    A run is due after TRAIN_AFTER_ANNOTATIONS new annotations; or after TRAIN_MIN_ANNOTATIONS new annotations if
    the newest of them is TRAIN_AFTER_SECONDS old. A project overrides these settings with extra params of the
    same name in lower case, which Label Studio sends with /setup.

    No run is due

    - while another run of the project is queued or running, because the annotations that the other run learns
      from count as new until it ends;
    - for a while after a failed run: one minute, and twice as long after each further failure;
    - where no problem serves the label config.
    """
    usable = (
        Annotation.run_id.is_(None),
        Annotation.is_deleted.is_(False),
        Annotation.was_cancelled.is_(False),
    )
    with store.read() as session:
        counts = session.execute(
            select(Project, func.count(Annotation.id), func.max(Annotation.received_at))
            .join(Annotation, Annotation.project_id == Project.id)
            .where(*usable, Project.is_deleted.is_(False), ~_is_training())
            .group_by(Project.id)
        ).all()
        counts = [row for row in counts if _can_learn(row[0]) and not _is_pausing(session, row[0].id)]
    runs = []
    for project, new_count, newest_at in counts:
        policy = _policy(project, settings)
        has_waited = now() - newest_at > timedelta(seconds=policy["train_after_seconds"])
        if new_count >= policy["train_after_annotations"]:
            runs.append(request(store, project.id, f"{new_count} new annotations"))
        elif has_waited and new_count >= policy["train_min_annotations"]:
            runs.append(request(store, project.id, f"{new_count} new annotations, the newest some time ago"))
    return runs


def _can_learn(project: Project) -> bool:
    """Whether a problem serves any control tag of the project."""
    try:
        return bool(bind(project.label_config or "").bindings)
    except LabelConfigError:
        return False


def _is_pausing(session: Session, project_id: int) -> bool:
    """Whether the newest runs failed and the pause after them is not over."""
    states = select(TrainingRun.state, TrainingRun.finished_at).where(TrainingRun.project_id == project_id)
    failures, last_failed_at = 0, None
    for state, finished_at in session.execute(states.order_by(TrainingRun.id.desc()).limit(MOST_FAILURES)):
        if state != RunState.FAILED:
            break
        failures, last_failed_at = failures + 1, last_failed_at or finished_at
    return last_failed_at is not None and now() - last_failed_at < FIRST_PAUSE * 2 ** (failures - 1)


def _policy(project: Project, settings: Settings) -> dict[str, int]:
    """The training policy by setting name: the project's extra params where they are whole numbers above 0, else
    the settings."""
    names = ("train_after_annotations", "train_after_seconds", "train_min_annotations")
    extra = project.extra_params or {}
    return {
        name: int(value) if (value := str(extra.get(name))).isdigit() and int(value) else getattr(settings, name)
        for name in names
    }


def _is_training() -> Exists:
    active = TrainingRun.state.in_((RunState.QUEUED, RunState.RUNNING))
    return exists().where(TrainingRun.project_id == Project.id, active)


def _of(project_id: int, state: RunState) -> Select[TrainingRun]:
    return select(TrainingRun).where(TrainingRun.project_id == project_id, TrainingRun.state == state)
