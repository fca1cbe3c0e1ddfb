"""Looks for annotations of a project that are probably wrong, and stores the result.

The vectors of the annotated tasks are stored page by page, where search finds them, too. So a run that was killed,
or let another run go first, has only the rest computed. A run reads at most MOST_ANNOTATIONS annotations. It holds
one page of tasks, and a vector for each task, in memory. Storing the vectors may take as long as the model server
needs. After that no check begins that would be later than CHECK_LIMIT_S; the longest check takes a few minutes.
"""

import logging
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from time import monotonic

from sqlalchemy import select
from sqlalchemy.orm import Session

from lorabel.contracts import EmbedInput, Modality
from lorabel.curation import label_errors
from lorabel.curation.label_errors import AnnotatedAnswer, LabelErrors
from lorabel.database import bulk_runs, label_error_reports, leases, projects, task_embeddings
from lorabel.database.store import id_chunks
from lorabel.database.tables import Annotation, RunState
from lorabel.database.task_embeddings import TaskVector
from lorabel.errors import ModelServerError, UnreadableError
from lorabel.inference.requests import Unreadable
from lorabel.search import embeddings
from lorabel.search.embeddings import in_space, most_common_space
from workers.bulk_runs import MOST_FAILURES_NAMED, BulkRunContext, carry_out, failure, try_model_server

log = logging.getLogger(__name__)

# The newest annotations. With 300 labels and 512 dimensions, their check takes 14 s and 250 MB in all.
MOST_ANNOTATIONS = 5000
CHECK_LIMIT_S = 600.0


@dataclass
class AnnotatedTasks:
    """What the pages that were read so far have brought.

    Args:
        answers: from_name -> the labels that annotations give.
        vectors: task id -> the task's vector.
        failures: task id -> why the task has no vector.
        spaces: the space of the vectors that the base models compute now, by the modalities of the question.
    """

    answers: dict[str, list[AnnotatedAnswer]] = field(default_factory=lambda: defaultdict(list))
    vectors: dict[int, TaskVector] = field(default_factory=dict)
    failures: dict[int, str] = field(default_factory=dict)
    spaces: dict[frozenset[Modality], str] = field(default_factory=dict)


def find_label_errors(run_id: int) -> None:
    """The RQ job: look for label errors and store them in the database."""
    carry_out(run_id, _find)


def _find(context: BulkRunContext) -> None:
    tasks = _read_tasks(context)
    if tasks is None:
        return
    space = most_common_space(list(tasks.vectors.values()))
    arrays = in_space(list(tasks.vectors.values()), space)
    vectors = {task_id: array for task_id, array in zip(tasks.vectors, arrays, strict=True) if array is not None}
    began_at = monotonic()

    def has_time() -> bool:
        leases.report(context.services.store, context.run)
        return monotonic() - began_at < CHECK_LIMIT_S

    errors = label_errors.find(tasks.answers, vectors, context.services.settings.seed, has_time)
    _store(context, errors, compared=len(vectors), not_compared=len(arrays) - len(vectors))


def _store(context: BulkRunContext, errors: LabelErrors, *, compared: int, not_compared: int) -> None:
    """Store the result and end the run, in one transaction. Annotations deleted meanwhile are left out."""
    run = context.run
    with context.services.store.write() as session:
        leases.finish(session, run, RunState.FINISHED, done=compared, skipped=not_compared)
        known_ids = _not_deleted(session, run.project_id, {error.annotation_id for error in errors.errors})
        known = [asdict(error) for error in errors.errors if error.annotation_id in known_ids]
        label_error_reports.write(session, run, errors.checked, known, errors.left_out)
    log.info("project %d: %d of %d annotations are probably wrong", run.project_id, len(known), errors.checked)


def _not_deleted(session: Session, project_id: int, annotation_ids: Collection[int]) -> set[int]:
    is_known = (Annotation.project_id == project_id, Annotation.is_deleted.is_(False))
    return {
        annotation_id
        for chunk in id_chunks(sorted(annotation_ids))
        for annotation_id in session.scalars(select(Annotation.id).where(*is_known, Annotation.id.in_(chunk)))
    }


def _read_tasks(context: BulkRunContext) -> AnnotatedTasks | None:
    """Annotations and vectors of all annotated tasks; None if the turn was given to another run."""
    store, run, size = context.services.store, context.run, context.services.settings.bulk_page
    annotation_ids = _newest_annotations(context)
    task_ids = sorted(annotation_ids)
    tasks, cursor = AnnotatedTasks(), run.cursor
    leases.report(store, run, total=len(task_ids))
    for start in range(0, len(task_ids), size):
        page_ids = task_ids[start : start + size]
        _read_page(
            context, tasks, [annotation_id for task_id in page_ids for annotation_id in annotation_ids[task_id]]
        )
        failures = [failure(*task_and_reason) for task_and_reason in sorted(tasks.failures.items())]
        counts = {"done": len(tasks.vectors), "failed": len(failures), "failures": failures[:MOST_FAILURES_NAMED]}
        if page_ids[-1] <= cursor:
            # An earlier turn has stored this page, so it does not show that the run gets on.
            leases.report(store, run, **counts)
            continue
        cursor = page_ids[-1]
        leases.report(store, run, cursor=cursor, kills=0, **counts)
        if context.is_turn_over():
            bulk_runs.release(store, run)
            return None
    return tasks


