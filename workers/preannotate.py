"""Predicts many tasks and writes the predictions to Label Studio, a page at a time, by task id.

A page can be repeated: tasks that have a prediction of this version in Label Studio, by heads that are not older
than the run (`is_current`) and the rules of now, are left out, except those that could not be read before, since
their data may have been corrected. So nothing is written twice if a worker was killed, an answer was lost or a
part of the page had to wait; the cursor, written after each page, only saves requests. (Label Studio itself
allows several predictions of a version: an annotator who opens a task between the reading and the writing of its
page causes a second, equal prediction.)

Predictions by older heads and earlier rules do not pile up: those that nobody needs are deleted
(`_superseded_ids`).
"""

import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from itertools import islice, pairwise
from typing import Any

from lorabel.database import bulk_runs, leases, rule_effects
from lorabel.database.tables import RunState, now
from lorabel.database.versions import is_current, with_rules_of, without_heads
from lorabel.inference import prediction, unreadable_tasks
from lorabel.inference.begun import is_begun_since, results_of_tasks
from lorabel.inference.prediction import ProjectModel
from lorabel.inference.requests import Unreadable
from lorabel.inference.task_prediction import TaskPrediction
from lorabel.label_studio.records import AnnotatedTask, NewPrediction
from lorabel.labeling.regions import Region
from lorabel.search import embeddings
from lorabel.search.embeddings import Resolve
from workers.bulk_runs import (
    ConnectedContext,
    IncompletePageError,
    Progress,
    carry_out_connected,
    failure,
    is_transient,
    pause_s,
)
from workers.retries import try_again

log = logging.getLogger(__name__)

# So long a task may be open with a prediction that is no longer the newest.
OPEN_S = 3600.0
EMBEDDINGS_TIMEOUT_S = 10.0
# Predictions that are explained before they are written: each may take EXPLAIN_MAX_S.
EXPLAINED_TOGETHER = 10


def preannotate(run_id: int) -> None:
    """The RQ job: predict the run's tasks and write the predictions to Label Studio."""
    carry_out_connected(run_id, _predict_pages)


@dataclass(frozen=True)
class Page:
    """Tasks to predict together.

    Args:
        missing_ids: tasks that were asked for by id and do not exist.
        last_id: the largest task id of the page.
        total: number of tasks from this page to the end of the run.
    """

    tasks: list[AnnotatedTask]
    missing_ids: list[int]
    last_id: int
    total: int


@dataclass
class Outcome:
    """What became of a page's tasks so far, over all attempts.

    Args:
        written_ids: tasks whose prediction is in Label Studio.
        unreadable: task id -> why the task cannot be read, or None if it was read.
    """

    written_ids: set[int] = field(default_factory=set)
    unreadable: dict[int, Unreadable | None] = field(default_factory=dict)


def _predict_pages(context: ConnectedContext) -> None:
    """Predict page after page. After TURN_S, give the turn to another run if one waits."""
    services, run = context.services, context.run
    progress = Progress.of(run)
    while True:
        after_page = _predict_page(context, progress)
        if after_page is None:
            break
        progress = after_page
        leases.report(services.store, run, kills=0, label_studio_s=context.pace.spent_s, **asdict(progress))
        if context.is_turn_over():
            bulk_runs.release(services.store, run)
            return
    with services.store.write() as session:
        leases.finish(session, run, RunState.FINISHED, label_studio_s=context.pace.spent_s)
    log.info(
        "bulk run %d of project %d: %d done with %s, %d skipped, %d failed",
        run.id,
        run.project_id,
        progress.done,
        context.model.version,
        progress.skipped,
        progress.failed,
    )


def _predict_page(context: ConnectedContext, progress: Progress) -> Progress | None:
    """Predict the next page, and try again until Label Studio has all of it.

    Returns:
        The progress after the page, or None if there is no further page.

    Raises:
        LabelStudioError, ModelServerError: refused for good, or several attempts in a row wrote nothing.
    """
    outcome = Outcome()

    def attempt() -> Progress | None:
        leases.report(context.services.store, context.run)
        page = _read_page(context, progress.cursor)
        if page is None:
            return None
        if not _predict_missing(context, page, outcome):
            raise IncompletePageError("the model server did not get to every task of a page")
        _note_unreadable(context, outcome)
        return _progress_after(progress, page, outcome)

    name = f"a page of bulk run {context.run.id}"
    return try_again(attempt, name, is_transient, pause_s, count_done=lambda: len(outcome.written_ids))


