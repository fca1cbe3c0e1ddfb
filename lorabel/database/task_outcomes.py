"""Rows of task outcomes: written with a version, and read to set two versions side by side."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import JSON, ColumnElement, Double, delete, select, type_coerce
from sqlalchemy.orm import Session

from lorabel.database.store import id_chunks
from lorabel.database.tables import DeletedTask, ModelVersion, TaskOutcome

# Of the newest measured versions of a project, of this number, outcomes are kept.
KEPT_VERSIONS = 50


@dataclass(frozen=True)
class Side:
    """Where the outcomes of a version are: in the rows of its own run, or of a run whose parent it was.

    Args:
        number: of the version whose run judged it.
        is_parent: whether it was the parent in that run.
    """

    number: int
    is_parent: bool

    @property
    def value(self) -> ColumnElement[float | None]:
        """The column of its values."""
        return type_coerce(TaskOutcome.live_value if self.is_parent else TaskOutcome.value, Double)

    @property
    def result(self) -> ColumnElement[Any]:
        """The column of what it answered."""
        return type_coerce(TaskOutcome.live_result if self.is_parent else TaskOutcome.result, JSON)


def write(session: Session, version: ModelVersion, outcomes: Sequence[TaskOutcome]) -> None:
    """Add the outcomes of a new version, and delete those of versions that are no longer kept.

    The caller has locked the project's row, so that no task is deleted or forgotten meanwhile. Tasks that were
    deleted before are left out.
    """
    deleted = select(DeletedTask.task_id).where(DeletedTask.project_id == version.project_id)
    gone = {
        task_id
        for chunk in id_chunks(sorted({outcome.task_id for outcome in outcomes}))
        for task_id in session.scalars(deleted.where(DeletedTask.task_id.in_(chunk)))
    }
    for outcome in outcomes:
        if outcome.task_id not in gone:
            outcome.project_id, outcome.number = version.project_id, version.number
            session.add(outcome)
    session.flush()
    of_project = TaskOutcome.project_id == version.project_id
    newest = select(TaskOutcome.number).where(of_project).distinct().order_by(TaskOutcome.number.desc())
    last_kept = session.scalar(newest.offset(KEPT_VERSIONS - 1).limit(1))
    if last_kept is not None:
        session.execute(delete(TaskOutcome).where(of_project, TaskOutcome.number < last_kept))


def delete_tasks(session: Session, project_id: int, task_ids: Collection[int]) -> None:
    """Delete the rows of tasks that are no longer in Label Studio."""
    for chunk in id_chunks(sorted(task_ids)):
        session.execute(
            delete(TaskOutcome).where(TaskOutcome.project_id == project_id, TaskOutcome.task_id.in_(chunk))
        )


def sides(session: Session, project_id: int, first: int, second: int) -> tuple[Side, Side] | None:
    """Where the outcomes of two versions are; those of one run if a run has judged both.

    Returns:
        None if one of the versions has none.
    """
    for judged, parent in ((second, first), (first, second)):
        if _parent(session, project_id, judged) == parent and _has_rows(session, project_id, judged):
            of_judged, of_parent = Side(judged, False), Side(judged, True)
            return (of_parent, of_judged) if judged == second else (of_judged, of_parent)
    of_first, of_second = (_side(session, project_id, number) for number in (first, second))
    return None if of_first is None or of_second is None else (of_first, of_second)


def _side(session: Session, project_id: int, number: int) -> Side | None:
    """Of a version's own run, or of the newest run whose parent it was."""
    if number and _has_rows(session, project_id, number):
        return Side(number, False)
    has_rows = select(TaskOutcome.task_id).where(
        TaskOutcome.project_id == project_id, TaskOutcome.number == ModelVersion.number
    )
    children = select(ModelVersion.number).where(
        ModelVersion.project_id == project_id, ModelVersion.parent == number, has_rows.exists()
    )
    newest = session.scalar(children.order_by(ModelVersion.number.desc()).limit(1))
    return None if newest is None else Side(newest, True)


def _parent(session: Session, project_id: int, number: int) -> int | None:
    of_version = select(ModelVersion.parent).where(
        ModelVersion.project_id == project_id, ModelVersion.number == number
    )
    return session.scalar(of_version)


def _has_rows(session: Session, project_id: int, number: int) -> bool:
    of_version = select(TaskOutcome.task_id).where(
        TaskOutcome.project_id == project_id, TaskOutcome.number == number
    )
    return session.scalar(of_version.limit(1)) is not None


def values(session: Session, project_id: int, side: Side) -> dict[tuple[str, int], float]:
    """(control tag, task id) -> the value of a version, where it has one."""
    rows = select(TaskOutcome.from_name, TaskOutcome.task_id, side.value).where(
        TaskOutcome.project_id == project_id, TaskOutcome.number == side.number
    )
    return {(tag, task_id): value for tag, task_id, value in session.execute(rows) if value is not None}


def results(
    session: Session, project_id: int, side: Side, from_name: str, task_ids: Collection[int]
) -> dict[int, list[Any] | None]:
    """Task id -> what a version answered; None where it was not kept."""
    rows = select(TaskOutcome.task_id, side.result).where(
        TaskOutcome.project_id == project_id,
        TaskOutcome.number == side.number,
        TaskOutcome.from_name == from_name,
        TaskOutcome.task_id.in_(task_ids),
    )
    return {row[0]: row[1] for row in session.execute(rows)}


def task_ids(session: Session, project_id: int, number: int) -> dict[str, list[int]]:
    """Control tag -> the tasks that the run of a version judged it on, as far as they are kept."""
    rows = select(TaskOutcome.from_name, TaskOutcome.task_id).where(
        TaskOutcome.project_id == project_id, TaskOutcome.number == number
    )
    judged: dict[str, list[int]] = {}
    for from_name, task_id in session.execute(rows.order_by(TaskOutcome.from_name, TaskOutcome.task_id)):
        judged.setdefault(from_name, []).append(task_id)
    return judged


def measured_numbers(session: Session, project_id: int) -> list[int]:
    """The numbers of the versions whose runs have outcomes, the newest first."""
    rows = select(TaskOutcome.number).where(TaskOutcome.project_id == project_id).distinct()
    return list(session.scalars(rows.order_by(TaskOutcome.number.desc())))
