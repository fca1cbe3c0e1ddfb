"""Rows of acceptances: requested, undone, and which annotations are theirs. See `workers/accept_tasks.py`."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from lorabel.database import projects
from lorabel.database.acceptance_tables import AcceptedState, AcceptedTask
from lorabel.database.store import Store, id_chunks
from lorabel.database.tables import Acceptance, BulkRun, BulkRunKind, RunState
from lorabel.errors import ConflictError, NotFoundError
from lorabel.labeling.results import is_same_result

KINDS = (BulkRunKind.ACCEPTANCE, BulkRunKind.ACCEPTANCE_UNDO)
ACTIVE = (RunState.QUEUED, RunState.RUNNING)


def request(
    store: Store,
    project_id: int,
    reason: str,
    *,
    precision: float,
    confidence: float,
    is_together: bool,
    user_email: str | None,
    review_size: int | None = None,
) -> tuple[Acceptance, BulkRun]:
    """Add an acceptance with its queued bulk run.

    Args:
        user_email: of the user whose annotations the accepted predictions become; None if none is to be written.
        review_size: of a random sample that people are to review, which makes predictions and no annotations;
            0 for as many as prove the promise if none is wrong. None without a review.

    Raises:
        NotFoundError: no such project.
        ConflictError: another acceptance of the project is queued or running.
    """
    with store.write() as session:
        projects.get(session, project_id, is_locked=True)
        run = _add_run(session, project_id, BulkRunKind.ACCEPTANCE, reason)
        acceptance = Acceptance(
            project_id=project_id,
            run_id=run.id,
            precision=precision,
            confidence=confidence,
            is_together=is_together,
            is_written=user_email is not None,
            user_email=user_email,
            review_size=review_size,
        )
        session.add(acceptance)
        session.flush()
        return acceptance, run


def request_undo(store: Store, project_id: int, acceptance_id: int, reason: str) -> tuple[Acceptance, BulkRun]:
    """Add a queued bulk run that takes back what an acceptance has written.

    Raises:
        NotFoundError: no such acceptance.
        ConflictError: it has written nothing, or an acceptance of the project is queued or running.
    """
    with store.write() as session:
        projects.get(session, project_id, is_locked=True)
        acceptance = get(session, project_id, acceptance_id)
        if not acceptance.is_written and acceptance.review_size is None:
            raise ConflictError(f"acceptance {acceptance_id} of project {project_id} has written nothing")
        run = _add_run(session, project_id, BulkRunKind.ACCEPTANCE_UNDO, reason)
        acceptance.undo_run_id = run.id
        return acceptance, run


def _add_run(session: Session, project_id: int, kind: BulkRunKind, reason: str) -> BulkRun:
    active = select(BulkRun.id).where(
        BulkRun.project_id == project_id, BulkRun.kind.in_(KINDS), BulkRun.state.in_(ACTIVE)
    )
    if (other := session.scalar(active.limit(1))) is not None:
        raise ConflictError(
            f"bulk run {other} accepts or undoes in project {project_id}; wait for it or cancel it"
        )
    run = BulkRun(project_id=project_id, state=RunState.QUEUED, kind=kind, reason=reason, only_unlabeled=True)
    session.add(run)
    session.flush()
    return run


def get(session: Session, project_id: int, acceptance_id: int) -> Acceptance:
    """Raises NotFoundError if the project has no such acceptance."""
    acceptance = session.get(Acceptance, acceptance_id)
    if acceptance is None or acceptance.project_id != project_id:
        raise NotFoundError(f"project {project_id} has no acceptance {acceptance_id}")
    return acceptance


def of_run(session: Session, run_id: int) -> Acceptance:
    """The acceptance that a bulk run makes or undoes."""
    is_of_run = (Acceptance.run_id == run_id) | (Acceptance.undo_run_id == run_id)
    return session.scalars(select(Acceptance).where(is_of_run)).one()


def list_of(session: Session, project_id: int) -> list[Acceptance]:
    """All acceptances of a project, the newest first."""
    of_project = select(Acceptance).where(Acceptance.project_id == project_id)
    return list(session.scalars(of_project.order_by(Acceptance.id.desc())))


def tasks_in(session: Session, acceptance_id: int, *states: AcceptedState) -> list[AcceptedTask]:
    """The tasks of an acceptance that are in one of the states, by their ids."""
    of_acceptance = select(AcceptedTask).where(
        AcceptedTask.acceptance_id == acceptance_id, AcceptedTask.state.in_(states)
    )
    return list(session.scalars(of_acceptance.order_by(AcceptedTask.task_id)))


def sample_in(session: Session, acceptance_id: int, *states: AcceptedState) -> list[AcceptedTask]:
    """The tasks of an acceptance that were drawn for review, and are in one of the states, by their ids."""
    sampled = select(AcceptedTask).where(
        AcceptedTask.acceptance_id == acceptance_id, AcceptedTask.is_sampled, AcceptedTask.state.in_(states)
    )
    return list(session.scalars(sampled.order_by(AcceptedTask.task_id)))


def written_of(session: Session, project_id: int) -> list[AcceptedTask]:
    """The tasks whose annotations all acceptances of a project have written, and nobody has changed."""
    of_project = select(AcceptedTask).where(
        AcceptedTask.project_id == project_id, AcceptedTask.state == AcceptedState.WRITTEN
    )
    return list(session.scalars(of_project.order_by(AcceptedTask.task_id)))


def sampled_of(session: Session, project_id: int) -> set[int]:
    """The ids of the tasks that the reviews of a project have drawn, and shown to people."""
    is_shown = AcceptedTask.state.in_((AcceptedState.SHOWN, AcceptedState.REMOVED))
    of_project = select(AcceptedTask.task_id).where(
        AcceptedTask.project_id == project_id, AcceptedTask.is_sampled, is_shown
    )
    return set(session.scalars(of_project))


def count_states(session: Session, acceptance_id: int) -> dict[str, int]:
    """By state how many tasks of an acceptance are in it."""
    return count_states_of(session, [acceptance_id])[acceptance_id]


def count_states_of(session: Session, acceptance_ids: Sequence[int]) -> dict[int, dict[str, int]]:
    """As `count_states`, by the id of each acceptance."""
    counts = select(AcceptedTask.acceptance_id, AcceptedTask.state, func.count()).where(
        AcceptedTask.acceptance_id.in_(acceptance_ids)
    )
    states: dict[int, dict[str, int]] = {acceptance_id: {} for acceptance_id in acceptance_ids}
    rows = counts.group_by(AcceptedTask.acceptance_id, AcceptedTask.state).order_by(AcceptedTask.state)
    for acceptance_id, state, count in session.execute(rows):
        states[acceptance_id][state] = count
    return states


def find_accepted(session: Session, project_id: int, task_ids: Collection[int]) -> list[AcceptedTask]:
    """The tasks of a project, among some tasks, that acceptances have annotated, or are about to.

    A task is accepted several times if that was undone. A prediction for review becomes a person's annotation.
    """
    is_annotated = (AcceptedTask.acceptance_id == Acceptance.id, Acceptance.review_size.is_(None))
    of_project = select(AcceptedTask).where(AcceptedTask.project_id == project_id, *is_annotated)
    return [
        row
        for chunk in id_chunks(sorted(task_ids))
        for row in session.scalars(of_project.where(AcceptedTask.task_id.in_(chunk)))
    ]


def annotation_ids_among(session: Session, project_id: int, annotation_ids: Collection[int]) -> set[int]:
    """Those of some annotations that acceptances of a project have written."""
    of_project = select(AcceptedTask.annotation_id).where(AcceptedTask.project_id == project_id)
    return {
        annotation_id
        for chunk in id_chunks(sorted(annotation_ids))
        for annotation_id in session.scalars(of_project.where(AcceptedTask.annotation_id.in_(chunk)))
        if annotation_id is not None
    }


def is_work_of(accepted: AcceptedTask, annotation: Mapping[str, Any]) -> bool:
    """Whether an annotation came from an acceptance, whatever people have made of it since."""
    result = annotation.get("result")
    return isinstance(result, list) and bool(_ids(accepted.result) & _ids(result))


def is_unchanged(accepted: AcceptedTask, annotation: Mapping[str, Any], writer_id: int | None) -> bool:
    """Whether an annotation is as the acceptance has written it.

    An annotation that somebody else has saved, or that was made a ground truth, is changed even if it says the
    same: a person has looked at it.

    Args:
        annotation: as an event or Label Studio's API has it.
        writer_id: id of the user whose token has written it; None if that is not known.
    """
    result, saved_by = annotation.get("result"), annotation.get("updated_by")
    saved_by = saved_by.get("id") if isinstance(saved_by, dict) else saved_by
    if not isinstance(result, list) or _ids(result) != _ids(accepted.result):
        return False
    is_by_writer = saved_by is None or writer_id is None or saved_by == writer_id
    is_marked = bool(annotation.get("was_cancelled") or annotation.get("ground_truth"))
    return is_by_writer and not is_marked and is_same_result(accepted.result, result)


def _ids(result: list[Any]) -> set[str]:
    return {region["id"] for region in result if isinstance(region, dict) and isinstance(region.get("id"), str)}
