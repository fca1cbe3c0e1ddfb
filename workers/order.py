"""A project's open tasks, put into the order in which they teach most, and the order written to Label Studio.

Label Studio 1.23.2 knows one order that others may set: with "Uncertainty sampling" the labeling stream takes open
tasks by ascending score of the predictions whose version is the project's `model_version`. Of a connected project
that is our backend's title, not our version, so the order is written as predictions of that name: each task's
place, with what the live version predicts, for whoever opens the task in the Data Manager (where the column
"Prediction score" shows the place). The stream itself goes on to show and ask for predictions of the live version.
"""

import logging
from collections.abc import Callable, Sequence
from functools import partial
from time import monotonic, sleep
from typing import Any, TypeVar

import numpy as np
from sqlalchemy import select

from lorabel.curation.sampling import Strategy, Vectors, ascending, core_set, shuffled
from lorabel.database import leases
from lorabel.database.tables import Annotation, RunState
from lorabel.errors import LabelStudioError, LorabelError, ModelServerBusyError, ModelServerError
from lorabel.inference import prediction
from lorabel.inference.messages import Priority
from lorabel.inference.prediction import TaskPrediction
from lorabel.inference.requests import PredictionCaller, Unreadable
from lorabel.label_studio.client import UNCERTAINTY, AnnotatedTask, NewPrediction
from lorabel.problems.base import TaskData
from lorabel.search.embeddings import task_vectors
from workers import preannotate
from workers.preannotate import MOST_FAILURES_NAMED, MOST_TRIES, PAGE_TIMEOUT_S, BulkRunContext, failure

log = logging.getLogger(__name__)

T = TypeVar("T")
Known = tuple[AnnotatedTask, TaskPrediction]

# The core-set keeps away from these: the newest annotated tasks.
MOST_LABELED = 2000


def run(run_id: int) -> None:
    """The RQ job."""
    preannotate.do(run_id, order)


def order(context: BulkRunContext) -> None:
    """Begins anew after a kill: nothing is written before everything is known."""
    claimed, strategy = context.claimed, Strategy(context.claimed.strategy or "")
    tasks, failures = _read(context)
    leases.report(context.here.store, claimed, total=len(tasks) + len(failures))
    places = _places(context, strategy, [task for task, _ in tasks], [one for _, one in tasks])
    _write(context, [tasks[place] for place in places])
    with context.here.store.write() as session:
        leases.finish(
            session,
            claimed,
            RunState.FINISHED,
            done=len(tasks),
            failed=len(failures),
            failures=failures[:MOST_FAILURES_NAMED],
            label_studio_s=context.pace.spent_s,
        )
    log.info("project %d: %d open tasks are ordered by %s", claimed.project_id, len(tasks), strategy)


def _read(context: BulkRunContext) -> tuple[list[Known], list[dict[str, Any]]]:
    """Every open task with its prediction; those that cannot be read are left out, and so come last."""
    claimed, size = context.claimed, context.here.settings.bulk_page
    known: list[Known] = []
    failures: list[dict[str, Any]] = []
    last_id = 0
    while True:
        with context.pace.request():
            page = context.client.tasks_after(claimed.project_id, last_id, only_unlabeled=True, page_size=size)
        if not page.tasks:
            return known, failures
        last_id = page.tasks[-1].task_id
        for task, one in zip(page.tasks, _predict(context, page.tasks), strict=True):
            if one.unread is None:
                known.append((task, one))
            else:
                failures.append(failure(task.task_id, one.unread.reason))
        total = len(known) + len(failures) + page.total - len(page.tasks)
        leases.report(context.here.store, claimed, done=len(known), failed=len(failures), total=total)


def _predict(context: BulkRunContext, tasks: Sequence[AnnotatedTask]) -> list[TaskPrediction]:
    """Raises ModelServerError if it does not get to every task, try after try."""
    resolve = context.here.authorizations.resolver(context.project, context.here.settings)

    def ask() -> list[TaskPrediction]:
        found = prediction.predict(context.model, [task.data for task in tasks], resolve, _caller(context))
        late = next(
            (one.unread for one in found if isinstance(one.unread, Unreadable) and one.unread.is_late), None
        )
        if late is not None:
            raise ModelServerError(late.reason)
        return found

    return _again_and_again(context, ask)


def _places(
    context: BulkRunContext, strategy: Strategy, tasks: Sequence[AnnotatedTask], found: Sequence[TaskPrediction]
) -> list[int]:
    match strategy:
        case Strategy.UNCERTAINTY:
            return ascending([one.score for one in found])
        case Strategy.MARGIN:
            return ascending([one.margin for one in found])
        case Strategy.RANDOM:
            return shuffled(len(tasks), context.here.settings.seed + context.claimed.id)
        case Strategy.DIVERSITY:
            return _diverse(context, tasks)


