"""Predicts open tasks before an annotator opens them, at the lowest priority, and throws the answers away.

The results stay in the model server's caches, so that the prediction that an annotator waits for is a look-up.
Label Studio shows open tasks by id by default: the next tasks after the one on the screen are opened next. Which
tasks are predicted is kept in Redis, where all bulk workers and backends see it. Nobody waits for this work, so an
error ends it with a debug message only.
"""

import json
import logging
import time
from collections.abc import Iterable, Mapping

from lorabel.database import projects
from lorabel.database.tables import Event, Project
from lorabel.errors import LabelConfigError, LabelStudioError, ModelServerError, NotFoundError
from lorabel.inference import prediction
from lorabel.inference.messages import Priority
from lorabel.inference.prediction import ProjectModel
from lorabel.inference.requests import PredictionCaller
from lorabel.label_studio.access import api_access
from lorabel.label_studio.client import LabelStudio
from lorabel.label_studio.project_identity import check_identity
from lorabel.problems.base import TaskData
from lorabel.search import embeddings
from workers.services import Services

log = logging.getLogger(__name__)

LABEL_STUDIO_TIMEOUT_S = 10.0
TIMEOUT_S = 60.0


def look_ahead(project_id: int, after: int, event_id: int | None) -> None:
    """The RQ job.

    Args:
        after: id of the task on the screen; 0 before the first task.
        event_id: a TASKS_CREATED event whose tasks are predicted instead of the tasks after `after`.
    """
    services = Services.current()
    try:
        count = predict_ahead(services, project_id, after, event_id)
    except (LabelConfigError, LabelStudioError, ModelServerError, NotFoundError) as error:
        log.debug("project %d: nothing is predicted ahead: %s", project_id, error)
    else:
        log.debug("project %d: %d tasks were predicted ahead", project_id, count)


def predict_ahead(services: Services, project_id: int, after: int, event_id: int | None) -> int:
    """Predict the tasks that are likely to be opened next, except those that were predicted a short while ago.

    Returns:
        The number of tasks that the model server was asked for.
    """
    with services.store.look_up() as session:
        project = projects.get(session, project_id)
        model = ProjectModel.of(session, project, services.settings)
        event = None if event_id is None else session.get(Event, event_id)
    jobs = services.jobs
    if not model.bound.bindings or (event is None and jobs.is_far_enough(project, after)):
        return 0
    tasks = dict(
        _created_tasks(services, project, event) if event else _next_open_tasks(services, project, model, after)
    )
    known = jobs.predicted.known(project, tasks)
    new_tasks = {task_id: data for task_id, data in tasks.items() if task_id not in known}
    if new_tasks:
        _predict(services, project, model, new_tasks)
    # Of all, so that tasks of an import count once they come next.
    jobs.predicted.note(project, tasks, are_next=event is None)
    return len(new_tasks)


def _predict(services: Services, project: Project, model: ProjectModel, new_tasks: Mapping[int, TaskData]) -> None:
    resolve = services.authorizations.resolver(project, services.settings)
    caller = PredictionCaller(services.model_client, project.id, Priority.LOOKAHEAD, time.monotonic() + TIMEOUT_S)
    prediction.predict(model, list(new_tasks.values()), resolve, caller)
    embeddings.keep_recalled(services.store, caller, model.bound, new_tasks, resolve)


def _next_open_tasks(
    services: Services, project: Project, model: ProjectModel, after: int
) -> Iterable[tuple[int, TaskData]]:
    """The id and data of the next open tasks that lack a prediction of the live version.

    Empty without a token, and where Label Studio does not go by id: the next task is not known there.
    """
    access = api_access(project, services.settings)
    if access is None:
        return []
    with LabelStudio(access.url, access.api_key, LABEL_STUDIO_TIMEOUT_S) as client:
        if not check_identity(client, project).is_sequential:
            return []
        size = services.settings.ahead_tasks
        page = client.tasks_after(project.label_studio_id, after, only_unlabeled=True, page_size=size)
    return [(task.task_id, task.data) for task in page.tasks if model.version not in task.versions]


def _created_tasks(services: Services, project: Project, event: Event) -> Iterable[tuple[int, TaskData]]:
    """The id and data of the tasks that an event brought. With REDACT, Label Studio is asked for them: the stored
    texts are masked, and the model will be asked about those that annotators see."""
    tasks = json.loads(event.payload)["tasks"][: services.settings.ahead_tasks]
    if not services.redactor.is_on:
        return [(task["id"], task["data"]) for task in tasks if isinstance(task.get("data"), dict)]
    access = api_access(project, services.settings)
    if access is None or not tasks:
        return []
    with LabelStudio(access.url, access.api_key, LABEL_STUDIO_TIMEOUT_S) as client:
        check_identity(client, project)
        asked = client.tasks_of(project.label_studio_id, [task["id"] for task in tasks])
    return [(task.task_id, task.data) for task in asked]
