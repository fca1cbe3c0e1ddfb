"""Leases on runs: a worker claims a run's row, keeps it with a heartbeat, and loses it when the heartbeat stops.

Used for training runs and bulk runs. At most one run of each kind is running per project; a unique index
ensures this. A worker that was only slow finds that its run has a new `attempt` and stops with RunLostError.
"""

from datetime import timedelta
from typing import Any, TypeVar, cast

from sqlalchemy import CursorResult, func, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from lorabel.database.store import Store
from lorabel.database.tables import BulkRun, RunState, TrainingRun, now
from lorabel.errors import RunLostError
from lorabel.settings import Settings

R = TypeVar("R", TrainingRun, BulkRun)


def claim(store: Store, table: type[R], run_id: int) -> R | None:
    """Mark a queued run as running and return it.

    Returns:
        None if the run is not queued, or if another run of its project is running. Of several workers that
        claim the same run, only one gets it.
    """
    try:
        with store.write() as session:
            claiming = update(table).where(table.id == run_id, table.state == RunState.QUEUED)
            started_at = func.coalesce(table.started_at, now())
            claiming = claiming.values(state=RunState.RUNNING, started_at=started_at, heartbeat_at=now())
            if cast(CursorResult[Any], session.execute(claiming)).rowcount == 0:
                return None
            return session.get_one(table, run_id)
    except IntegrityError:
        return None


def report(store: Store, run: TrainingRun | BulkRun, **columns: Any) -> None:
    """Renew the lease on a claimed run and write its progress.

    Args:
        columns: new values of the run's columns; none for a mere heartbeat.

    Raises:
        RunLostError: the run was given to another worker, or cancelled.
    """
    with store.write() as session:
        update_claimed(session, run, heartbeat_at=now(), **columns)


def finish(session: Session, run: TrainingRun | BulkRun, state: RunState, **columns: Any) -> None:
    """End a claimed run in the caller's transaction.

    Args:
        state: FINISHED or FAILED.
        columns: new values of the run's columns.

    Raises:
        RunLostError: the run was given to another worker, or cancelled; the transaction is rolled back.
    """
    update_claimed(session, run, state=state, finished_at=now(), **columns)


def update_claimed(session: Session, run: TrainingRun | BulkRun, **columns: Any) -> None:
    """Write columns of a run that this worker has claimed.

    Raises:
        RunLostError: the run was given to another worker, or cancelled.
    """
    table = type(run)
    # SQLite gives the id of a run that was forgotten to the next one.
    is_same = (table.id == run.id, table.project_id == run.project_id, table.created_at == run.created_at)
    claimed = (*is_same, table.state == RunState.RUNNING, table.attempt == run.attempt)
    if cast(CursorResult[Any], session.execute(update(table).where(*claimed).values(**columns))).rowcount == 0:
        raise RunLostError(f"run {run.id} is no longer ours: it was cancelled, or its lease ended")


def list_expired(session: Session, table: type[R], settings: Settings) -> list[R]:
    """Running runs without a heartbeat for RUN_LEASE_SECONDS, locked until the transaction ends.

    Rows that another process has locked are left out.
    """
    expired_before = now() - timedelta(seconds=settings.run_lease_seconds)
    expired = select(table).where(table.state == RunState.RUNNING, table.heartbeat_at < expired_before)
    return list(session.scalars(expired.with_for_update(skip_locked=True)))
