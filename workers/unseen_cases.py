"""Annotated tasks as they are predicted by a model that has not learned from them: what proves a precision.

Which these are depends on what answers now:

- a fitted head: the tasks that it was fitted on are divided into FOLDS parts, and each part is predicted by a head
  that was fitted without it, by the model server, in the way in which the head that answers was fitted. Annotated
  tasks that no head learns from, since there are too many, are predicted by one of these;
- an adapter, with or without a head: only tasks that no run has read yet. A run has trained on the others, or has
  calibrated or chosen the adapter on them;
- the base model alone: all annotated tasks.

Tasks of which a review has drawn a sample are no cases: they were drawn from what the model was surest of.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from uuid import uuid4

from sqlalchemy import select
from threadpoolctl import threadpool_limits

from lorabel.curation import whole_answers
from lorabel.curation.proven_precision import Case
from lorabel.database import acceptances, project_heads, versions
from lorabel.database.adapter_folders import HEAD_FILE, heads_folder, tag_folder
from lorabel.database.store import id_chunks
from lorabel.database.tables import Annotation, ModelVersion
from lorabel.errors import LorabelError, ModelServerError
from lorabel.families.encoders.heads.fit import fit_head
from lorabel.inference import prediction
from lorabel.inference.prediction import Head, ProjectModel
from lorabel.inference.task_prediction import TaskPrediction
from lorabel.problems.base import Problem
from workers.annotated_tasks import AnnotatedTask, AnnotatedTasks
from workers.bulk_runs import BulkRunContext, try_model_server
from workers.examples import TrainingExample, make_examples
from workers.feature_collection import Collected, collect_features

FOLDS = 10
# The newest annotations are read; heads learn from fewer.
MOST_ANNOTATIONS = 10_000
MOST_NUMBERS_TRIED = 100


@dataclass(frozen=True)
class UnseenCases:
    """The cases of a project.

    Attributes:
        by_label: the label that was predicted -> its cases.
        source: how they were got, a sentence.
    """

    by_label: dict[str, list[Case]]
    source: str


@dataclass(frozen=True)
class _Annotated:
    example: TrainingExample
    data: dict[str, Any]


def find_cases(context: BulkRunContext, model: ProjectModel, problem: Problem) -> UnseenCases:
    """Predict annotated tasks by models that have not learned from them.

    Args:
        model: what answers now.

    Raises:
        LorabelError: heads are being fitted for a new version.
        ModelServerError: the model server did not answer, in several attempts.
    """
    annotated = _read_annotated(context, problem)
    tag = problem.from_name
    head, adapter = model.heads.get(tag), model.adapters.get(tag)
    if head is not None:
        adapter = head.adapter
    new = annotated if adapter is None else _new_to(context, adapter, annotated)
    if head is None:
        predictions = predict_all(context, model, {task_id: each.data for task_id, each in new.items()})
        what = "the base model" if adapter is None else f"adapter {adapter}"
        which = "no run has trained anything" if adapter is None else "no run has read yet"
        source = f"{len(new)} annotated tasks, predicted by {what}; all of them are tasks that {which}"
        if adapter is None:
            source = f"{len(new)} annotated tasks, predicted by the base model, which has learned from none"
        return UnseenCases(_cases(problem, new, predictions), source)
    predictions = _cross_validated(context, model, problem, head, new)
    source = (
        f"{len(predictions)} annotated tasks, each predicted by a head that was fitted without it ({FOLDS} folds)"
    )
    if adapter is not None:
        source += f"; tasks that adapter {adapter} may have learned from are left out"
    return UnseenCases(_cases(problem, new, predictions), source)


def predict_all(
    context: BulkRunContext,
    model: ProjectModel,
    tasks: Mapping[int, dict[str, Any]],
) -> dict[int, TaskPrediction]:
    """Predict tasks, page by page. Tasks that cannot be read are left out.

    Args:
        tasks: task id -> its data.

    Raises:
        ModelServerError: the model server did not get to every task in several attempts.
    """
    size, answers, ids = context.services.settings.bulk_page, dict[int, TaskPrediction](), sorted(tasks)
    for start in range(0, len(ids), size):
        page = ids[start : start + size]

        def attempt(page: Sequence[int] = page) -> None:
            left = [task_id for task_id in page if task_id not in answers]
            data = [dict(tasks[task_id]) for task_id in left]
            predicted = prediction.predict(model, data, context.resolver(), context.caller())
            for task_id, answer in zip(left, predicted, strict=True):
                if answer.unreadable is None or not answer.unreadable.is_late:
                    answers[task_id] = answer
            if any(task_id not in answers for task_id in page):
                raise ModelServerError("the model server did not get to every task of a page")

        try_model_server(context, attempt)
    return {task_id: answer for task_id, answer in answers.items() if answer.unreadable is None}


def _read_annotated(context: BulkRunContext, problem: Problem) -> dict[int, _Annotated]:
    """Task id -> what its annotators say, with the newest data of the task; without the tasks of reviews."""
    project = context.project
    usable = select(Annotation).where(*project_heads.usable_annotations(project))
    newest = usable.order_by(Annotation.updated_at.desc(), Annotation.id.desc()).limit(MOST_ANNOTATIONS)
    with context.services.store.read() as session:
        rows = list(session.scalars(newest))
        sampled = acceptances.sampled_of(session, project.id)
    data = {
        row.task_id: row.task_data for row in sorted(rows, key=lambda row: row.id) if row.task_data is not None
    }
    settings, renames = context.services.settings, project.renamed_labels or {}
    examples, _ = make_examples(problem, context.model.bound.config, rows, settings, renames)
    return {
        example.task_id: _Annotated(example, data[example.task_id])
        for example in examples
        if example.task_id in data and example.task_id not in sampled
    }


def _new_to(context: BulkRunContext, adapter: str, annotated: Mapping[int, _Annotated]) -> dict[int, _Annotated]:
    """The annotated tasks that no run had read when the adapter was made, nor any run after it."""
    _, number = versions.parse_name(adapter.partition("/")[0])
    ids = sorted(annotation_id for each in annotated.values() for annotation_id in each.example.annotation_ids)
    project_id, new = context.project.id, set[int]()
    with context.services.store.read() as session:
        made_at = versions.get(session, project_id, number).created_at
        of_project = select(ModelVersion.trained_on).where(ModelVersion.project_id == project_id)
        trained_on = {annotation_id for of_version in session.scalars(of_project) for annotation_id in of_version}
        for chunk in id_chunks(ids):
            is_new = (Annotation.run_id.is_(None), Annotation.received_at > made_at, Annotation.times_applied == 1)
            of_chunk = select(Annotation.id).where(Annotation.project_id == project_id, Annotation.id.in_(chunk))
            new |= set(session.scalars(of_chunk.where(*is_new))) - trained_on
    return {task_id: each for task_id, each in annotated.items() if set(each.example.annotation_ids) <= new}


def _cases(
    problem: Problem, annotated: Mapping[int, _Annotated], predictions: Mapping[int, TaskPrediction]
) -> dict[str, list[Case]]:
    cases: dict[str, list[Case]] = {}
    for task_id, predicted in sorted(predictions.items()):
        of_task = annotated[task_id]
        label = whole_answers.label_of(problem, predicted.regions, of_task.data)
        right = whole_answers.is_right(problem, predicted.regions, of_task.data, of_task.example.target)
        if label is not None and right is not None:
            score = whole_answers.score_of(problem, predicted.regions, predicted.score)
            cases.setdefault(label, []).append(Case(score, right))
    return cases


def _cross_validated(
    context: BulkRunContext, model: ProjectModel, problem: Problem, head: Head, cases: Mapping[int, _Annotated]
) -> dict[int, TaskPrediction]:
    """Task id -> its prediction by a head that was fitted without it.

    Raises:
        LorabelError: the head that answers is of another adapter than the one that heads are fitted with now, or
            the heads were removed while they were used.
    """
    collected = _collect(context, problem, head)
    task_ids = {each.example.annotation_ids: task_id for task_id, each in cases.items()}
    folds = make_folds(collected.tasks, FOLDS)
    predictions: dict[int, TaskPrediction] = {}
    with _fold_heads(context, collected, folds) as names:
        for fold, name in zip(folds, names, strict=True):
            tested = [task_ids.get(collected.tasks[index].annotation_ids) for index in fold]
            data = {task_id: cases[task_id].data for task_id in tested if task_id is not None}
            predictions |= predict_all(context, _with_head(model, problem, head, name), data)
        # Heads learn from as many tasks of each class. No fold head has learned from the others, and without them
        # the cases would have rare classes more often than the open tasks.
        in_folds = {task.annotation_ids for task in collected.tasks}
        left = {
            task_id: each.data for task_id, each in cases.items() if each.example.annotation_ids not in in_folds
        }
        fitted = next((name for name in names if name is not None), None)
        predictions |= predict_all(context, _with_head(model, problem, head, fitted), left)
    return predictions


def make_folds(tasks: Sequence[AnnotatedTask], count: int) -> list[list[int]]:
    """Divide tasks into parts of equal size, as far as tasks with the same contents stay together.

    Returns:
        Indices of the tasks of each part, which has every `count`-th task by their ids.
    """
    groups: dict[bytes, list[int]] = {}
    for index, task in enumerate(tasks):
        assert task.example is not None
        groups.setdefault(task.example.features.tobytes(), []).append(index)
    folds: list[list[int]] = [[] for _ in range(count)]
    for position, group in enumerate(groups.values()):
        folds[position % count] += group
    return [fold for fold in folds if fold]


def _collect(context: BulkRunContext, problem: Problem, head: Head) -> Collected:
    services = context.services
    with services.store.read() as session:
        adapters = versions.adapters_beside_head(session, context.project, context.project.live_number)
        if adapters.get(problem.from_name) != head.adapter:
            raise LorabelError(
                f"heads of project {context.project.id} are being fitted for its new version; try again soon"
            )
        annotated = AnnotatedTasks(context.project.label_config or "", adapters)
        annotated.update(session, context.project, context.model.bound, services.settings)
    return collect_features(services, context.project, problem, annotated)


def _with_head(model: ProjectModel, problem: Problem, head: Head, name: str | None) -> ProjectModel:
    """The model with another head for a control tag; None for a fold whose rest says nothing yet."""
    others = {tag: other for tag, other in model.heads.items() if tag != problem.from_name}
    if name is None:
        return replace(model, heads=others)
    return replace(model, heads={**others, problem.from_name: head._replace(name=name)})


@contextmanager
def _fold_heads(
    context: BulkRunContext, collected: Collected, folds: Sequence[Sequence[int]]
) -> Iterator[list[str | None]]:
    """Fit a head for each fold, without its tasks, and write it where the model server finds it.

    The names are in no other folder, since the model server remembers heads by their names.
    """
    folders, project_id, mark = context.services.adapter_folders, context.project.id, uuid4().hex
    files = [_fit_without(collected, fold) for fold in folds]
    tags = [tag_folder(f"fold {number} {mark}") for number in range(len(folds))]

    def write_into(folder: Path) -> None:
        for tag, file in zip(tags, files, strict=True):
            if file is not None:
                (folder / tag).mkdir()
                (folder / tag / HEAD_FILE).write_bytes(file)

    name = _write_under_free_number(context, write_into)
    try:
        yield [None if file is None else f"{name}/{tag}" for tag, file in zip(tags, files, strict=True)]
        if not (folders.root / name).is_dir():
            raise LorabelError(f"heads of project {project_id} were removed while they were used; try again")
    finally:
        folders.remove(name)


def _fit_without(collected: Collected, fold: Sequence[int]) -> bytes | None:
    left_out = set(fold)
    rest = [task.example for index, task in enumerate(collected.tasks) if index not in left_out]
    with threadpool_limits(1, user_api="blas"):
        head = fit_head([example for example in rest if example is not None], collected.space)
    return None if head is None else head.to_bytes()


def _write_under_free_number(context: BulkRunContext, write_into: Callable[[Path], None]) -> str:
    folders, project = context.services.adapter_folders, context.project
    first = max([project.head_number, *folders.head_numbers(project.id)], default=0) + 1
    for number in range(first, first + MOST_NUMBERS_TRIED):
        try:
            folders.write(heads_folder(project.id, number), write_into)
        except FileExistsError:
            continue  # the light worker has just written heads
        return heads_folder(project.id, number)
    raise FileExistsError(f"no number is free for heads of project {project.id} from {first} on")