def _diverse(context: BulkRunContext, tasks: Sequence[AnnotatedTask]) -> list[int]:
    """Those without a vector come last. Raises LorabelError where there is none at all."""
    found = _vectors(context, [task.data for task in tasks])
    have = [place for place, one in enumerate(found) if one is not None]
    if not have:
        raise LorabelError("no open task could be embedded, so nothing tells them apart")
    labeled = _stacked(_vectors(context, _labeled(context)))
    chosen = core_set(_stacked(found), labeled)
    return [*(have[place] for place in chosen), *(i for i, one in enumerate(found) if one is None)]


def _labeled(context: BulkRunContext) -> list[TaskData]:
    """The newest annotated tasks."""
    newest = (
        select(Annotation)
        .where(
            Annotation.project_id == context.claimed.project_id,
            Annotation.is_deleted.is_(False),
            Annotation.was_cancelled.is_(False),
        )
        .order_by(Annotation.received_at.desc(), Annotation.id.desc())
        .limit(MOST_LABELED)
    )
    with context.here.store.read() as session:
        found = {row.task_id: row.task_data for row in session.scalars(newest)}
    return [data for data in found.values() if data is not None]


def _vectors(context: BulkRunContext, tasks: Sequence[TaskData]) -> list[Vectors | None]:
    resolve = context.here.authorizations.resolver(context.project, context.here.settings)
    size = context.here.settings.bulk_page
    found: list[Vectors | None] = []
    for start in range(0, len(tasks), size):
        page = tasks[start : start + size]
        ask = partial(task_vectors, bound=context.model.bound, tasks=page, resolve=resolve)
        found += _again_and_again(context, lambda ask=ask: ask(_caller(context)))  # type: ignore[misc]
    return found


def _stacked(vectors: Sequence[Vectors | None]) -> Vectors:
    have = [one for one in vectors if one is not None]
    return np.stack(have) if have else np.zeros((0, 1), dtype=np.float32)


def _caller(context: BulkRunContext) -> PredictionCaller:
    return PredictionCaller(
        context.here.model_client, context.model.project_id, Priority.BULK, monotonic() + PAGE_TIMEOUT_S
    )


def _again_and_again(context: BulkRunContext, ask: Callable[[], T]) -> T:
    """Annotators go first, for as long as it takes. Raises ModelServerError for other reasons than that."""
    tries = 0
    while True:
        leases.report(context.here.store, context.claimed)
        try:
            return ask()
        except ModelServerBusyError as error:
            sleep(error.retry_after_s)
        except ModelServerError:
            tries += 1
            if tries == MOST_TRIES:
                raise
            sleep(tries)


def _write(context: BulkRunContext, tasks: Sequence[Known]) -> None:
    """The former order goes first."""
    client, project_id = context.client, context.claimed.project_id
    leases.report(context.here.store, context.claimed)
    with context.pace.request():
        name = _backend_title(context)
    if any(name in task.versions for task, _ in tasks):
        client.delete_predictions(project_id, name)
    _select(context, name)
    rows = [
        NewPrediction(task.task_id, one.regions, place / len(tasks), name)
        for place, (task, one) in enumerate(tasks, start=1)
    ]
    size = context.here.settings.bulk_page
    for start in range(0, len(rows), size):
        leases.report(context.here.store, context.claimed)
        with context.pace.request():
            client.add_predictions(project_id, rows[start : start + size])


def _select(context: BulkRunContext, name: str) -> None:
    """Label Studio took the project's model away with the former order, and until it is put back nobody gets a
    prediction: so again and again, and after a kill by the next worker."""
    for tries in range(1, MOST_TRIES + 1):
        try:
            with context.pace.request():
                context.client.update_project(context.claimed.project_id, model_version=name, sampling=UNCERTAINTY)
            return
        except LabelStudioError as error:
            if tries == MOST_TRIES:
                raise LabelStudioError(f"{error}; `lorabel connect` gives the project its model back") from error
            sleep(tries)


def _backend_title(context: BulkRunContext) -> str:
    backends = context.client.backends(context.claimed.project_id)
    url = (context.project.backend_url or "").rstrip("/")
    title = next((one.title for one in backends if one.url.rstrip("/") == url), None)
    if title is None:
        raise LorabelError(
            f"our backend {url!r} is not among those of project {context.project.id}, so its labeling stream "
            "cannot be ordered; connect it with `lorabel connect`"
        )
    return title
