"""`/predict`: one entry per task and in order, whatever happens to single tasks.

A task that cannot be read now is None (`[]` on the wire: nothing is saved and it is asked for again); one
that never can be read gets an empty result, which Label Studio saves and does not ask for again. The other
tasks are unharmed. Annotations that come with a task are never looked at. What a request for many tasks
("Retrieve Predictions") has no time for goes on as a bulk run.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from socket import socket
from time import monotonic
from typing import Self

from backend import wire
from backend.services import Services, prediction_slot
from lorabel.database import bulk_runs, projects
from lorabel.database.tables import Project
from lorabel.errors import ConflictError, LabelConfigError, ModelServerError
from lorabel.inference import prediction, unreadable_tasks
from lorabel.inference.disconnect import is_disconnected
from lorabel.inference.messages import Priority
from lorabel.inference.prediction import ProjectModel, TaskPrediction
from lorabel.inference.requests import PredictionCaller
from lorabel.problems.binding import bind

log = logging.getLogger(__name__)

Entry = wire.PredictionEntry | None


@dataclass(frozen=True)
class _Live:
    """What one look at the database finds. `unread`: the tasks that could not be read before."""

    project: Project
    model: ProjectModel
    unread: frozenset[int]

    @classmethod
    def find(cls, services: Services, project_id: int, label_config: str) -> Self:
        """Smart tools and test requests come without /setup, so the project may be new to us."""
        with services.store.read() as session:
            project = session.get(Project, project_id)
            if project is not None and project.label_config == label_config:
                model = ProjectModel.of(session, project, services.settings)
                return cls(project, model, unreadable_tasks.known(session, project_id))
        projects.remember(services.store, project_id, label_config=label_config)
        return cls.find(services, project_id, label_config)


def predict(services: Services, body: wire.Predict, client: socket | None = None) -> list[Entry]:
    """An entry or None per task of the request, in order.

    Args:
        client: the connection that the answer goes to; once it is closed nothing more is computed.

    Raises:
        ModelServerBusyError: the model server's queue is full, or all our threads for predictions are taken.
        ModelServerError: the model server cannot be reached or failed.
    """
    deadline = monotonic() + services.settings.predict_timeout_s
    project_id = int(body.project.split(".", 1)[0])
    try:
        bind(body.label_config)
    except LabelConfigError as error:
        log.error("project %d: no predictions, %s", project_id, error)
        return [None] * len(body.tasks)
    live = _Live.find(services, project_id, body.label_config)
    if not live.model.bound.bindings:
        services.metrics.unserved_tasks.inc(len(body.tasks))
        log.info("project %d: nobody serves its control tags, %d tasks", project_id, len(body.tasks))
        entries: list[Entry] = [None] * len(body.tasks)
    else:
        with prediction_slot(services):
            entries = _predict(services, live, body, deadline, client)
    return [entry or _empty(live.model) for entry in entries] if _is_smart_tool(body) else entries


def is_opened_by_annotator(body: wire.Predict) -> bool:
    """Whether somebody looks at this very task and will go on to the next."""
    return len(body.tasks) == 1 and not _is_smart_tool(body)


def _is_smart_tool(body: wire.Predict) -> bool:
    return body.params.context is not None


def _predict(
    services: Services, live: _Live, body: wire.Predict, deadline: float, client: socket | None
) -> list[Entry]:
    project, model = live.project, live.model
    resolve = services.authorizations.resolver(
        project, services.settings, on_refusal=services.metrics.refused_tokens.inc
    )
    # Who waits for one task goes before those who wait for many.
    priority = Priority.INTERACTIVE if len(body.tasks) == 1 else Priority.BULK
    caller = PredictionCaller(
        services.model_client, project.id, priority, deadline, lambda: is_disconnected(client)
    )
    try:
        found = prediction.predict(model, [task.data for task in body.tasks], resolve, caller)
    except ModelServerError:
        if priority == Priority.BULK and _go_on_later(services, project.id, [task.id for task in body.tasks]):
            return [None] * len(body.tasks)
        raise
    _count(services, found)
    unread = {task.id: one.unread for task, one in zip(body.tasks, found, strict=True)}
    late = [task_id for task_id, why in unread.items() if why is not None and why.is_late]
    if priority == Priority.BULK and late:
        # Label Studio drops the whole answer if nobody is there to take it any more.
        _go_on_later(services, project.id, [*unread] if is_disconnected(client) else late)
    # The bulk run notes what it finds; thousands of late tasks must not use up the time that is left.
    noted = {task_id: why for task_id, why in unread.items() if why is None or not why.is_late}
    unreadable_tasks.write(services.store, project.id, noted, live.unread)
    return [_entry(model, one) if one.is_final else None for one in found]


def _count(services: Services, found: Sequence[TaskPrediction]) -> None:
    for one in found:
        services.metrics.dropped_regions.inc(one.dropped_regions)
        if one.unread is None:
            services.metrics.predictions.inc()
        else:
            services.metrics.unread_tasks.labels(str(one.unread.is_permanent).lower()).inc()


def _go_on_later(services: Services, project_id: int, task_ids: Sequence[int]) -> bool:
    """Label Studio never asks again by itself for what it did not get from "Retrieve Predictions".

    Returns:
        False if we could not write to it.
    """
    try:
        run = bulk_runs.request(
            services.store,
            services.settings,
            project_id,
            "what one request for predictions had no time for",
            task_ids=task_ids,
        )
    except ConflictError as error:
        log.warning("%d tasks stay without a prediction: %s", len(task_ids), error)
        return False
    log.info("project %d: %d tasks go on as bulk run %d", project_id, len(task_ids), run.id)
    services.jobs.preannotate(run)
    return True


def _entry(model: ProjectModel, found: TaskPrediction) -> wire.PredictionEntry:
    return wire.PredictionEntry(result=found.regions, score=found.score, model_version=model.version)


def _empty(model: ProjectModel) -> wire.PredictionEntry:
    """For smart tools, whose answer is shown at once and never saved."""
    return wire.PredictionEntry(result=[], score=0.0, model_version=model.version)
