"""Orders a project's open tasks by how much their labels would teach, and writes the order to Label Studio.

Label Studio 1.23.2 has one order that others can set: with "Uncertainty sampling" the labeling stream takes open
tasks by ascending score of the predictions whose version is the project's `model_version`. In a connected project
that is our backend's title, not our version. So the order is written as predictions of that name: the score is the
task's position in the order, and the regions are what the live version predicts, for annotators who open the task
in the Data Manager (whose column "Prediction score" shows the position). The labeling stream itself still asks for
predictions of the live version and shows them.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import numpy as np
from sqlalchemy import select

from lorabel.curation.sampling import Vectors, ascending, core_set, shuffled
from lorabel.curation.strategy import Strategy
from lorabel.database import leases
from lorabel.database.tables import Annotation, RunState
from lorabel.database.task_embeddings import TaskVector
from lorabel.errors import LabelStudioError, LorabelError, ModelServerError
from lorabel.inference import prediction
from lorabel.inference.prediction import TaskPrediction
from lorabel.label_studio.client import UNCERTAINTY
from lorabel.label_studio.records import AnnotatedTask, NewPrediction
from lorabel.problems.base import TaskData
from lorabel.search.embeddings import embed_tasks, in_space, most_common_space
from workers.bulk_runs import (
    MOST_FAILURES_NAMED,
    ConnectedContext,
    carry_out_connected,
    failure,
    try_model_server,
)
from workers.retries import try_again

log = logging.getLogger(__name__)

T = TypeVar("T")
PredictedTask = tuple[AnnotatedTask, TaskPrediction]

# The core-set keeps its distance from this many of the newest annotated tasks.
MOST_LABELED = 2000


@dataclass(frozen=True)
class Order:
    """An order of tasks.

    Attributes:
        indices: the indices of the tasks, the first to be labeled first.
        not_compared: how many tasks come last because the strategy could not compare them with the others.
    """

    indices: list[int]
    not_compared: int = 0


def order(run_id: int) -> None:
    """The RQ job: order the project's open tasks by the run's strategy."""
    carry_out_connected(run_id, _order_tasks)


def _order_tasks(context: ConnectedContext) -> None:
    """Starts from the beginning after a kill: nothing is written before every task has its position."""
    run, strategy = context.run, Strategy(context.run.strategy or "")
    predicted_tasks, failures = _predict_open_tasks(context)
    leases.report(context.services.store, run, total=len(predicted_tasks) + len(failures))
    tasks_in_order = _order(context, strategy, predicted_tasks)
    _write(context, [predicted_tasks[index] for index in tasks_in_order.indices])
    with context.services.store.write() as session:
        leases.finish(
            session,
            run,
            RunState.FINISHED,
            done=len(predicted_tasks) - tasks_in_order.not_compared,
            skipped=tasks_in_order.not_compared,
            failed=len(failures),
            failures=failures[:MOST_FAILURES_NAMED],
            label_studio_s=context.pace.spent_s,
        )
    log.info("project %d: %d open tasks are ordered by %s", run.project_id, len(predicted_tasks), strategy)


def _predict_open_tasks(context: ConnectedContext) -> tuple[list[PredictedTask], list[dict[str, Any]]]:
    """Every open task that can be read, with its prediction; and a failure for each of the others.

    Tasks that cannot be read get no position, so Label Studio shows them last.
    """
    run, size = context.run, context.services.settings.bulk_page
    predicted_tasks: list[PredictedTask] = []
    failures: list[dict[str, Any]] = []
    last_id = 0
    while True:
        with context.pace.request():
            page = context.client.tasks_after(
                context.project.label_studio_id, last_id, only_unlabeled=True, page_size=size
            )
        if not page.tasks:
            return predicted_tasks, failures
        last_id = page.tasks[-1].task_id
        for task, predicted in zip(page.tasks, _predict(context, page.tasks), strict=True):
            if predicted.unreadable is None:
                predicted_tasks.append((task, predicted))
            else:
                failures.append(failure(task.task_id, predicted.unreadable.reason))
        done, failed = len(predicted_tasks), len(failures)
        total = done + failed + page.total - len(page.tasks)
        leases.report(context.services.store, run, done=done, failed=failed, total=total)


def _predict(context: ConnectedContext, tasks: Sequence[AnnotatedTask]) -> list[TaskPrediction]:
    """One prediction per task, in order.

    Raises:
        ModelServerError: the model server did not get to every task in any of several attempts.
    """
    resolve = context.resolver()

    def attempt() -> list[TaskPrediction]:
        data = [task.data for task in tasks]
        predictions = prediction.predict(context.newest_model(), data, resolve, context.caller())
        for predicted in predictions:
            if predicted.unreadable is not None and predicted.unreadable.is_late:
                raise ModelServerError(predicted.unreadable.reason)
        return predictions

    return try_model_server(context, attempt)


def _order(context: ConnectedContext, strategy: Strategy, predicted_tasks: Sequence[PredictedTask]) -> Order:
    match strategy:
        case Strategy.UNCERTAINTY:
            return Order(ascending([predicted.score for _, predicted in predicted_tasks]))
        case Strategy.MARGIN:
            return Order(ascending([predicted.margin for _, predicted in predicted_tasks]))
        case Strategy.RANDOM:
            return Order(shuffled(len(predicted_tasks), context.services.settings.seed + context.run.id))
        case Strategy.DIVERSITY:
            return _order_by_diversity(context, [task for task, _ in predicted_tasks])


def _order_by_diversity(context: ConnectedContext, tasks: Sequence[AnnotatedTask]) -> Order:
    """The core-set order of the tasks.

    Only vectors of one space can be compared: the space that most of the tasks are in. Tasks without a vector in
    this space come last.

    Raises:
        LorabelError: no task has a vector.
    """
    task_vectors = _task_vectors(context, [task.data for task in tasks])
    space = most_common_space(task_vectors)
    if space is None:
        raise LorabelError("no open task could be embedded, so nothing tells them apart")
    vectors = in_space(task_vectors, space)
    compared = [index for index, vector in enumerate(vectors) if vector is not None]
    others = [index for index, vector in enumerate(vectors) if vector is None]
    labeled_vectors = _stack(in_space(_task_vectors(context, _labeled_tasks(context)), space))
    best_first = [compared[index] for index in core_set(_stack(vectors), labeled_vectors)]
    return Order([*best_first, *others], not_compared=len(others))


def _labeled_tasks(context: ConnectedContext) -> list[TaskData]:
    """The data of the newest annotated tasks."""
    newest = (
        select(Annotation)
        .where(
            Annotation.project_id == context.run.project_id,
            Annotation.is_deleted.is_(False),
            Annotation.was_cancelled.is_(False),
        )
        .order_by(Annotation.received_at.desc(), Annotation.id.desc())
        .limit(MOST_LABELED)
    )
    with context.services.store.read() as session:
        data_by_task = {row.task_id: row.task_data for row in session.scalars(newest)}
    return [data for data in data_by_task.values() if data is not None]


def _task_vectors(context: ConnectedContext, tasks: Sequence[TaskData]) -> list[TaskVector | None]:
    """A vector per task, in order; None for a task that cannot be embedded."""
    resolve = context.resolver()
    size = context.services.settings.bulk_page
    vectors: list[TaskVector | None] = []
    for start in range(0, len(tasks), size):
        page = tasks[start : start + size]
        embed = partial(embed_tasks, bound=context.model.bound, tasks=page, resolve=resolve)
        vectors += try_model_server(context, lambda embed=embed: embed(context.caller()))  # type: ignore[misc]
    return vectors


def _stack(vectors: Sequence[Vectors | None]) -> Vectors:
    """(number of vectors that are not None, dim)"""
    present = [vector for vector in vectors if vector is not None]
    return np.stack(present) if present else np.zeros((0, 1), dtype=np.float32)


def _write(context: ConnectedContext, predicted_tasks: Sequence[PredictedTask]) -> None:
    """Replace the former order, if there is one, by the tasks in this order."""
    client, project_id = context.client, context.project.label_studio_id
    leases.report(context.services.store, context.run)
    with context.pace.request():
        title = _backend_title(context)
    if any(title in task.versions for task, _ in predicted_tasks):
        client.delete_predictions(project_id, title)
    _select_model(context, title)
    rows = [
        NewPrediction(task.task_id, predicted.regions, position / len(predicted_tasks), title)
        for position, (task, predicted) in enumerate(predicted_tasks, start=1)
    ]
    size = context.services.settings.bulk_page
    for start in range(0, len(rows), size):
        leases.report(context.services.store, context.run)
        with context.pace.request():
            client.add_predictions(project_id, rows[start : start + size])


def _select_model(context: ConnectedContext, title: str) -> None:
    """Make `title` the project's model, and "Uncertainty sampling" its order.

    Label Studio unsets the project's model when the former order is deleted, and nobody gets a prediction until it
    is set again. So this is tried several times, and after a kill by the next worker.
    """

    project_id = context.project.label_studio_id

    def attempt() -> None:
        with context.pace.request():
            context.client.update_project(project_id, model_version=title, sampling=UNCERTAINTY)

    name = f"giving project {context.run.project_id} its model back"
    try:
        try_again(attempt, name, lambda error: isinstance(error, LabelStudioError))
    except LabelStudioError as error:
        raise LabelStudioError(f"{error}; `lorabel connect` gives the project its model back") from error


def _backend_title(context: ConnectedContext) -> str:
    backends = context.client.backends(context.project.label_studio_id)
    url = (context.project.backend_url or "").rstrip("/")
    title = next((backend.title for backend in backends if backend.url.rstrip("/") == url), None)
    if title is None:
        raise LorabelError(
            f"our backend {url!r} is not among those of project {context.project.id}, so its labeling stream "
            "cannot be ordered; connect it with `lorabel connect`"
        )
    return title