def _read_page(context: ConnectedContext, cursor: int) -> Page | None:
    """The next tasks after the cursor, or None if there are none."""
    run, size = context.run, context.services.settings.bulk_page
    if run.task_ids is None:
        with context.pace.request():
            task_page = context.client.tasks_after(
                context.project.label_studio_id, cursor, only_unlabeled=run.only_unlabeled, page_size=size
            )
        tasks = task_page.tasks
        return Page(tasks, [], tasks[-1].task_id, task_page.total) if tasks else None
    left_ids = [task_id for task_id in run.task_ids if task_id > cursor]
    if not left_ids:
        return None
    page_ids = left_ids[:size]
    with context.pace.request():
        tasks = context.client.tasks_of(context.project.label_studio_id, page_ids)
    missing_ids = set(page_ids) - {task.task_id for task in tasks}
    return Page(tasks, sorted(missing_ids), page_ids[-1], len(left_ids))


def _predict_missing(context: ConnectedContext, page: Page, outcome: Outcome) -> bool:
    """Predict the tasks that lack a prediction in Label Studio, and write what is final.

    Returns:
        Whether the page is complete.
    """
    model = context.newest_model()
    # Heads may be newer than at the run's start, so that nothing is written twice. Rules that change are followed
    # at once, so only what follows these is done.
    wanted = with_rules_of(context.model.version, model.version)
    unread_ids = _known_unreadable(context) - outcome.written_ids
    tasks = [
        task
        for task in page.tasks
        if task.task_id in unread_ids
        or (task.task_id not in outcome.written_ids and not _is_up_to_date(context, task, wanted))
    ]
    if not tasks:
        return True
    resolve = context.resolver()
    annotated = results_of_tasks(model, [task.annotations for task in tasks])
    data = [task.data for task in tasks]
    predictions = prediction.predict(model, data, resolve, context.caller(), annotated)
    by_task = {task.task_id: predicted for task, predicted in zip(tasks, predictions, strict=True)}
    final = {task_id: predicted for task_id, predicted in by_task.items() if predicted.is_final}
    old_ids = {task.task_id: _current_ids(task, wanted) for task in tasks}
    # Who still cannot be read keeps the empty prediction.
    new = {task_id: row for task_id, row in final.items() if row.unreadable is None or not old_ids[task_id]}
    redactor = context.services.redactor
    outcome.unreadable |= {
        task.task_id: unreadable_tasks.masked(by_task[task.task_id].unreadable, redactor, task.data)
        for task in tasks
    }
    for some in _written_together(context, model, new):
        explanations = _explanations(context, model, tasks, some)
        _write(context, some, model.version, explanations)
        removals = {task_id: predicted.removals for task_id, predicted in some.items()}
        rule_effects.write(context.services.store, redactor, context.project.id, model.version, removals)
        for task in tasks:
            if task.task_id in some:
                _delete(context, [*old_ids[task.task_id], *_superseded_ids(task, wanted)])
        outcome.written_ids |= some.keys()
    outcome.written_ids |= final.keys()
    _keep_embeddings(context, tasks, resolve)
    reasons = [predicted.unreadable for predicted in predictions]
    return not any(reason is not None and reason.is_late for reason in reasons)


def _is_up_to_date(context: ConnectedContext, task: AnnotatedTask, version: str) -> bool:
    """Whether Label Studio has a prediction that knows of everything that annotators have begun in the task."""
    current = [row for row in task.predictions if is_current(str(row["model_version"]), version)]
    if not current:
        return False
    predicted_at = max(datetime.fromisoformat(row["created_at"]) for row in current)
    return not is_begun_since(context.model, task.data, task.annotations, predicted_at)


def _current_ids(task: AnnotatedTask, version: str) -> list[int]:
    """The predictions of a version by the same heads or newer ones, and the same rules."""
    ids = task.prediction_ids.items()
    return [prediction_id for name, of_name in ids if is_current(name, version) for prediction_id in of_name]


