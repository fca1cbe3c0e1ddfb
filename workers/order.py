"""Orders a project's open tasks by how much their labels would teach; `workers/order_writing.py` writes the order.

An order by `auto` gets old as annotations arrive, so `workers/order_renewal.py` has it made again.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import select

from lorabel.curation.informative import typical_then_informative
from lorabel.curation.sampling import Vectors, ascending, core_set, shuffled
from lorabel.curation.strategy import Strategy
from lorabel.database import leases
from lorabel.database.tables import Annotation, RunState
from lorabel.database.task_embeddings import TaskVector
from lorabel.errors import LorabelError, ModelServerError
from lorabel.inference import prediction, unreadable_tasks
from lorabel.inference.task_prediction import TaskPrediction
from lorabel.label_studio.records import AnnotatedTask
from lorabel.problems.base import TaskData
from lorabel.search.embeddings import embed_tasks, in_space, most_common_space
from workers.bulk_runs import (
    MOST_FAILURES_NAMED,
    ConnectedContext,
    carry_out_connected,
    failure,
    try_model_server,
)
from workers.order_writing import write_order

log = logging.getLogger(__name__)

PredictedTask = tuple[AnnotatedTask, TaskPrediction]
Choose = Callable[[Vectors, Vectors, NDArray[np.intp]], list[int]]
"""Orders vectors of open tasks, given those of annotated tasks, and the indices of the open tasks."""

# Open tasks are compared with this many of the newest annotated tasks.
MOST_LABELED = 2000


class NoVectorsError(LorabelError):
    """No open task has a vector."""


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
    write_order(context, [predicted_tasks[index] for index in tasks_in_order.indices])
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
            unreadable = unreadable_tasks.masked(predicted.unreadable, context.services.redactor, task.data)
            if unreadable is None:
                predicted_tasks.append((task, predicted))
            else:
                failures.append(failure(task.task_id, unreadable.reason))
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
        case Strategy.AUTO:
            return _order_automatically(context, predicted_tasks)
        case Strategy.MARGIN:
            return _order_by_margin(predicted_tasks)
        case Strategy.RANDOM:
            return Order(shuffled(len(predicted_tasks), _seed(context)))
        case Strategy.DIVERSITY:
            return _order_by_vectors(
                context, predicted_tasks, lambda vectors, labeled, _: core_set(vectors, labeled)
            )


def _seed(context: ConnectedContext) -> int:
    return context.services.settings.seed + context.run.id


def _order_by_margin(predicted_tasks: Sequence[PredictedTask]) -> Order:
    return Order(ascending([predicted.margin for _, predicted in predicted_tasks]))


def _order_automatically(context: ConnectedContext, predicted_tasks: Sequence[PredictedTask]) -> Order:
    """The order `auto`; the order by margin if no task has a vector."""
    bound = context.model.bound
    served = {binding.from_name for binding in bound.bindings}
    label_count = max(
        (len(control.labels) for control in bound.config.controls if control.name in served), default=1
    )
    margins = np.array([predicted.margin for _, predicted in predicted_tasks], dtype=np.float32)

    def choose(vectors: Vectors, labeled: Vectors, indices: NDArray[np.intp]) -> list[int]:
        return typical_then_informative(vectors, labeled, margins[indices], max(1, label_count), _seed(context))

    try:
        return _order_by_vectors(context, predicted_tasks, choose)
    except NoVectorsError as error:
        log.warning("project %d: ordered by margin, since %s", context.run.project_id, error)
        return _order_by_margin(predicted_tasks)


def _order_by_vectors(
    context: ConnectedContext, predicted_tasks: Sequence[PredictedTask], choose: Choose
) -> Order:
    """An order that compares tasks by their vectors.

    Only vectors of one space can be compared: the space that most of the tasks are in. Tasks without a vector in
    this space come last.

    Raises:
        NoVectorsError: no task has a vector.
    """
    task_vectors = _task_vectors(context, [task.data for task, _ in predicted_tasks])
    space = most_common_space(task_vectors)
    if space is None:
        raise NoVectorsError("no open task could be embedded, so nothing tells them apart")
    vectors = in_space(task_vectors, space)
    compared = np.array([index for index, vector in enumerate(vectors) if vector is not None])
    others = [index for index, vector in enumerate(vectors) if vector is None]
    labeled_vectors = _stack(in_space(_task_vectors(context, _labeled_tasks(context)), space))
    best_first = compared[choose(_stack(vectors), labeled_vectors, compared)]
    return Order([*best_first.tolist(), *others], not_compared=len(others))


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