def _newest_annotations(context: BulkRunContext) -> dict[int, list[int]]:
    """Task id -> ids of its annotations that are neither deleted nor skipped, of the newest MOST_ANNOTATIONS."""
    newest = (
        select(Annotation.task_id, Annotation.id)
        .where(
            Annotation.project_id == context.run.project_id,
            Annotation.is_deleted.is_(False),
            Annotation.was_cancelled.is_(False),
            Annotation.task_id.is_not(None),
        )
        .order_by(Annotation.received_at.desc(), Annotation.id.desc())
        .limit(MOST_ANNOTATIONS)
    )
    annotation_ids: dict[int, list[int]] = defaultdict(list)
    with context.services.store.read() as session:
        for task_id, annotation_id in session.execute(newest):
            annotation_ids[task_id or 0].append(annotation_id)
    return annotation_ids


def _read_page(context: BulkRunContext, tasks: AnnotatedTasks, annotation_ids: Sequence[int]) -> None:
    """Add the answers, vectors and failures of the tasks of some annotations."""
    annotations: list[Annotation] = []
    with context.services.store.read() as session:
        renames = projects.get(session, context.run.project_id).renamed_labels or {}
        for chunk in id_chunks(annotation_ids):
            of_page = (Annotation.project_id == context.run.project_id, Annotation.id.in_(chunk))
            annotations += session.scalars(select(Annotation).where(*of_page).order_by(Annotation.id))
    annotations = [annotation for annotation in annotations if annotation.task_data is not None]
    for problem in context.model.bound.bindings:
        tasks.answers[problem.from_name] += label_errors.annotated_answers(problem, annotations, renames)
    questions: dict[int, EmbedInput] = {}
    # The data that came with the newest annotation of a task counts.
    data_by_task = {annotation.task_id or 0: annotation.task_data or {} for annotation in annotations}
    for task_id, data in data_by_task.items():
        try:
            questions[task_id] = embeddings.question(context.model.bound, data)
        except UnreadableError as error:
            tasks.failures[task_id] = str(error)
    for task_id, answer in _embed_page(context, questions, tasks.spaces).items():
        if isinstance(answer, TaskVector):
            tasks.vectors[task_id] = answer
        else:
            tasks.failures[task_id] = answer.reason


def _embed_page(
    context: BulkRunContext, questions: Mapping[int, EmbedInput], spaces: dict[frozenset[Modality], str]
) -> dict[int, TaskVector | Unreadable]:
    """A vector per task: the stored one if contents and base model are the same as then, else a new one."""
    answers: dict[int, TaskVector | Unreadable] = {}
    for task_id, question in questions.items():
        # Until one vector tells the space, embed tasks that have one too: the base model may have changed.
        if question.modalities not in spaces:
            answers |= _embed(context, {task_id: question})
            if isinstance(answer := answers[task_id], TaskVector):
                spaces[question.modalities] = answer.space
    left = {task_id: question for task_id, question in questions.items() if task_id not in answers}
    with context.services.store.read() as session:
        stored = task_embeddings.read(session, context.run.project_id, left)
    for task_id, row in stored.items():
        question = left[task_id]
        if (row.contents, row.space) == (task_embeddings.contents_digest(question), spaces[question.modalities]):
            answers[task_id] = TaskVector(row.space, row.vector)
    left = {task_id: question for task_id, question in left.items() if task_id not in answers}
    return answers | _embed(context, left)


def _embed(context: BulkRunContext, questions: Mapping[int, EmbedInput]) -> dict[int, TaskVector | Unreadable]:
    """Have vectors computed and stored.

    Raises:
        ModelServerError: the model server did not get to every task in any of several attempts.
    """
    answers: dict[int, TaskVector | Unreadable] = {}

    def attempt() -> None:
        left = {task_id: question for task_id, question in questions.items() if task_id not in answers}
        new = embeddings.keep(context.services.store, context.caller(), left, context.resolver())
        late = [answer for answer in new.values() if isinstance(answer, Unreadable) and answer.is_late]
        answers.update({task_id: answer for task_id, answer in new.items() if answer not in late})
        if late:
            raise ModelServerError(late[0].reason)

    if questions:
        try_model_server(context, attempt)
    return answers
