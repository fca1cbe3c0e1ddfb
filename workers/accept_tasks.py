"""Makes predictions annotations where cases prove that enough of them are right, and takes them back.

First every open task is predicted, and the scores are found from which on the promise holds. What is to be written
is then stored, before Label Studio is asked for the first annotation: so the events of these annotations are
recognised (`workers/annotations.py`), a killed run goes on with the rest, and nothing is written twice.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from secrets import token_urlsafe
from typing import Any, TypeVar

from sqlalchemy import func, select

from lorabel.curation import whole_answers
from lorabel.curation.proven_precision import Case, Proof, prove
from lorabel.curation.whole_answers import ALL_LABELS
from lorabel.database import acceptances, leases, projects, rules, versions
from lorabel.database.acceptance_tables import AcceptedState, AcceptedTask
from lorabel.database.tables import Acceptance, Annotation, BulkRun, BulkRunKind, RunState, now
from lorabel.errors import LorabelError
from lorabel.inference.prediction import ProjectModel
from lorabel.inference.task_prediction import TaskPrediction
from lorabel.label_studio import annotations
from lorabel.label_studio.records import AnnotatedTask
from lorabel.labeling.regions import Region
from lorabel.problems._choices import ChoicesProblem
from lorabel.problems.base import Problem
from workers import review
from workers.bulk_runs import ConnectedContext, carry_out_connected, is_transient, pause_s
from workers.retries import try_again
from workers.unseen_cases import find_cases, predict_all

T = TypeVar("T")
log = logging.getLogger(__name__)

ORDERED = (
    "the tasks were put into an order (`lorabel order`), so the annotated ones may differ from the open ones, and "
    "the promise does not hold for sure"
)

SKIPPED = (
    "{} times an annotator skipped a task; tasks that have no right answer are among the open ones as well, and "
    "the promise does not count them as wrong"
)


def accept_tasks(run_id: int) -> None:
    """The RQ job: find the scores from which on predictions may be accepted, and write these if asked for."""
    carry_out_connected(run_id, _accept)


def undo(run_id: int) -> None:
    """The RQ job: take back what an acceptance has written, as far as nobody has changed it."""
    carry_out_connected(run_id, _undo)


def _accept(context: ConnectedContext) -> None:
    store, run = context.services.store, context.run
    with store.read() as session:
        acceptance = acceptances.of_run(session, run.id)
    if acceptance.labels is None:
        acceptance = _find_scores(context, acceptance)
    written = _write(context, acceptance) if acceptance.is_written else 0
    if acceptance.review_size is not None:
        log.info(
            "%d predictions of acceptance %d are to be reviewed", review.show(context, acceptance), acceptance.id
        )
    with store.write() as session:
        leases.finish(session, run, RunState.FINISHED, label_studio_s=context.pace.spent_s)
    log.info("acceptance %d of project %d has written %d annotations", acceptance.id, run.project_id, written)


def _find_scores(context: ConnectedContext, acceptance: Acceptance) -> Acceptance:
    """Store what is proved, and what is to be written."""
    problem = whole_answers.acceptable(context.model.bound)
    users = _users(context, acceptance) if acceptance.is_written else {}
    model = context.newest_model()
    found = find_cases(context, model, problem)
    tasks = _open_tasks(context)
    leases.report(context.services.store, context.run, total=len(tasks))
    predictions = predict_all(context, model, tasks)
    leases.report(context.services.store, context.run, done=len(predictions), failed=len(tasks) - len(predictions))
    answers = {task_id: _Answer(problem, predicted, tasks[task_id]) for task_id, predicted in predictions.items()}
    earlier = {task_id: data for task_id, data in _accepted_before(context).items() if task_id not in tasks}
    predicted_now = predict_all(context, model, earlier)
    _check_heads(context, model)
    taken = [_Answer(problem, predicted, earlier[task_id]) for task_id, predicted in predicted_now.items()]
    proofs = _prove(acceptance, found.by_label, list(answers.values()), taken, _labels(problem))
    is_stored = acceptance.is_written or acceptance.review_size is not None
    accepted = {
        task_id: answer
        for task_id, answer in answers.items()
        if is_stored and _is_proved(proofs, answer, is_together=acceptance.is_together)
    }
    sample = review.draw_sample(acceptance, accepted)
    with context.services.store.write() as session:
        leases.update_claimed(session, context.run, heartbeat_at=now())
        row = acceptances.get(session, acceptance.project_id, acceptance.id)
        row.labels = [{"label": label, **asdict(proof), "bound": proof.bound} for label, proof in proofs.items()]
        row.version, row.cases_from = model.version, found.source
        row.warnings = _warnings(context)
        for name, value in users.items():
            setattr(row, name, value)
        session.add_all(
            AcceptedTask(
                acceptance_id=row.id,
                task_id=task_id,
                project_id=row.project_id,
                result=as_annotated(answer.regions),
                score=answer.score,
                is_sampled=task_id in sample,
                state=AcceptedState.PLANNED,
            )
            for task_id, answer in accepted.items()
        )
        session.flush()
        return row


class _Answer:
    """The prediction of an open task, with its label and score; the label is None if nothing is predicted."""

    def __init__(self, problem: Problem, predicted: TaskPrediction, data: dict[str, Any]) -> None:
        self.regions = predicted.regions
        self.label = whole_answers.label_of(problem, predicted.regions, data)
        self.score = whole_answers.score_of(problem, predicted.regions, predicted.score)


def _prove(
    acceptance: Acceptance,
    cases: Mapping[str, Sequence[Case]],
    answers: Sequence[_Answer],
    taken: Sequence[_Answer],
    labels: Sequence[str],
) -> dict[str, Proof]:
    """By label what is proved; under ALL_LABELS if all are taken together.

    Args:
        taken: predictions of tasks that were accepted before, or reviewed.
    """
    precision, confidence = acceptance.precision, acceptance.confidence
    pooled = [case for of_label in cases.values() for case in of_label]
    if acceptance.is_together or labels == [ALL_LABELS]:
        scores, taken_scores = (
            [answer.score for answer in some if answer.label is not None] for some in (answers, taken)
        )
        return {ALL_LABELS: prove(pooled, scores, precision, confidence, taken_scores)}
    proofs = {}
    for label in labels:
        scores, taken_scores = (
            [answer.score for answer in some if answer.label == label] for some in (answers, taken)
        )
        proofs[label] = prove(cases.get(label, []), scores, precision, confidence, taken_scores, pooled)
    return proofs


def _labels(problem: Problem) -> list[str]:
    return [label.value for label in problem.labels] if isinstance(problem, ChoicesProblem) else [ALL_LABELS]


def _is_proved(proofs: Mapping[str, Proof], answer: _Answer, *, is_together: bool) -> bool:
    if answer.label is None:
        return False
    proof = proofs[ALL_LABELS if is_together or ALL_LABELS in proofs else answer.label]
    return proof.score is not None and answer.score >= proof.score


def as_annotated(regions: Sequence[Region]) -> list[Region]:
    """Predicted regions as those of an annotation: without scores, and with ids that no other annotation has.

    Regions that share an id share the new one, too.
    """
    new_ids: dict[Any, str] = {}
    return [
        {
            **{key: value for key, value in region.items() if key != "score"},
            "id": new_ids.setdefault(region.get("id", position), token_urlsafe(9)),
        }
        for position, region in enumerate(regions)
    ]


def _users(context: ConnectedContext, acceptance: Acceptance) -> dict[str, int]:
    """The ids of the user who annotates, and of the one who writes."""
    email = acceptance.user_email or ""
    with context.pace.request():
        user_id = annotations.find_user(context.client, email)
    if user_id is None:
        raise LorabelError(
            f"Label Studio at {context.client.url} has no user {email!r} whom the token may see; add the user to "
            "the organization, or name another with --user"
        )
    with context.pace.request():
        return {"user_id": user_id, "writer_id": annotations.own_id(context.client)}


def _open_tasks(context: ConnectedContext) -> dict[int, dict[str, Any]]:
    """Task id -> data of all tasks that nobody has annotated or skipped."""
    tasks: dict[int, dict[str, Any]] = {}
    cursor, size, project_id = 0, context.services.settings.bulk_page, context.project.label_studio_id

    def read(after: int) -> list[AnnotatedTask]:
        leases.report(context.services.store, context.run)
        with context.pace.request():
            return context.client.tasks_after(project_id, after, only_unlabeled=True, page_size=size).tasks

    while page := _try(context, partial(read, cursor)):
        tasks |= {task.task_id: task.data for task in page if not task.annotations}
        cursor = page[-1].task_id
    return tasks


def _accepted_before(context: ConnectedContext) -> dict[int, dict[str, Any]]:
    """Task id -> data of the tasks that earlier acceptances have annotated, or have had drawn for review."""
    with context.services.store.read() as session:
        written = {row.task_id for row in acceptances.written_of(session, context.project.id)}
        ids = sorted(written | acceptances.sampled_of(session, context.project.id))
    tasks: dict[int, dict[str, Any]] = {}
    size = context.services.settings.bulk_page
    for start in range(0, len(ids), size):

        def read(start: int = start) -> list[AnnotatedTask]:
            leases.report(context.services.store, context.run)
            with context.pace.request():
                return context.client.tasks_of(context.project.label_studio_id, ids[start : start + size])

        tasks |= {task.task_id: task.data for task in _try(context, read)}
    return tasks


def _check_heads(context: ConnectedContext, model: ProjectModel) -> None:
    """Raises LorabelError if the files of the heads are gone, so that some tasks were answered without them."""
    root = context.services.adapter_folders.root
    if not all((root / head.name).is_dir() for head in model.heads.values()):
        raise LorabelError("the heads that answered were replaced while tasks were predicted; try again")


def _warnings(context: ConnectedContext) -> list[str]:
    """What makes the promise doubtful."""
    is_order = BulkRun.kind.in_((BulkRunKind.ORDER, BulkRunKind.ORDER_RENEWAL))
    finished = select(BulkRun.id).where(
        BulkRun.project_id == context.project.id, is_order, BulkRun.state == RunState.FINISHED
    )
    with context.services.store.read() as session:
        warnings = [ORDERED] if session.scalar(finished.limit(1)) is not None else []
        skipped = session.scalar(
            select(func.count(Annotation.id)).where(
                Annotation.project_id == context.project.id, Annotation.was_cancelled
            )
        )
    return [*warnings, *([SKIPPED.format(skipped)] if skipped else [])]


def _write(context: ConnectedContext, acceptance: Acceptance) -> int:
    """Write the planned annotations that are not written yet. Returns how many were written."""
    with context.services.store.read() as session:
        planned = acceptances.tasks_in(session, acceptance.id, AcceptedState.PLANNED)
    return sum(_try(context, partial(_write_one, context, acceptance, row)) for row in planned)


def _check_rules(context: ConnectedContext, acceptance: Acceptance) -> None:
    """Raises LorabelError if the rules that the accepted predictions follow were changed since."""
    with context.services.store.read() as session:
        project = projects.get(session, acceptance.project_id)
    if rules.served_number(project) != versions.rules_number(acceptance.version or ""):
        raise LorabelError(
            f"the rules of project {project.id} were changed since the predictions of acceptance {acceptance.id} "
            "were made; what is not written yet stays unwritten; accept again"
        )


def _write_one(context: ConnectedContext, acceptance: Acceptance, row: AcceptedTask) -> bool:
    """Write an annotation, unless the task has one. Returns whether it was written now."""
    _check_rules(context, acceptance)
    task = _task_of(context, row)
    ours = [
        annotation for annotation in (task.annotations if task else ()) if acceptances.is_work_of(row, annotation)
    ]
    if ours:  # the answer to an earlier request was lost
        _keep(context, row, AcceptedState.WRITTEN, ours[0]["id"])
        return False
    if task is None or task.annotations:
        _keep(context, row, AcceptedState.ANNOTATED if task else AcceptedState.GONE)
        return False
    with context.pace.request():
        annotation_id = annotations.add_annotation(
            context.client, row.task_id, row.result, acceptance.user_id or 0
        )
    _keep(context, row, AcceptedState.WRITTEN, annotation_id)
    return True


def _undo(context: ConnectedContext) -> None:
    store, run = context.services.store, context.run
    with store.read() as session:
        acceptance = acceptances.of_run(session, run.id)
        rows = acceptances.tasks_in(session, acceptance.id, AcceptedState.PLANNED, AcceptedState.WRITTEN)
    if acceptance.review_size is not None:
        review.take_back(context, acceptance)
        rows = []
    else:
        leases.report(store, run, total=len(rows))
    done = skipped = 0
    for row in rows:
        state = _try(context, partial(_take_back, context, row, acceptance.writer_id))
        _keep(context, row, state, row.annotation_id)
        done, skipped = done + (state == AcceptedState.REMOVED), skipped + (state == AcceptedState.CHANGED)
        leases.report(store, run, done=done, skipped=skipped)
    with store.write() as session:
        leases.finish(session, run, RunState.FINISHED, label_studio_s=context.pace.spent_s)


def _take_back(context: ConnectedContext, row: AcceptedTask, writer_id: int | None) -> AcceptedState:
    """Delete an annotation that nobody has changed. Returns what has become of it."""
    task = _task_of(context, row)
    of_row = [
        annotation
        for annotation in (task.annotations if task else ())
        if annotation["id"] == row.annotation_id or acceptances.is_work_of(row, annotation)
    ]
    if not of_row:
        return AcceptedState.GONE
    if not acceptances.is_unchanged(row, of_row[0], writer_id):
        return AcceptedState.CHANGED
    with context.pace.request():
        annotations.delete_annotation(context.client, of_row[0]["id"])
    return AcceptedState.REMOVED


def _task_of(context: ConnectedContext, row: AcceptedTask) -> AnnotatedTask | None:
    """The task as it is in Label Studio now; None if it is gone.

    It is read directly before it is written to, since people go on labeling, and a retry must see what the last
    attempt has done.
    """
    leases.report(context.services.store, context.run, kills=0)
    with context.pace.request():
        tasks = context.client.tasks_of(context.project.label_studio_id, [row.task_id])
    return next(iter(tasks), None)


def _keep(
    context: ConnectedContext, row: AcceptedTask, state: AcceptedState, annotation_id: int | None = None
) -> None:
    with context.services.store.write() as session:
        stored = session.get_one(AcceptedTask, (row.acceptance_id, row.task_id))
        stored.state, stored.annotation_id = state, annotation_id


def _try(context: ConnectedContext, attempt: Callable[[], T]) -> T:
    return try_again(attempt, f"bulk run {context.run.id}", is_transient, pause_s)
