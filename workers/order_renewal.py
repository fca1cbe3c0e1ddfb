"""Has the order `auto` of a project's open tasks made again as annotations arrive.

A project's order is renewed if its newest order is one by `auto` that nobody cancelled. Another strategy, or a
cancelled run, ends that. At most one order of a project waits or runs, and of finished renewals only the newest is
kept, because a project may have thousands.
"""

from collections.abc import Collection
from datetime import timedelta

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from lorabel.curation.strategy import Strategy
from lorabel.database import bulk_runs
from lorabel.database.tables import Annotation, BulkRun, BulkRunKind, Project, RunState, now
from workers.services import Services

ORDERS = (BulkRunKind.ORDER, BulkRunKind.ORDER_RENEWAL)
ENDED = (RunState.FINISHED, RunState.FAILED)
# After an order that took s seconds, at least this many times s pass before the next.
REST = 4


def start_due(services: Services, project_ids: Collection[int] | None = None) -> None:
    """Queue a renewal for every project that has enough new annotations since its newest order.

    Args:
        project_ids: look at these only; None for all.
    """
    renew_after = services.settings.order_renew_after
    if not renew_after:
        return
    with services.store.look_up() as session:
        due = [
            run.project_id for run in _newest_orders(session, project_ids) if _is_due(session, run, renew_after)
        ]
    for project_id in due:
        run = bulk_runs.request(
            services.store,
            project_id,
            f"{renew_after} new annotations",
            kind=BulkRunKind.ORDER_RENEWAL,
            only_unlabeled=True,
            strategy=Strategy.AUTO,
        )
        _forget_older(services, run)
        services.jobs.carry_out(run)


def _newest_orders(session: Session, project_ids: Collection[int] | None) -> list[BulkRun]:
    """The newest order of each project, if it has ended, is one by `auto`, and the project still exists."""
    newest_ids = select(func.max(BulkRun.id)).where(BulkRun.kind.in_(ORDERS)).group_by(BulkRun.project_id)
    if project_ids is not None:
        newest_ids = newest_ids.where(BulkRun.project_id.in_(project_ids))
    query = select(BulkRun).join(Project, Project.id == BulkRun.project_id)
    is_renewed = (BulkRun.strategy == Strategy.AUTO, BulkRun.state.in_(ENDED), Project.is_deleted.is_(False))
    return list(session.scalars(query.where(BulkRun.id.in_(newest_ids), *is_renewed).order_by(BulkRun.id)))


def _is_due(session: Session, run: BulkRun, renew_after: int) -> bool:
    if run.started_at is not None and run.finished_at is not None:
        rest: timedelta = REST * (run.finished_at - run.started_at)
        if now() < run.finished_at + rest:
            return False
    is_usable = (Annotation.is_deleted.is_(False), Annotation.was_cancelled.is_(False))
    newest = select(Annotation.received_at).where(Annotation.project_id == run.project_id, *is_usable)
    last_needed = newest.order_by(Annotation.id.desc()).offset(renew_after - 1).limit(1)
    received_at = session.scalar(last_needed)
    return received_at is not None and received_at > run.created_at


def _forget_older(services: Services, run: BulkRun) -> None:
    """Delete the project's renewals that ended before the newest one."""
    with services.store.write() as session:
        of_project = (BulkRun.project_id == run.project_id, BulkRun.kind == BulkRunKind.ORDER_RENEWAL)
        ended = (*of_project, BulkRun.id < run.id, BulkRun.state.in_(ENDED))
        newest = session.scalar(select(func.max(BulkRun.id)).where(*ended))
        if newest is not None:
            session.execute(delete(BulkRun).where(*ended, BulkRun.id < newest))
