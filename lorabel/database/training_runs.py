"""Rows of training runs: requested, claimed by a worker, reported on, finished; and when a run is due.

At most one run of a project is queued and at most one is running; two unique indexes ensure this.
`workers/finetune.py` does the training.
"""

import logging
import math
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, NamedTuple, Self

from sqlalchemy import ColumnElement, Exists, Select, case, exists, func, or_, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session, defer

from lorabel.database import leases, projects
from lorabel.database.store import Store, id_chunks
from lorabel.database.tables import Annotation, Project, RunState, TrainingRun, now
from lorabel.errors import ConflictError, LabelConfigError, NotFoundError
from lorabel.problems.binding import bind
from lorabel.settings import Settings

log = logging.getLogger(__name__)

MOST_ATTEMPTS = 2
FIRST_PAUSE = timedelta(minutes=1)
MOST_FAILURES = 11  # the pause no longer doubles after so many: a run is then tried about once a day
# Key in a finished run's metrics: how many of the new annotations that the run has read are new after it.
STILL_NEW = "still_new"
# Key in a refused run's metrics: from how many annotations on the next run is due, if none of them changes.
DUE_AT = "due_at"
# After a refused run, the annotations must grow by this factor.
GROWTH = 1.25
# The conditions of the indexes `annotation_new` and `annotation_learned`.
IS_USABLE = (Annotation.is_deleted.is_(False), Annotation.was_cancelled.is_(False))
IS_NEW = (Annotation.run_id.is_(None), *IS_USABLE)
IS_LEARNED = (Annotation.run_id.is_not(None), *IS_USABLE)
ACTIVE = (RunState.QUEUED, RunState.RUNNING)
# What is not read for lists of runs.
LONG = tuple(map(defer, (TrainingRun.config, TrainingRun.metrics, TrainingRun.annotation_ids, TrainingRun.losses)))
NEW_ANNOTATIONS = re.compile(r"\d+ new annotations\b.*")
# Whole numbers above 0. Python refuses to read numbers of thousands of digits.
WHOLE_NUMBER = re.compile(r"0*[1-9][0-9]{0,999}")


class NewAnnotations(NamedTuple):
    """A project's annotations that no accepted version has learned from.

    Attributes:
        untried: those that no finished run has read either.
        newest_at: when the newest one arrived.
    """

    total: int
    untried: int
    newest_at: datetime


@dataclass(frozen=True)
class TrainingPolicy:
    """When a run of a project is due; see the settings of the same names."""

    train_after_annotations: int
    train_after_seconds: int
    train_min_annotations: int

    @classmethod
    def of(cls, project: Project, settings: Settings) -> Self:
        """The project's extra params where they are whole numbers above 0, else the settings."""
        extra = project.extra_params if isinstance(project.extra_params, dict) else {}
        texts = {name: str(extra.get(name)) for name in cls.__dataclass_fields__}
        return cls(
            **{
                name: int(text) if WHOLE_NUMBER.fullmatch(text) else getattr(settings, name)
                for name, text in texts.items()
            }
        )


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


def cancel(store: Store, project_id: int, run_id: int) -> TrainingRun:
    """Cancel a run. Its worker stops at its next report, and makes no version; the annotations stay new.

    The next run is due when there are enough annotations that have arrived since: see `request_due`.

    Raises:
        NotFoundError: no such run.
        ConflictError: the run has already ended in another way.
    """
    with store.write() as session:
        is_run = (TrainingRun.id == run_id, TrainingRun.project_id == project_id)
        cancelling = update(TrainingRun).where(*is_run, TrainingRun.state.in_(ACTIVE))
        session.execute(cancelling.values(state=RunState.CANCELLED, finished_at=now(), seconds_left=None))
        run = get(session, project_id, run_id)
        if run.state != RunState.CANCELLED:
            raise ConflictError(f"training run {run_id} of project {project_id} has {run.state} already")
        return run


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
    """Queued runs of all projects, the oldest first."""
    is_queued = TrainingRun.state == RunState.QUEUED
    return list(session.scalars(select(TrainingRun).where(is_queued).order_by(TrainingRun.id)))


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


def page_of(session: Session, project_id: int | None, offset: int, limit: int) -> list[TrainingRun]:
    """Some runs of a project, or of all projects (None), newest first. What is long in them is read when asked."""
    runs = select(TrainingRun).options(*LONG).order_by(TrainingRun.id.desc())
    if project_id is not None:
        runs = runs.where(TrainingRun.project_id == project_id)
    return list(session.scalars(runs.offset(offset).limit(limit)))


