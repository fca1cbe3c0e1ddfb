"""Compares our annotations with Label Studio's before a run, because events alone are not complete.

Label Studio gives an event one second and never sends it again, it sends no event for many deletions, and the
webhook may never have been created.
"""

import logging

from sqlalchemy import select

from lorabel.database import projects
from lorabel.database.tables import Annotation, Project, now
from lorabel.errors import LabelStudioError
from lorabel.label_studio.access import api_access
from lorabel.label_studio.client import LabelStudio
from lorabel.label_studio.project_identity import check_identity
from workers.annotations import Received, apply_annotations, delete_annotations
from workers.services import Services

log = logging.getLogger(__name__)

TASKS_PER_TRANSACTION = 200


def reconcile(services: Services, project_id: int) -> str:
    """Add the annotations that only Label Studio has, and delete those that only we have.

    Without a token, or with one that Label Studio refuses, nothing is compared and the events have to do.

    Returns:
        A sentence about what was compared and found, for the run's record.
    """
    with services.store.read() as session:
        project = projects.get(session, project_id)
    access = api_access(project, services.settings)
    # Without a token only /setup has named a host, which may be anybody's: its list must not delete annotations.
    if access is None:
        return "not compared with Label Studio: no LABEL_STUDIO_API_KEY, and not connected by `lorabel connect`"
    client = LabelStudio(access.url, access.api_key)
    try:
        check_identity(client, project)
        added, deleted = _compare(services, client, project)
    except LabelStudioError as error:
        log.warning("project %d is not compared with Label Studio: %s", project_id, error)
        return f"not compared with Label Studio: {error}"
    finally:
        client.close()
    return f"compared with Label Studio: {added} annotations were missing here, {deleted} are gone there"


def _compare(services: Services, client: LabelStudio, project: Project) -> tuple[int, int]:
    """Returns how many annotations were added and how many were deleted."""
    project_id = project.id
    started = now()
    seen_ids: set[int] = set()
    added = 0
    batch: list[Received] = []
    for task in client.annotated_tasks(project.label_studio_id):
        batch += [Received(annotation, task.task_id, task.data) for annotation in task.annotations]
        seen_ids.update(annotation["id"] for annotation in task.annotations)
        if len(batch) >= TASKS_PER_TRANSACTION:
            added += _add(services, project_id, batch)
            batch = []
    added += _add(services, project_id, batch)
    with services.store.read() as session:
        # Annotations that arrived while the pages were read may be newer than the pages, so they are left out.
        stored = select(Annotation.id).where(
            Annotation.project_id == project_id,
            Annotation.is_deleted.is_(False),
            Annotation.received_at < started,
        )
        unlisted_ids = [
            annotation_id for annotation_id in session.scalars(stored) if annotation_id not in seen_ids
        ]
    # A deletion cannot be undone, so Label Studio is asked about each annotation.
    deleted_ids = [annotation_id for annotation_id in unlisted_ids if not client.has_annotation(annotation_id)]
    with services.store.write() as session:
        session.get_one(Project, project_id, with_for_update=True)
        deleted = delete_annotations(session, project_id, deleted_ids)
    return added, deleted


def _add(services: Services, project_id: int, batch: list[Received]) -> int:
    with services.store.write() as session:
        session.get_one(Project, project_id, with_for_update=True)
        return sum(apply_annotations(session, project_id, batch))
