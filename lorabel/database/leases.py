"""Rows that stand for work: claimed by one worker, kept alive by a heartbeat, ended; queues only bring the news.

Training runs and bulk runs are such rows. At most one of a project is running; a unique index sees to it.
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
    """Mark a queued run as running and ours; None if it is not queued or another run of its project is on."""
    try:
        with store.write() as session:
            claimed = update(table).where(table.id == run_id, table.state == RunState.QUEUED)
            started_at = func.coalesce(table.started_at, now())
            claimed = claimed.values(state=RunState.RUNNING, started_at=started_at, heartbeat_at=now())
            if cast(CursorResult[Any], session.execute(claimed)).rowcount == 0:
                return None
            return session.get_one(table, run_id)
    except IntegrityError:
        return None


def report(store: Store, run: TrainingRun | BulkRun, **columns: Any) -> None:
    """Write progress and show that the run is alive. Raises RunLostError if it is no longer this worker's."""
    with store.write() as session:
        change(session, run, heartbeat_at=now(), **columns)


def finish(session: Session, run: TrainingRun | BulkRun, state: RunState, **columns: Any) -> None:
    """Raises RunLostError if it is no longer this worker's, so that the transaction comes to nothing."""
    change(session, run, state=state, finished_at=now(), **columns)


def change(session: Session, run: TrainingRun | BulkRun, **columns: Any) -> None:
    """Raises RunLostError if the run was given to another worker, or cancelled."""
    table = type(run)
    ours = update(table).where(table.id == run.id, table.state == RunState.RUNNING, table.attempt == run.attempt)
    if cast(CursorResult[Any], session.execute(ours.values(**columns))).rowcount == 0:
        raise RunLostError(f"run {run.id} is no longer ours: it was cancelled, or its lease ended")


def silent(session: Session, table: type[R], settings: Settings) -> list[R]:
    """Running ones whose worker has shown no life for RUN_LEASE_SECONDS; locked until the transaction ends."""
    silent_since = now() - timedelta(seconds=settings.run_lease_seconds)
    found = select(table).where(table.state == RunState.RUNNING, table.heartbeat_at < silent_since)
    return list(session.scalars(found.with_for_update(skip_locked=True)))
