"""Before a run, compare with Label Studio: an event has one second and is never sent again, many deletions are
not sent at all, and the webhook may never have been created."""

import logging

from sqlalchemy import select

from lorabel.database import projects
from lorabel.database.tables import Annotation, Project, now
from lorabel.errors import LabelStudioError
from lorabel.label_studio.access import api_access
from lorabel.label_studio.client import LabelStudio
from workers.collect import Received, apply_annotations, delete_annotations
from workers.services import Services

log = logging.getLogger(__name__)

TASKS_PER_TRANSACTION = 200


def reconcile(here: Services, project_id: int) -> str:
    """Take over what Label Studio has and we do not. Returns a sentence about what was found.

    Without a token, or with one that Label Studio refuses, the events are all we know.
    """
    with here.store.read() as session:
        access = api_access(projects.get(session, project_id), here.settings)
    # Nobody vouched for the host that /setup named: what it lists must not delete anything here.
    if access is None:
        return "not compared with Label Studio: no LABEL_STUDIO_API_KEY, and not connected by `lorabel connect`"
    client = LabelStudio(access.url, access.api_key)
    try:
        missed, vanished = _compare(here, client, project_id)
    except LabelStudioError as error:
        log.warning("project %d is not compared with Label Studio: %s", project_id, error)
        return f"not compared with Label Studio: {error}"
    finally:
        client.close()
    return f"compared with Label Studio: {missed} annotations were missing here, {vanished} are gone there"


def _compare(here: Services, client: LabelStudio, project_id: int) -> tuple[int, int]:
    started = now()
    seen: set[int] = set()
    missed = 0
    batch: list[Received] = []
    for task in client.annotated_tasks(project_id):
        batch += [Received(annotation, task.task_id, task.data) for annotation in task.annotations]
        seen.update(annotation["id"] for annotation in task.annotations)
        if len(batch) >= TASKS_PER_TRANSACTION:
            missed += _take_over(here, project_id, batch)
            batch = []
    missed += _take_over(here, project_id, batch)
    with here.store.read() as session:
        # What arrived while the pages were read may be newer than the pages.
        known = select(Annotation.id).where(
            Annotation.project_id == project_id,
            Annotation.is_deleted.is_(False),
            Annotation.received_at < started,
        )
        unlisted = [i for i in session.scalars(known) if i not in seen]
    # A deletion here is for good, so each is confirmed.
    gone = [annotation_id for annotation_id in unlisted if not client.has_annotation(annotation_id)]
    with here.store.write() as session:
        session.get_one(Project, project_id, with_for_update=True)
        vanished = delete_annotations(session, project_id, gone)
    return missed, vanished


def _take_over(here: Services, project_id: int, batch: list[Received]) -> int:
    with here.store.write() as session:
        session.get_one(Project, project_id, with_for_update=True)
        return sum(apply_annotations(session, project_id, batch))
