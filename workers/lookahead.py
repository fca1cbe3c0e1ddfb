"""Open tasks predicted before an annotator opens them, at the lowest priority; the answers are thrown away.

What stays is in the model server's caches, so that the prediction that somebody waits for is a look-up. Label
Studio by default shows open tasks by id: the next ones after the task on the screen are the next to be opened.
Nobody waits for any of this, so whatever is in its way ends it in silence.
"""

import json
import logging
import time
from collections.abc import Iterable
from typing import NamedTuple

from lorabel.database import projects
from lorabel.database.tables import Event, Project
from lorabel.errors import LabelConfigError, LabelStudioError, ModelServerError, NotFoundError
from lorabel.inference import prediction
from lorabel.inference.messages import Priority
from lorabel.inference.prediction import ProjectModel
from lorabel.inference.requests import PredictionCaller
from lorabel.label_studio.access import api_access
from lorabel.label_studio.client import LabelStudio
from lorabel.problems.base import TaskData
from lorabel.search import embeddings
from workers import services
from workers.services import Services

log = logging.getLogger(__name__)

LABEL_STUDIO_TIMEOUT_S = 10.0
TIMEOUT_S = 60.0


class Lookahead(NamedTuple):
    """The newest tasks of a project that were predicted ahead, and with which version."""

    version: str
    task_ids: frozenset[int]


def run(project_id: int, after: int, event_id: int | None) -> None:
    """The RQ job.

    Args:
        after: the task on the screen; 0 before the first one.
        event_id: a TASKS_CREATED event whose tasks are to be opened, rather than those after a task.
    """
    here = services.current()
    try:
        count = look_ahead(here, project_id, after, event_id)
    except (LabelConfigError, LabelStudioError, ModelServerError, NotFoundError) as error:
        log.debug("project %d: nothing is predicted ahead: %s", project_id, error)
    else:
        log.debug("project %d: %d tasks were predicted ahead", project_id, count)


def look_ahead(here: Services, project_id: int, after: int, event_id: int | None) -> int:
    """Returns how many tasks were asked for. Of those asked for a moment ago none is asked for again."""
    with here.store.read() as session:
        project = projects.get(session, project_id)
        model = ProjectModel.of(session, project, here.settings)
        event = None if event_id is None else session.get(Event, event_id)
    known = _known(here, model)
    if not model.bound.bindings or (event is None and _is_far_enough(here, known, after)):
        return 0
    tasks = _next_open(here, project, model, after) if event is None else _created(here, event)
    new = {task_id: data for task_id, data in tasks if task_id not in known}
    if not new:
        return 0
    resolve = here.authorizations.resolver(project, here.settings)
    caller = PredictionCaller(here.model_client, project_id, Priority.LOOKAHEAD, time.monotonic() + TIMEOUT_S)
    prediction.predict(model, list(new.values()), resolve, caller)
    embeddings.keep_recalled(here.store, caller, model.bound, new, resolve)
    here.lookahead[project_id] = Lookahead(model.version, frozenset(new) | {i for i in known if i > after})
    return len(new)


def _known(here: Services, model: ProjectModel) -> frozenset[int]:
    ahead = here.lookahead.get(model.project_id)
    return ahead.task_ids if ahead is not None and ahead.version == model.version else frozenset()


def _is_far_enough(here: Services, known: frozenset[int], after: int) -> bool:
    """Not every step of an annotator asks Label Studio what comes next."""
    return sum(task_id > after for task_id in known) > here.settings.ahead_tasks // 2


def _next_open(
    here: Services, project: Project, model: ProjectModel, after: int
) -> Iterable[tuple[int, TaskData]]:
    """None without a token, nor where Label Studio does not go by id: there nobody knows what comes next."""
    access = api_access(project, here.settings)
    if access is None:
        return []
    with LabelStudio(access.url, access.api_key, LABEL_STUDIO_TIMEOUT_S) as client:
        if not client.project(project.id).is_sequential:
            return []
        page = client.tasks_after(project.id, after, only_unlabeled=True, page_size=here.settings.ahead_tasks)
    return [(task.task_id, task.data) for task in page.tasks if model.version not in task.versions]


def _created(here: Services, event: Event) -> Iterable[tuple[int, TaskData]]:
    tasks = json.loads(event.payload)["tasks"][: here.settings.ahead_tasks]
    return [(task["id"], task["data"]) for task in tasks if isinstance(task.get("data"), dict)]
