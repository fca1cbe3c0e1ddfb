"""The reasons that a project's rows hold: why runs were started and how they ended, and what could not be read."""

from collections.abc import Iterator
from datetime import datetime
from operator import attrgetter
from typing import NamedTuple

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from lorabel.database import bulk_runs, training_runs
from lorabel.database.tables import BulkRun, Event, EventState, TrainingRun, UnreadableTask


class Reason(NamedTuple):
    """Why something is as it is. `subject`: what the reason is about, e.g. `run 3` or `task 17`."""

    at: datetime
    subject: str
    reason: str


def list_of(session: Session, project_id: int, limit: int) -> list[Reason]:
    """The reasons of a project, newest first, at most `limit`."""
    reasons = [
        *(reason for run in training_runs.list_of(session, project_id) for reason in of_training(run)),
        *(reason for run in bulk_runs.list_of(session, project_id) for reason in of_bulk_run(run)),
        *_of_tasks(session, project_id, limit),
        *_of_events(session, project_id, limit),
    ]
    return sorted(reasons, key=attrgetter("at"), reverse=True)[:limit]


def of_training(run: TrainingRun) -> Iterator[Reason]:
    """Why a run began and how it ended, and what it did not learn from."""
    at = _last_time(run)
    asked = f"{run.state}, begun for: {run.reason}"
    outcome = run.error or run.decision
    yield Reason(at, f"training run {run.id}", f"{asked}; {outcome}" if outcome else asked)
    for tag, reasons in (run.metrics or {}).get("skipped", {}).items():
        for annotation_id, reason in reasons.items():
            yield Reason(at, f"annotation {annotation_id}", f"not learned from, {tag}: {reason}")
    for tag, reasons in (run.metrics or {}).get("left_out", {}).items():
        for annotation_id, reason in reasons.items():
            yield Reason(at, f"annotation {annotation_id}", f"learned from in part, {tag}: {reason}")


def of_bulk_run(run: BulkRun) -> Iterator[Reason]:
    """Why a run began and how it ended, and which tasks failed."""
    at = _last_time(run)
    asked = f"{run.state}, begun for: {run.reason}"
    yield Reason(at, f"bulk run {run.id}", f"{asked}; {run.error}" if run.error else asked)
    for failure in run.failures:
        yield Reason(at, f"task {failure['task_id']}", f"failed in bulk run {run.id}: {failure['reason']}")


def _last_time(run: TrainingRun | BulkRun) -> datetime:
    return run.finished_at or run.started_at or run.created_at


def _of_tasks(session: Session, project_id: int, limit: int) -> Iterator[Reason]:
    newest_first = select(UnreadableTask).order_by(UnreadableTask.seen_at.desc()).limit(limit)
    for task in session.scalars(newest_first.where(UnreadableTask.project_id == project_id)):
        duration = "for good" if task.is_permanent else "for now"
        yield Reason(task.seen_at, f"task {task.task_id}", f"cannot be read {duration}: {task.reason}")


def _of_events(session: Session, project_id: int, limit: int) -> Iterator[Reason]:
    failed = (Event.state == EventState.FAILED, Event.error.is_not(None))
    # An expression, so that the index of the state is used and not that of the column (`workers/collect.py`).
    of_project = func.coalesce(Event.project_id, 0) == project_id
    for event in session.scalars(select(Event).where(*failed, of_project).order_by(Event.id.desc()).limit(limit)):
        at = event.applied_at or event.received_at
        yield Reason(at, f"event {event.id}", f"{event.action} {event.state}: {event.error}")
