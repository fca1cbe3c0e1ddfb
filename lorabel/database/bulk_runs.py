"""Bulk runs as rows: asked for, continued after a kill, cancelled. `workers/preannotate.py` does them."""

from collections.abc import Iterable

from sqlalchemy import Select, exists, select, update
from sqlalchemy.orm import Session

from lorabel.database import leases, projects
from lorabel.database.store import Store
from lorabel.database.tables import BulkRun, RunState, now
from lorabel.errors import ConflictError, NotFoundError
from lorabel.label_studio.access import api_access
from lorabel.settings import Settings

MOST_KILLS = 3


def request(
    store: Store,
    settings: Settings,
    project_id: int,
    reason: str,
    *,
    only_unlabeled: bool = False,
    task_ids: Iterable[int] | None = None,
    strategy: str | None = None,
) -> BulkRun:
    """A queued run; one that waits already serves this request too if it does all of its tasks.

    Args:
        only_unlabeled: leave out tasks that have an annotation.
        task_ids: these tasks, whether they have an annotation or not; None for those of the whole project.
        strategy: not predictions, but an order of the tasks without an annotation (`lorabel.curation.sampling`).

    Raises:
        NotFoundError: no such project.
        ConflictError: nothing can be written back, since we have no token for its Label Studio.
    """
    wanted = BulkRun(
        project_id=project_id,
        state=RunState.QUEUED,
        reason=reason,
        only_unlabeled=only_unlabeled and task_ids is None,
        task_ids=None if task_ids is None else sorted(set(task_ids)),
        strategy=strategy,
    )
    with store.write() as session:
        project = projects.get(session, project_id, is_locked=True)
        if api_access(project, settings) is None:
            raise ConflictError(
                f"project {project_id}: predictions cannot be written back without a token for its Label Studio; "
                "connect it with `lorabel connect`, or set LABEL_STUDIO_URL and LABEL_STUDIO_API_KEY"
            )
        for waiting in session.scalars(_of(project_id).where(BulkRun.state == RunState.QUEUED)):
            if _covers(waiting, wanted):
                return waiting
        session.add(wanted)
        session.flush()
    return wanted


def _covers(waiting: BulkRun, wanted: BulkRun) -> bool:
    """Whether every task of `wanted` is still before `waiting`, and so is the choice of the version."""
    if waiting.cursor or waiting.version_number is not None or waiting.strategy != wanted.strategy:
        return False
    if waiting.task_ids is not None:
        return wanted.task_ids is not None and set(wanted.task_ids) <= set(waiting.task_ids)
    return not waiting.only_unlabeled or wanted.only_unlabeled


def requeue_killed(store: Store, settings: Settings) -> None:
    """Runs whose worker fell silent go back to the queue; those that get no page further fail in the end."""
    with store.write() as session:
        for run in leases.silent(session, BulkRun, settings):
            run.kills += 1
            if run.kills >= MOST_KILLS:
                run.state, run.finished_at = RunState.FAILED, now()
                run.error = f"the worker was killed {run.kills} times after task {run.cursor}"
            else:
                run.state, run.attempt = RunState.QUEUED, run.attempt + 1


def release(store: Store, run: BulkRun) -> None:
    """Back to the queue, so that another one has its turn. Raises RunLostError if it is no longer ours."""
    with store.write() as session:
        leases.change(session, run, state=RunState.QUEUED)


def cancel(store: Store, project_id: int, run_id: int) -> BulkRun:
    """The worker stops before its next page; what is written stays.

    Raises:
        NotFoundError: no such run.
        ConflictError: it has ended.
    """
    with store.write() as session:
        active = BulkRun.state.in_((RunState.QUEUED, RunState.RUNNING))
        ours = update(BulkRun).where(BulkRun.id == run_id, BulkRun.project_id == project_id, active)
        session.execute(ours.values(state=RunState.CANCELLED, finished_at=now()))
        run = get(session, project_id, run_id)
        if run.state != RunState.CANCELLED:
            raise ConflictError(f"bulk run {run_id} of project {project_id} has {run.state} already")
        return run


def get(session: Session, project_id: int, run_id: int) -> BulkRun:
    run = session.get(BulkRun, run_id)
    if run is None or run.project_id != project_id:
        raise NotFoundError(f"project {project_id} has no bulk run {run_id}")
    return run


def list_of(session: Session, project_id: int) -> list[BulkRun]:
    """Newest first."""
    return list(session.scalars(_of(project_id).order_by(BulkRun.id.desc())))


def all_queued(session: Session) -> list[BulkRun]:
    """Oldest first."""
    return list(session.scalars(select(BulkRun).where(BulkRun.state == RunState.QUEUED).order_by(BulkRun.id)))


def is_another_queued(session: Session) -> bool:
    return bool(session.scalar(select(exists().where(BulkRun.state == RunState.QUEUED))))


def _of(project_id: int) -> Select[BulkRun]:
    return select(BulkRun).where(BulkRun.project_id == project_id)