def list_active(session: Session, limit: int) -> list[TrainingRun]:
    """Queued and running runs of all projects, oldest first, as `page_of`."""
    active = select(TrainingRun).options(*LONG).where(TrainingRun.state.in_(ACTIVE))
    return list(session.scalars(active.order_by(TrainingRun.id).limit(limit)))


def count_new(session: Session, project_ids: Sequence[int]) -> dict[int, int]:
    """Project id -> how many annotations no accepted version has learned from."""
    counts = select(Annotation.project_id, func.count(Annotation.id)).where(
        Annotation.project_id.in_(project_ids), *IS_NEW
    )
    return dict.fromkeys(project_ids, 0) | {
        row[0]: row[1] for row in session.execute(counts.group_by(Annotation.project_id))
    }


def newest(session: Session, project_id: int) -> TrainingRun | None:
    """The newest run of a project; None if the project has none."""
    of_project = select(TrainingRun).where(TrainingRun.project_id == project_id)
    return session.scalar(of_project.order_by(TrainingRun.id.desc()).limit(1))


def request_due(store: Store, settings: Settings, project_ids: Collection[int] | None = None) -> list[TrainingRun]:
    """Request a run for each project that is due for one, and return these runs.

    A run is due after TRAIN_AFTER_ANNOTATIONS new annotations; or after TRAIN_MIN_ANNOTATIONS new annotations if
    the newest of them is TRAIN_AFTER_SECONDS old. A project overrides these settings with extra params of the
    same name in lower case, which Label Studio sends with /setup.

    No run is due

    - while another run of the project is queued or running, because the annotations that the other run learns
      from count as new until it ends;
    - for a while after a failed run: one minute, and twice as long after each further failure;
    - where no problem serves the label config.

    After a cancelled run, only annotations that have arrived since count, until another run has ended.

    After a refused run, which made nothing better, the project's annotations must first have grown by GROWTH, or
    to LORA_MIN_TASKS.

    Annotations that a finished run has read and not learned from are tried again, but not at once: see `_count`.
    Those that it has left for a later run, because a run reads a limited number, count at once.
    A project whose rows cause an exception gets no run, and the exception is logged.

    Args:
        project_ids: look at these only; None for all. Each project that has new annotations costs some queries.
    """
    chunks = [None] if project_ids is None else [*id_chunks(project_ids)]
    with store.look_up() as session:
        rows = [row for ids in chunks for row in session.execute(_new_annotations(ids))]
    runs = []
    for project, total, untried, newest_at in rows:
        try:
            reason = _reason_if_due(store, project, NewAnnotations(total, untried, newest_at), settings)
            runs += [] if reason is None else [request(store, project.id, reason)]
        except Exception:
            log.exception("project %d: no run is requested", project.id)
    return runs


def is_for_new_annotations(run: TrainingRun) -> bool:
    """Whether `request_due` requested the run, and not a person."""
    return NEW_ANNOTATIONS.fullmatch(run.reason) is not None


def _new_annotations(project_ids: Collection[int] | None) -> Select[Project, int, int, datetime]:
    """Query of each project that has new annotations and no active run, with the columns of `NewAnnotations`."""
    is_asked_for = () if project_ids is None else (Project.id.in_(project_ids),)
    return (
        select(
            Project,
            func.count(Annotation.id),
            func.count(case((Annotation.tries == 0, Annotation.id))),
            func.max(Annotation.received_at),
        )
        .join(Annotation, Annotation.project_id == Project.id)
        .where(*IS_NEW, Project.is_deleted.is_(False), ~_is_training(), *is_asked_for)
        .group_by(Project.id)
        .order_by(Project.id)
    )


def _reason_if_due(store: Store, project: Project, new: NewAnnotations, settings: Settings) -> str | None:
    """The reason of the run that the project is due for; None if it is not due for one."""
    policy = TrainingPolicy.of(project, settings)
    if new.total < min(policy.train_after_annotations, policy.train_min_annotations) or not _can_learn(project):
        return None
    with store.read() as session:
        if _is_pausing(session, project.id):
            return None
        cancelled_at = _cancelled_at(session, project.id)
        if cancelled_at is not None:
            is_since = (Annotation.run_id.is_(None), Annotation.received_at > cancelled_at)
            count = _annotations(session, project.id, *is_since)
        else:
            count = _count(session, project.id, new, settings)
    if count >= policy.train_after_annotations:
        return f"{count} new annotations"
    has_waited = (now() - new.newest_at).total_seconds() > policy.train_after_seconds
    if has_waited and count >= policy.train_min_annotations:
        return f"{count} new annotations, the newest some time ago"
    return None


