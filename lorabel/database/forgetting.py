"""Deletes the rows of a task, of what an annotator did, or of a whole project, as `lorabel forget` asks.

A task or an annotator is forgotten in one transaction, with the project's row locked, as events are applied. So an
event is applied before and forgotten, or it arrives after and is new. Rows of a project go a table at a time, its
own row at last: after a kill, the next call goes on. What is called twice deletes what the first call has left.

Tables are found by their columns: a new table with `project_id`, or with `task_id` beside it, is forgotten, too.
"""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

from sqlalchemy import ColumnElement, CursorResult, Row, Table, delete, func, select, update
from sqlalchemy.orm import Session

from lorabel.database import forgotten_events, forgotten_learning, projects, vocabularies
from lorabel.database.acceptance_tables import AcceptedTask
from lorabel.database.base_table import Table as Base
from lorabel.database.forgotten_events import Seen, Subject
from lorabel.database.forgotten_learning import Learned
from lorabel.database.instructions import KEPT
from lorabel.database.store import Store, id_chunks
from lorabel.database.tables import (
    Acceptance,
    Annotation,
    BulkRun,
    EmbeddingIndex,
    Event,
    LabelErrorReport,
    ModelVersion,
    Project,
    RunState,
    TrainingRun,
    TypedInstruction,
    now,
)
from lorabel.database.training_runs import ACTIVE

# In which an annotator's own tasks have rows that say something of the annotator's work.
OF_ANNOTATED_TASKS = ("task_features", "task_outcome", "typed_instruction")
BY_ANNOTATION_ID = ("skipped", "left_out")


@dataclass
class Forgotten:
    """What was deleted, or would be.

    Attributes:
        rows: table -> how many of its rows were deleted or changed.
        learned: the versions whose adapters have learned from it, oldest first.
        active_runs: how many queued or running training and bulk runs were ended.
        retraining: the run that trains again; None if none was asked for.
    """

    rows: Counter[str] = field(default_factory=Counter)
    learned: list[Learned] = field(default_factory=list)
    active_runs: int = 0
    retraining: TrainingRun | None = None


def forget(
    store: Store, project_id: int, subject: Subject, *, is_retraining: bool = False, is_dry: bool = False
) -> Forgotten:
    """Delete a task, what an annotator did, or a project, and everything that was made of it.

    Args:
        is_retraining: remove the adapters that have learned from it, too, and queue a run without it.
        is_dry: delete nothing.

    Raises:
        NotFoundError: no such project.
    """
    if subject.is_project:
        return _count_project(store, project_id) if is_dry else _forget_project(store, project_id)
    with store.read() as session:
        # Before the lock: to read all events of a project may take long.
        project = projects.get(session, project_id)
        annotation_ids = frozenset(row.id for row in _annotations_of(session, project, subject))
        seen = forgotten_events.look(session, project, replace(subject, annotation_ids=annotation_ids))
    with store.write() as session:
        project = projects.get(session, project_id, is_locked=True)
        forgotten = _Part(session, project, subject, seen).forget()
        if is_retraining and forgotten.learned:
            forgotten.retraining = forgotten_learning.retire(session, project, forgotten.learned)
        if is_dry:
            session.flush()
            session.rollback()
    return forgotten


def _count_project(store: Store, project_id: int) -> Forgotten:
    forgotten = Forgotten()
    with store.read() as session:
        project = projects.get(session, project_id)
        forgotten.learned = _learned(session, project)
        forgotten.rows["event"] = len(forgotten_events.early_event_ids(session, project))
        for table, is_mine in _tables_of(project_id):
            forgotten.rows[table.name] += (
                session.scalar(select(func.count()).select_from(table).where(is_mine)) or 0
            )
    return forgotten


def _forget_project(store: Store, project_id: int) -> Forgotten:
    forgotten = Forgotten()
    with store.write() as session:
        project = projects.get(session, project_id, is_locked=True)
        # No worker begins anything for it any more, and none that has begun can end it.
        project.is_deleted = True
        forgotten.learned = _learned(session, project)
        forgotten.active_runs = _delete_active_runs(session, project)
    for table, is_mine in _tables_of(project_id):
        if table is not _table(Project):
            with store.write() as session:
                forgotten.rows[table.name] += _delete(session, table, is_mine)
    with store.write() as session:
        early = forgotten_events.early_event_ids(session, projects.get(session, project_id, is_locked=True))
        for chunk in id_chunks(early):
            forgotten.rows["event"] += _delete(session, _table(Event), _table(Event).c.id.in_(chunk))
        _clear_index(session, project_id)
        # With what has arrived meanwhile.
        for table, is_mine in _tables_of(project_id):
            forgotten.rows[table.name] += _delete(session, table, is_mine)
    return forgotten