def _superseded_ids(task: AnnotatedTask, version: str) -> list[int]:
    """The predictions of a version by older heads or other rules that nobody needs.

    Annotated ones stay, and those that were the newest at some time of the last OPEN_S: somebody may have the task
    open with them, and Label Studio refuses the annotation of a prediction that is gone.
    """
    by_older = sorted(
        (row for row in task.predictions if _is_older(str(row["model_version"]), version)),
        key=lambda prediction: prediction["id"],
    )
    annotated = {annotation.get("parent_prediction") for annotation in task.annotations}
    return [
        prediction["id"]
        for prediction, following in pairwise(by_older)
        if prediction["id"] not in annotated and _age_s(following) > OPEN_S
    ]


def _is_older(name: str, version: str) -> bool:
    return without_heads(name) == without_heads(version) and not is_current(name, version)


def _age_s(prediction: Mapping[str, Any]) -> float:
    return (now() - datetime.fromisoformat(prediction["created_at"])).total_seconds()


def _delete(context: ConnectedContext, prediction_ids: Sequence[int]) -> None:
    for prediction_id in prediction_ids:
        with context.pace.request():
            context.client.delete_prediction(prediction_id)


def _keep_embeddings(context: ConnectedContext, tasks: list[AnnotatedTask], resolve: Resolve) -> None:
    caller = context.caller(EMBEDDINGS_TIMEOUT_S)
    data = {task.task_id: task.data for task in tasks}
    embeddings.keep_recalled(context.services.store, caller, context.model.bound, data, resolve)


def _note_unreadable(context: ConnectedContext, outcome: Outcome) -> None:
    store, project_id = context.services.store, context.project.id
    unreadable_tasks.write(store, project_id, outcome.unreadable, _known_unreadable(context))


def _known_unreadable(context: ConnectedContext) -> frozenset[int]:
    with context.services.store.read() as session:
        return unreadable_tasks.known(session, context.project.id)


def _written_together(
    context: ConnectedContext, model: ProjectModel, predictions: dict[int, TaskPrediction]
) -> Iterator[dict[int, TaskPrediction]]:
    """Yield all at once, or a few at a time where each is explained: a run that is killed has written those."""
    is_explained = context.services.editor_explanations.are_wanted(model.bound.config)
    size = EXPLAINED_TOGETHER if is_explained else max(1, len(predictions))
    ids = iter(predictions)
    while some := {task_id: predictions[task_id] for task_id in islice(ids, size)}:
        yield some


def _explanations(
    context: ConnectedContext,
    model: ProjectModel,
    tasks: Sequence[AnnotatedTask],
    predictions: Mapping[int, TaskPrediction],
) -> dict[int, Sequence[Region]]:
    """By task id the regions that explain its prediction in the editor; empty if they are not wanted."""
    explanations = context.services.editor_explanations
    if not explanations.are_wanted(model.bound.config):
        return {}
    explained = {
        task.task_id: explanations.explain(
            model, (task.task_id, task.data), predicted.regions, context.resolver(), context.caller()
        )
        for task in tasks
        if (predicted := predictions.get(task.task_id)) is not None
        and predicted.unreadable is None
        and predicted.regions
    }
    outcomes = Counter(str(each.outcome) for each in explained.values())
    log.info("bulk run %d: explanations: %s", context.run.id, dict(outcomes))
    return {task_id: each.regions for task_id, each in explained.items()}


def _write(
    context: ConnectedContext,
    predictions: dict[int, TaskPrediction],
    version: str,
    explanations: Mapping[int, Sequence[Region]],
) -> None:
    rows = [
        NewPrediction(task_id, [*predicted.regions, *explanations.get(task_id, ())], predicted.score, version)
        for task_id, predicted in predictions.items()
    ]
    # A run that was cancelled or given to another worker must not write any more.
    leases.report(context.services.store, context.run)
    with context.pace.request():
        context.client.add_predictions(context.project.label_studio_id, rows)


def _progress_after(progress: Progress, page: Page, outcome: Outcome) -> Progress:
    """Unreadable tasks count as failed, although Label Studio got an empty prediction of those that stay so."""
    unreadable = {task_id: reason for task_id, reason in outcome.unreadable.items() if reason is not None}
    failures = [failure(task_id, unreadable[task_id].reason) for task_id in sorted(unreadable)]
    failures += [failure(task_id, "the project has no such task") for task_id in page.missing_ids]
    done = len(outcome.written_ids - unreadable.keys())
    return progress.after_page(page.last_id, page.total, len(page.tasks) + len(page.missing_ids), done, failures)