def due_after_refusal(session: Session, project_id: int, settings: Settings) -> int:
    """From how many annotations on a run is due after a refused one. The caller has marked what that has read.

    The number falls when annotations that were read are deleted or changed. It is at most LORA_MIN_TASKS where
    fewer were read: a run with too few does not tell what one with enough gains.
    """
    is_read = or_(Annotation.run_id.is_not(None), Annotation.tries > 0)
    read = _annotations(session, project_id, is_read)
    due_at = math.ceil(GROWTH * read)
    return min(due_at, settings.lora_min_tasks) if read < settings.lora_min_tasks else due_at


def _count(session: Session, project_id: int, new: NewAnnotations, settings: Settings) -> int:
    """How many of the new annotations count: all, or during the pause only those that no finished run has read.

    None counts if the newest finished run was refused and the project has too few, see `due_after_refusal`.

    The pause begins at the end of the newest finished run, if annotations that it has read are still new: it was
    rejected, could not read their media, or cannot use them. It is one minute, and twice as long for each finished
    run before it that left annotations new, up to the last that left none.
    """
    metrics: Any = TrainingRun.metrics
    finished = (
        select(TrainingRun.finished_at, metrics[STILL_NEW].as_integer(), metrics[DUE_AT].as_integer())
        .where(TrainingRun.project_id == project_id, TrainingRun.state == RunState.FINISHED)
        .order_by(TrainingRun.id.desc())
        .limit(MOST_FAILURES)
    )
    rows = session.execute(finished).all()
    is_refused = bool(rows) and rows[0][2] is not None
    if is_refused and _annotations(session, project_id) < due_after_refusal(session, project_id, settings):
        return 0
    tries, last_ended_at = 0, None
    for ended_at, left, _ in rows:
        if not left:
            break
        tries, last_ended_at = tries + 1, last_ended_at or ended_at
    is_pausing = last_ended_at is not None and now() - last_ended_at < FIRST_PAUSE * 2 ** (tries - 1)
    return new.untried if is_pausing else new.total


def _annotations(session: Session, project_id: int, *conditions: ColumnElement[bool]) -> int:
    """The number of a project's usable annotations for which the conditions hold."""
    count = select(func.count(Annotation.id)).where(Annotation.project_id == project_id, *IS_USABLE, *conditions)
    return session.scalar(count) or 0


def _can_learn(project: Project) -> bool:
    """Whether a problem serves any control tag of the project."""
    try:
        return bool(bind(project.label_config or "").bindings)
    except LabelConfigError:
        return False


def _cancelled_at(session: Session, project_id: int) -> datetime | None:
    """When the run that ended last was cancelled; None if it ended in another way, or there is none."""
    ended = select(TrainingRun.state, TrainingRun.finished_at).where(
        TrainingRun.project_id == project_id, TrainingRun.finished_at.is_not(None)
    )
    row = session.execute(ended.order_by(TrainingRun.finished_at.desc(), TrainingRun.id.desc()).limit(1)).first()
    return row[1] if row is not None and row[0] == RunState.CANCELLED else None


def _is_pausing(session: Session, project_id: int) -> bool:
    """Whether the newest runs failed and the pause after them is not over."""
    states = select(TrainingRun.state, TrainingRun.finished_at).where(TrainingRun.project_id == project_id)
    failures, last_failed_at = 0, None
    for state, finished_at in session.execute(states.order_by(TrainingRun.id.desc()).limit(MOST_FAILURES)):
        if state != RunState.FAILED:
            break
        failures, last_failed_at = failures + 1, last_failed_at or finished_at
    return last_failed_at is not None and now() - last_failed_at < FIRST_PAUSE * 2 ** (failures - 1)


def _is_training() -> Exists:
    return exists().where(TrainingRun.project_id == Project.id, TrainingRun.state.in_(ACTIVE))


def _of(project_id: int, state: RunState) -> Select[TrainingRun]:
    return select(TrainingRun).where(TrainingRun.project_id == project_id, TrainingRun.state == state)
