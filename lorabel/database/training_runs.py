"""Training runs as rows: asked for, claimed by one worker, kept alive, ended. The queue only brings the news.

At most one run of a project is queued and at most one is running; two unique indexes see to it.
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
FIRST_REST = timedelta(minutes=1)
MOST_FAILURES = 11  # then a run is tried about once a day


def request(store: Store, project_id: int, reason: str) -> TrainingRun:
    """The project's queued run; if one waits already it serves this request too.

    Raises:
        NotFoundError: no such project.
    """
    try:
        with store.write() as session:
            # The job that applies START_TRAINING locks the project first, too: in another order the two could
            # wait for each other.
            projects.get(session, project_id, is_locked=True)
            return queued(session, project_id) or add(session, project_id, reason)
    except IntegrityError:  # another process was quicker
        with store.write() as session:
            return queued(session, project_id) or add(session, project_id, reason)


def queued(session: Session, project_id: int) -> TrainingRun | None:
    return session.scalar(_of(project_id, RunState.QUEUED))


def add(session: Session, project_id: int, reason: str) -> TrainingRun:
    """A new queued run. Raises IntegrityError if one waits already."""
    run = TrainingRun(project_id=project_id, state=RunState.QUEUED, reason=reason)
    session.add(run)
    session.flush()
    return run


def claim(store: Store, run_id: int) -> TrainingRun | None:
    """Mark a queued run as running and ours; None if it is not queued or another run of its project is on."""
    return leases.claim(store, TrainingRun, run_id)


def report(store: Store, run: TrainingRun, **columns: Any) -> None:
    """Write progress and show that the run is alive. Raises RunLostError if it was given to another worker."""
    leases.report(store, run, **columns)


def finish(session: Session, run: TrainingRun, state: RunState, **columns: Any) -> None:
    """Raises RunLostError if it was given to another worker, so that the transaction comes to nothing."""
    leases.finish(session, run, state, seconds_left=None, **columns)


def requeue_killed(store: Store, settings: Settings) -> None:
    """Runs whose worker fell silent go back to the queue once, and fail the second time."""
    with store.write() as session:
        for run in leases.silent(session, TrainingRun, settings):
            if run.attempt >= MOST_ATTEMPTS or queued(session, run.project_id) is not None:
                run.state, run.finished_at = RunState.FAILED, now()
                run.error = f"the worker was killed in attempt {run.attempt} of {MOST_ATTEMPTS}"
            else:
                run.state, run.attempt = RunState.QUEUED, run.attempt + 1


def all_queued(session: Session) -> list[TrainingRun]:
    return list(session.scalars(select(TrainingRun).where(TrainingRun.state == RunState.QUEUED)))


def get(session: Session, project_id: int, run_id: int) -> TrainingRun:
    run = session.get(TrainingRun, run_id)
    if run is None or run.project_id != project_id:
        raise NotFoundError(f"project {project_id} has no training run {run_id}")
    return run


def list_of(session: Session, project_id: int) -> list[TrainingRun]:
    """Newest first."""
    return list(
        session.scalars(
            select(TrainingRun).where(TrainingRun.project_id == project_id).order_by(TrainingRun.id.desc())
        )
    )


def request_due(store: Store, settings: Settings) -> list[TrainingRun]:
    """Ask for a run of each project whose policy says so.

    A run is due after N new annotations, or when the newest is T seconds old and at least M are new; the
    extra params that Label Studio sends with /setup override the settings of the same (lower case) name.
    None is due while another is queued or on: what that one learns from counts as new until it ends. After a
    failure the next one waits, twice as long after each; nor is one due where no problem serves the config.
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
        counts = [row for row in counts if _can_learn(row[0]) and not _rests(session, row[0].id)]
    due = []
    for project, fresh, newest in counts:
        policy = _policy(project, settings)
        waited = now() - newest > timedelta(seconds=policy["train_after_seconds"])
        if fresh >= policy["train_after_annotations"]:
            due.append(request(store, project.id, f"{fresh} new annotations"))
        elif waited and fresh >= policy["train_min_annotations"]:
            due.append(request(store, project.id, f"{fresh} new annotations, the newest some time ago"))
    return due


def _can_learn(project: Project) -> bool:
    try:
        return bool(bind(project.label_config or "").bindings)
    except LabelConfigError:
        return False


def _rests(session: Session, project_id: int) -> bool:
    """Whether the newest runs failed, and too short a time ago."""
    states = select(TrainingRun.state, TrainingRun.finished_at).where(TrainingRun.project_id == project_id)
    failures, last = 0, None
    for state, finished_at in session.execute(states.order_by(TrainingRun.id.desc()).limit(MOST_FAILURES)):
        if state != RunState.FAILED:
            break
        failures, last = failures + 1, last or finished_at
    return last is not None and now() - last < FIRST_REST * 2 ** (failures - 1)


def _policy(project: Project, settings: Settings) -> dict[str, int]:
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
