"""Removes rows that nobody needs any more: events that are done, and runs that ended long ago.

Each call is one short transaction and removes at most ROWS_PER_TRANSACTION rows, so that webhooks do not wait.
"""

from collections.abc import Collection
from datetime import timedelta
from typing import Any, cast

from sqlalchemy import CursorResult, delete, select

from lorabel.database.store import Store, id_chunks
from lorabel.database.tables import BulkRun, Event, EventState, RunState, TrainingRun, now

ROWS_PER_TRANSACTION = 500
# More than `training_runs` looks back for the pause after runs that failed.
RUNS_KEPT = 20
ENDED = (RunState.FINISHED, RunState.FAILED, RunState.CANCELLED)


def remove_events(store: Store, states: Collection[EventState], days: int) -> int:
    """Remove events in one of these states that arrived more than `days` ago, the oldest first.

    Returns:
        How many were removed; fewer than ROWS_PER_TRANSACTION if no more are old enough.
    """
    cutoff = now() - timedelta(days=days)
    removed = 0
    for state in states:
        with store.write() as session:
            # By id, as the index has them: events arrive in the order of their ids.
            oldest = select(Event.id, Event.received_at).where(Event.state == state).order_by(Event.id)
            rows = session.execute(oldest.limit(ROWS_PER_TRANSACTION - removed)).all()
            old_ids = [event_id for event_id, received_at in rows if received_at < cutoff]
            for chunk in id_chunks(old_ids):
                session.execute(delete(Event).where(Event.id.in_(chunk), Event.state == state))
        removed += len(old_ids)
        if removed >= ROWS_PER_TRANSACTION:
            break
    return removed


def remove_runs(store: Store, table: type[TrainingRun] | type[BulkRun], days: int) -> int:
    """Remove runs that ended more than `days` ago, except the newest RUNS_KEPT of each project.

    Returns:
        How many were removed; fewer than ROWS_PER_TRANSACTION if no more are old enough.
    """
    has_ended_long_ago = (table.state.in_(ENDED), table.finished_at < now() - timedelta(days=days))
    removed = 0
    with store.read() as session:
        project_ids = session.scalars(select(table.project_id).where(*has_ended_long_ago).distinct()).all()
    for project_id in sorted(project_ids):
        of_project = table.project_id == project_id
        with store.write() as session:
            newest = select(table.id).where(of_project).order_by(table.id.desc())
            newest_old_id = session.scalar(newest.offset(RUNS_KEPT).limit(1))
            if newest_old_id is None:
                continue
            old = select(table.id).where(of_project, table.id <= newest_old_id, *has_ended_long_ago)
            old_ids = session.scalars(old.order_by(table.id).limit(ROWS_PER_TRANSACTION - removed)).all()
            for chunk in id_chunks(old_ids):
                removing = delete(table).where(table.id.in_(chunk), *has_ended_long_ago)
                removed += cast(CursorResult[Any], session.execute(removing)).rowcount
        if removed >= ROWS_PER_TRANSACTION:
            break
    return removed