def _learned(session: Session, project: Project) -> list[Learned]:
    # Not all of the project's annotations, which may be a million.
    trained_on = select(ModelVersion.trained_on).where(
        ModelVersion.project_id == project.id, ModelVersion.adapters_removed_at.is_(None)
    )
    named = {annotation_id for ids in session.scalars(trained_on) for annotation_id in ids}
    of_project = select(Annotation.id).where(Annotation.project_id == project.id)
    known = {
        annotation_id
        for chunk in id_chunks(sorted(named))
        for annotation_id in session.scalars(of_project.where(Annotation.id.in_(chunk)))
    }
    return forgotten_learning.learned_versions(session, project, known)


def _delete_active_runs(session: Session, project: Project) -> int:
    """Delete runs that wait or compute. Their workers find that the runs are theirs no more, and write nothing."""
    return sum(
        _delete(session, table, table.c.project_id == project.id, table.c.state.in_(ACTIVE))
        for table in (_table(TrainingRun), _table(BulkRun))
    )


def _annotations_of(session: Session, project: Project, subject: Subject) -> Sequence[Row[int, int | None]]:
    """Ids of a subject's annotations, each with its task's."""
    mine = [Annotation.project_id == project.id]
    if subject.task_id is not None:
        mine.append(Annotation.task_id == subject.task_id)
    if subject.annotator_id is not None:
        mine.append(Annotation.completed_by == subject.annotator_id)
    return session.execute(select(Annotation.id, Annotation.task_id).where(*mine)).all()


