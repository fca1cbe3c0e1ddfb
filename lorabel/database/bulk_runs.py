"""Rows of bulk runs: requested, queued again after a kill, cancelled. `workers/bulk_runs.py` has them done.

Whether a project's predictions can be written to Label Studio at all is checked by the callers of `request`
(`lorabel.label_studio.access.require_api_access`).
"""

from collections.abc import Iterable

from sqlalchemy import Select, exists, select, update
from sqlalchemy.orm import Session, defer

from lorabel.database import leases, projects
from lorabel.database.store import Store
from lorabel.database.tables import BulkRun, BulkRunKind, RunState, now
from lorabel.errors import ConflictError, NotFoundError
from lorabel.settings import Settings

MOST_KILLS = 3
# What is not read for lists of runs.
LONG = (defer(BulkRun.task_ids), defer(BulkRun.failures))


def request(
    store: Store,
    project_id: int,
    reason: str,
    *,
    kind: BulkRunKind = BulkRunKind.PREDICTIONS,
    only_unlabeled: bool = False,
    task_ids: Iterable[int] | None = None,
    strategy: str | None = None,
) -> BulkRun:
    """Return a queued run that does what is requested: the oldest that covers all its tasks, or a new one.

    Args:
        reason: who or what asks for the run, in words.
        only_unlabeled: leave out tasks that have an annotation. It has no effect if there are `task_ids`.
        task_ids: the tasks of the run, with or without an annotation; None for all tasks of the project.
        strategy: the strategy (`lorabel.curation.strategy`) of an order; None for other kinds.

    Raises:
        NotFoundError: no such project.
    """
    requested = BulkRun(
        project_id=project_id,
        state=RunState.QUEUED,
        kind=kind,
        reason=reason,
        only_unlabeled=only_unlabeled and task_ids is None,
        task_ids=None if task_ids is None else sorted(set(task_ids)),
        strategy=strategy,
    )
    with store.write() as session:
        projects.get(session, project_id, is_locked=True)
        is_queued = BulkRun.state == RunState.QUEUED
        for queued in session.scalars(_of(project_id).where(is_queued).order_by(BulkRun.id)):
            if _covers(queued, requested):
                return queued
        session.add(requested)
        session.flush()
    return requested


def _covers(queued: BulkRun, requested: BulkRun) -> bool:
    """Whether `queued` will do every task of `requested`, and has not chosen its model version yet."""
    if queued.cursor or queued.version_number is not None:
        return False
    if (queued.kind, queued.strategy) != (requested.kind, requested.strategy):
        return False
    if queued.task_ids is not None:
        return requested.task_ids is not None and set(requested.task_ids) <= set(queued.task_ids)
    return not queued.only_unlabeled or requested.only_unlabeled


def requeue_killed(store: Store, settings: Settings) -> None:
    """Queue the runs again whose worker was killed.

    A run fails instead when this was the third kill (MOST_KILLS) since it last completed a page.
    """
    with store.write() as session:
        for run in leases.list_expired(session, BulkRun, settings):
            run.kills += 1
            if run.kills >= MOST_KILLS:
                run.state, run.finished_at = RunState.FAILED, now()
                run.error = f"the worker was killed {run.kills} times after task {run.cursor}"
            else:
                run.state, run.attempt = RunState.QUEUED, run.attempt + 1


def release(store: Store, run: BulkRun) -> None:
    """Put a running run back into the queue, so that another run gets its turn.

    Raises:
        RunLostError: the run is no longer this worker's.
    """
    with store.write() as session:
        leases.update_claimed(session, run, state=RunState.QUEUED)


def cancel(store: Store, project_id: int, run_id: int) -> BulkRun:
    """Cancel a run. Its worker stops before the next page; what is written stays.

    Raises:
        NotFoundError: no such run.
        ConflictError: the run has already finished or failed.
    """
    with store.write() as session:
        active = BulkRun.state.in_((RunState.QUEUED, RunState.RUNNING))
        cancelling = update(BulkRun).where(BulkRun.id == run_id, BulkRun.project_id == project_id, active)
        session.execute(cancelling.values(state=RunState.CANCELLED, finished_at=now()))
        run = get(session, project_id, run_id)
        if run.state != RunState.CANCELLED:
            raise ConflictError(f"bulk run {run_id} of project {project_id} has {run.state} already")
        return run


def get(session: Session, project_id: int, run_id: int) -> BulkRun:
    """Raises NotFoundError if the project has no such run."""
    run = session.get(BulkRun, run_id)
    if run is None or run.project_id != project_id:
        raise NotFoundError(f"project {project_id} has no bulk run {run_id}")
    return run


def list_of(session: Session, project_id: int) -> list[BulkRun]:
    """All runs of a project, newest first."""
    return list(session.scalars(_of(project_id).order_by(BulkRun.id.desc())))


def page_of(session: Session, project_id: int | None, offset: int, limit: int) -> list[BulkRun]:
    """Some runs of a project, or of all projects (None), newest first, without `task_ids` and `failures`."""
    runs = select(BulkRun) if project_id is None else _of(project_id)
    return list(session.scalars(runs.options(*LONG).order_by(BulkRun.id.desc()).offset(offset).limit(limit)))


def list_active(session: Session, limit: int) -> list[BulkRun]:
    """Queued and running runs of all projects, oldest first, as `page_of`."""
    is_active = BulkRun.state.in_((RunState.QUEUED, RunState.RUNNING))
    return list(session.scalars(select(BulkRun).options(*LONG).where(is_active).order_by(BulkRun.id).limit(limit)))


def newest(session: Session, project_id: int, kind: BulkRunKind) -> BulkRun | None:
    """The newest run of a kind; None if the project has none."""
    return session.scalar(_of(project_id).where(BulkRun.kind == kind).order_by(BulkRun.id.desc()).limit(1))


def list_queued(session: Session) -> list[BulkRun]:
    """Queued runs of all projects, oldest first."""
    return list(session.scalars(select(BulkRun).where(BulkRun.state == RunState.QUEUED).order_by(BulkRun.id)))


def is_another_queued(session: Session) -> bool:
    """Whether any run waits, of whatever project; the caller's own run is running, not queued."""
    return bool(session.scalar(select(exists().where(BulkRun.state == RunState.QUEUED))))


def _of(project_id: int) -> Select[BulkRun]:
    return select(BulkRun).where(BulkRun.project_id == project_id)
