"""Rows of annotations and of deleted tasks, as Label Studio's events and its API describe them.

Each function reads and changes rows of one project only. Projects of two Label Studios may have annotations and
tasks with the same ids.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple, Self

from sqlalchemy import delete, select
from sqlalchemy.orm import Session, undefer

from lorabel.database import acceptances, instructions, rule_effects, task_embeddings, task_features, task_outcomes
from lorabel.database.acceptance_tables import AcceptedTask
from lorabel.database.store import Store, id_chunks
from lorabel.database.tables import Annotation, DeletedTask, UnreadableTask, now
from lorabel.labeling import provenance

MOST_CLOCK_SKEW = timedelta(minutes=5)


class Received(NamedTuple):
    """An annotation as Label Studio sends it, with its task's id and data; either is None if it was not sent.

    `predictions`: the task's predictions, which events do not have.
    """

    annotation: dict[str, Any]
    task_id: int | None
    task_data: dict[str, Any] | None
    predictions: Sequence[Mapping[str, Any]] = ()


def apply_annotations(session: Session, project_id: int, received: Iterable[Received]) -> list[bool]:
    """Store the annotations that are newer than ours. The caller has locked the project's row.

    Those that an acceptance has written, and that nobody has changed, are not stored: the model must not learn
    from itself, and they say nothing about how often it is right. Of the others only what we did not know is
    stored: what the annotator was shown, and how long it took.

    Returns:
        For each annotation whether it was newer.
    """
    received = list(received)
    rows = _rows_by_id(session, project_id, [item.annotation["id"] for item in received])
    deleted_tasks = _deleted_tasks(
        session, project_id, {item.task_id for item in received if item.task_id is not None}
    )
    accepted = _AcceptedTasks.of(session, project_id, received)
    are_newer = []
    for item in received:
        if item.annotation["id"] not in rows and accepted.wrote(item):
            are_newer.append(False)
            continue
        annotation_id = item.annotation["id"]
        row = rows.get(annotation_id)
        updated_at = datetime.fromisoformat(item.annotation["updated_at"])
        are_newer.append(row is None or _is_newer(row, item, updated_at))
        if not are_newer[-1]:
            if row is not None and not row.is_deleted:
                _complete(row, item, updated_at)
            continue
        if row is None:
            row = Annotation(project_id=project_id, id=annotation_id, times_applied=0)
            session.add(row)
            rows[annotation_id] = row
        _fill(row, item, updated_at)
        row.is_deleted = item.task_id in deleted_tasks
    return are_newer


def delete_annotations(session: Session, project_id: int, ids: Sequence[int]) -> int:
    """Mark annotations as deleted, also those that we have never seen. Returns how many that changed.

    Those that only an acceptance has written have no rows, and get none.
    """
    rows = _rows_by_id(session, project_id, ids)
    accepted_ids = acceptances.annotation_ids_among(session, project_id, set(ids) - rows.keys())
    changed = 0
    for annotation_id in dict.fromkeys(ids):
        if annotation_id in accepted_ids:
            continue
        row = rows.get(annotation_id)
        if row is None:
            session.add(Annotation(id=annotation_id, project_id=project_id, is_deleted=True, times_applied=1))
        elif row.is_deleted:
            continue
        else:
            row.is_deleted, row.times_applied = True, row.times_applied + 1
        changed += 1
    return changed


def delete_tasks(store: Store, session: Session, project_id: int, task_ids: Collection[int]) -> int:
    """Delete tasks and their annotations, for which no event comes. Returns how many of both that changed."""
    task_embeddings.delete_tasks(store, session, project_id, task_ids)
    task_features.delete_tasks(session, project_id, task_ids)
    task_outcomes.delete_tasks(session, project_id, task_ids)
    instructions.forget_tasks(session, project_id, task_ids)
    rule_effects.forget_tasks(session, project_id, task_ids)
    new_ids = set(task_ids)
    changed = 0
    for chunk in id_chunks(task_ids):
        of_tasks = (UnreadableTask.project_id == project_id, UnreadableTask.task_id.in_(chunk))
        session.execute(delete(UnreadableTask).where(*of_tasks))
        new_ids -= _deleted_tasks(session, project_id, chunk)
        not_deleted = select(Annotation).where(
            Annotation.project_id == project_id, Annotation.task_id.in_(chunk), Annotation.is_deleted.is_(False)
        )
        for row in session.scalars(not_deleted):
            row.is_deleted, row.times_applied = True, row.times_applied + 1
            changed += 1
    session.add_all(DeletedTask(task_id=task_id, project_id=project_id) for task_id in new_ids)
    return changed + len(new_ids)


class _AcceptedTasks:
    """What acceptances have written for the tasks of some annotations."""

    def __init__(self, accepted: Sequence[AcceptedTask], writers: Mapping[int, int | None]) -> None:
        self._accepted, self._writers = accepted, writers

    @classmethod
    def of(cls, session: Session, project_id: int, received: Iterable[Received]) -> Self:
        """Read them. The writers are the users whose tokens have written."""
        task_ids = {item.task_id for item in received if item.task_id is not None}
        accepted = acceptances.find_accepted(session, project_id, task_ids)
        ids = {row.acceptance_id for row in accepted}
        return cls(accepted, {id_: acceptances.get(session, project_id, id_).writer_id for id_ in ids})

    def wrote(self, received: Received) -> bool:
        """Whether an annotation is as an acceptance has written it."""
        return any(
            row.task_id == received.task_id
            and acceptances.is_unchanged(row, received.annotation, self._writers[row.acceptance_id])
            for row in self._accepted
        )


def _is_newer(row: Annotation, received: Received, updated_at: datetime) -> bool:
    """Whether a received state replaces the stored one.

    A time that is further in the future than clocks differ is not believed. With it the order of the two states is
    not known, and the state that arrived last is taken as the newer one if it differs.
    """
    if row.is_deleted:
        return False
    if row.updated_at is None:
        return True
    latest = now() + MOST_CLOCK_SKEW
    if row.updated_at > latest or updated_at > latest:
        return _differs(row, received)
    return row.updated_at < updated_at


def _differs(row: Annotation, received: Received) -> bool:
    annotation = received.annotation
    stored = (row.task_id, row.result, row.was_cancelled, row.ground_truth)
    flags = (bool(annotation.get("was_cancelled")), bool(annotation.get("ground_truth")))
    return stored != (received.task_id, annotation["result"], *flags)


def _fill(row: Annotation, received: Received, updated_at: datetime) -> None:
    annotation, received_at = received.annotation, now()
    is_believed = updated_at <= received_at + MOST_CLOCK_SKEW
    row.task_id, row.received_at = received.task_id, received_at
    row.updated_at = updated_at if is_believed else received_at
    row.task_data = received.task_data if received.task_data is not None else row.task_data
    row.result = annotation["result"]
    row.was_cancelled = bool(annotation.get("was_cancelled"))
    row.ground_truth = bool(annotation.get("ground_truth"))
    row.completed_by = provenance.reference_id(annotation.get("completed_by"))
    row.lead_time_s = provenance.lead_time_s(annotation)
    shown = provenance.shown_prediction(annotation, received.predictions)
    if shown is not None:
        _keep_shown(row, shown)
    # Also after a change of the result by people: the annotation may say something else now.
    row.is_accepted = provenance.is_accepted(row.prediction_result, row.result, row.was_cancelled)
    row.run_id, row.tries = None, 0
    row.times_applied += 1


def _complete(row: Annotation, received: Received, updated_at: datetime) -> None:
    """Add to a stored state what it lacks, from a state that is not newer."""
    if row.lead_time_s is None and row.updated_at == updated_at:
        row.lead_time_s = provenance.lead_time_s(received.annotation)
    if row.prediction_result is not None:
        return
    shown = provenance.shown_prediction(received.annotation, received.predictions)
    if shown is not None and row.prediction_id in (None, shown.id):
        _keep_shown(row, shown)
        row.is_accepted = provenance.is_accepted(row.prediction_result, row.result, row.was_cancelled)


def _keep_shown(row: Annotation, shown: provenance.ShownPrediction) -> None:
    """Store what the annotator was shown. What is known stays: Label Studio forgets deleted predictions."""
    if row.prediction_id == shown.id and shown.result is None:
        return
    row.prediction_id = shown.id
    row.prediction_version, row.prediction_score = shown.model_version, shown.score
    row.prediction_result = shown.result


def _rows_by_id(session: Session, project_id: int, ids: Collection[int]) -> dict[int, Annotation]:
    of_project = select(Annotation).where(Annotation.project_id == project_id)
    of_project = of_project.options(undefer(Annotation.prediction_result))
    return {
        row.id: row
        for chunk in id_chunks(ids)
        for row in session.scalars(of_project.where(Annotation.id.in_(chunk)))
    }


def _deleted_tasks(session: Session, project_id: int, task_ids: Collection[int]) -> set[int]:
    of_project = select(DeletedTask.task_id).where(DeletedTask.project_id == project_id)
    return {
        task_id
        for chunk in id_chunks(task_ids)
        for task_id in session.scalars(of_project.where(DeletedTask.task_id.in_(chunk)))
    }