class _Part:
    """Forgets a task, or what an annotator did. The project's row is locked."""

    def __init__(self, session: Session, project: Project, subject: Subject, seen: Seen) -> None:
        self.session, self.project, self.subject, self.seen = session, project, subject, seen
        self.rows: Counter[str] = Counter()
        annotations = _annotations_of(session, project, subject)
        self.annotation_ids = frozenset(row.id for row in annotations) | seen.annotation_ids
        named = set() if subject.task_id is None else {subject.task_id}
        self.task_ids = frozenset(row.task_id for row in annotations if row.task_id is not None) | named

    def forget(self) -> Forgotten:
        session, project = self.session, self.project
        learned = forgotten_learning.learned_versions(session, project, self.annotation_ids)
        # A training run that computes may have read what is forgotten; the sweep queues another when it is due.
        # Its row stays, since its worker must not find another run under its id.
        active = (TrainingRun.project_id == project.id, TrainingRun.state.in_(ACTIVE))
        cancelling = update(TrainingRun).where(*active)
        cancelling = cancelling.values(state=RunState.CANCELLED, finished_at=now(), seconds_left=None)
        active_runs = _count(session.execute(cancelling))
        self.rows["training_run"] += active_runs
        self._forget_in_runs()
        subject = Subject(self.subject.task_id, self.subject.annotator_id, self.annotation_ids)
        self.rows["event"] += forgotten_events.remove(session, project, subject, self.seen)
        self._forget_instructions()
        self._delete_rows()
        self.rows["model_version"] += forgotten_learning.strip(session, project, self.annotation_ids)
        if self.annotation_ids:
            self.rows["project_head"] += forgotten_learning.reset_heads(session, project)
        vocabularies.renew(session, project)
        return Forgotten(+self.rows, learned, active_runs)

    def _delete_rows(self) -> None:
        """Delete the rows that name a task or an annotation which is forgotten."""
        for table in _tables_with("project_id", "task_id"):
            if self.subject.annotator_id is not None and table.name not in OF_ANNOTATED_TASKS:
                continue
            self._delete_in(table, "task_id", self.task_ids)
        self._delete_in(_table(Annotation), "id", self.annotation_ids)
        self._delete_in(_table(AcceptedTask), "annotation_id", self.annotation_ids)
        if self.rows["task_embedding"]:
            _clear_index(self.session, self.project.id)
        if self.subject.annotator_id is not None:
            mine = (Acceptance.project_id == self.project.id, Acceptance.user_id == self.subject.annotator_id)
            self.rows["acceptance"] += _count(
                self.session.execute(update(Acceptance).where(*mine).values(user_id=None, user_email=None))
            )

    def _delete_in(self, table: Table, column: str, ids: Collection[int]) -> None:
        for chunk in id_chunks(sorted(ids)):
            of_ids = (table.c.project_id == self.project.id, table.c[column].in_(chunk))
            self.rows[table.name] += _delete(self.session, table, *of_ids)

    def _forget_instructions(self) -> None:
        """An instruction that was kept goes with the last task on which it was typed."""
        typed = select(TypedInstruction.from_name, TypedInstruction.instruction, TypedInstruction.task_id).where(
            TypedInstruction.project_id == self.project.id
        )
        rows = self.session.execute(typed).all()
        gone = {(row.from_name, row.instruction) for row in rows if row.task_id in self.task_ids}
        gone -= {(row.from_name, row.instruction) for row in rows if row.task_id not in self.task_ids}
        stored = self.project.instructions or {}
        kept = {tag: text for tag, text in stored.get(KEPT, {}).items() if (tag, text) not in gone}
        if kept != stored.get(KEPT, {}):
            self.project.instructions = {**stored, KEPT: kept}
            self.rows["project"] += 1

    def _forget_in_runs(self) -> None:
        """Take tasks and annotations out of the records of runs and of label errors."""
        of_project = TrainingRun.project_id == self.project.id
        for run in self.session.scalars(select(TrainingRun).where(of_project)):
            ids = [id_ for id_ in run.annotation_ids or [] if id_ not in self.annotation_ids]
            metrics = self._without_reasons(run.metrics)
            if metrics != run.metrics or len(ids) != len(run.annotation_ids or []):
                run.metrics = metrics
                run.annotation_ids = None if run.annotation_ids is None else ids
                self.rows["training_run"] += 1
        if self.subject.task_id is not None:
            self._forget_in_bulk_runs(self.subject.task_id)
        report = self.session.get(LabelErrorReport, self.project.id)
        if report is not None:
            left = [error for error in report.errors if error["annotation_id"] not in self.annotation_ids]
            self.rows["label_error_report"] += len(left) < len(report.errors)
            report.errors = left

    def _without_reasons(self, metrics: dict[str, Any] | None) -> dict[str, Any] | None:
        """A run's metrics without the annotations that it could not learn from, whose reasons may quote them."""
        if metrics is None:
            return None
        names = {str(annotation_id) for annotation_id in self.annotation_ids}
        reasons: Mapping[str, dict[str, dict[str, str]]] = {
            key: metrics[key] for key in BY_ANNOTATION_ID if key in metrics
        }
        return metrics | {
            key: {
                tag: {id_: why for id_, why in of_tag.items() if id_ not in names}
                for tag, of_tag in by_tag.items()
            }
            for key, by_tag in reasons.items()
        }

    def _forget_in_bulk_runs(self, task_id: int) -> None:
        """A run of this task alone is cancelled; a run of many goes on without it."""
        for run in self.session.scalars(select(BulkRun).where(BulkRun.project_id == self.project.id)):
            failures = [failure for failure in run.failures if failure.get("task_id") != task_id]
            is_named = run.task_ids is not None and task_id in run.task_ids
            if not is_named and len(failures) == len(run.failures):
                continue
            self.rows["bulk_run"] += 1
            run.failures = failures
            if run.task_ids is not None:
                run.task_ids = [id_ for id_ in run.task_ids if id_ != task_id]
                if not run.task_ids and run.state in (RunState.QUEUED, RunState.RUNNING):
                    run.state, run.finished_at = RunState.CANCELLED, now()


def tables() -> list[str]:
    """The names of the tables that may have something of a project, for what is done with them on the disk."""
    return sorted({table.name for table, _ in _tables_of(0)})


def _tables_of(project_id: int) -> list[tuple[Table, ColumnElement[bool]]]:
    """Every table with rows of projects, and which of them are this project's; the table of projects at last.

    Without the index of vectors, whose row only has numbers: `_clear_index` says why it stays.
    """
    project, index = _table(Project), _table(EmbeddingIndex)
    of_projects = [table for table in _tables_with("project_id") if table is not index]
    return [
        *((table, table.c.project_id == project_id) for table in of_projects),
        (project, project.c.id == project_id),
    ]


def _clear_index(session: Session, project_id: int) -> None:
    """Have readers of vectors forget those that they keep in memory, also if a project gets this id again."""
    index = session.get(EmbeddingIndex, project_id, with_for_update=True)
    if index is not None:
        index.version += 1
        index.deleted_at, index.cursor, index.space = index.version, 0, None


def _tables_with(*columns: str) -> list[Table]:
    """The tables with all of these columns; those that refer to others before these."""
    return [table for table in reversed(Base.metadata.sorted_tables) if set(columns) <= set(table.c.keys())]


def _table(row_type: type[Base]) -> Table:
    return cast(Table, row_type.__table__)


def _delete(session: Session, table: Table, *conditions: ColumnElement[bool]) -> int:
    return _count(session.execute(delete(table).where(*conditions)))


def _count(result: Any) -> int:
    return cast(CursorResult[Any], result).rowcount
