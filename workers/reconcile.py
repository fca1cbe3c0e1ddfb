"""Compares our annotations with Label Studio's before a run, because events alone are not complete.

Label Studio gives an event one second and never sends it again, it sends no event for many deletions, and the
webhook may never have been created.

A run compares only the annotated tasks that Label Studio has changed since the last comparison. Then it compares
the numbers of annotations, because some changes do not show in these tasks: the deletion of a task or of its only
annotation, and annotations that were propagated. If the numbers differ, all annotations are compared, and after
COMPARE_FULLY_HOURS anyway.

The tasks come with their predictions, and events mostly without: what annotators were shown is completed here.
"""

import logging
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from sqlalchemy import func, select

from lorabel.database import project_heads, projects, training_runs, vocabularies
from lorabel.database.store import id_chunks
from lorabel.database.tables import Annotation, Project, now
from lorabel.errors import LabelStudioError, RedactionError
from lorabel.label_studio.access import api_access
from lorabel.label_studio.client import LabelStudio
from lorabel.label_studio.project_identity import check_identity
from lorabel.label_studio.records import AnnotatedTask
from lorabel.labeling.redacted_bodies import RedactedBody
from lorabel.redaction import Redactor
from workers.annotations import Received, apply_annotations, delete_annotations
from workers.collect import apply_during_run
from workers.services import Services

log = logging.getLogger(__name__)

TASKS_PER_TRANSACTION = 200
# Changes whose time lies so long before the last comparison are read again. A transaction of Label Studio that was
# under way during the comparison has an earlier time, and the clocks of its servers may differ.
OVERLAP = timedelta(minutes=2)


class Difference(NamedTuple):
    """How many annotations were missing here, and how many are gone in Label Studio."""

    added: int
    deleted: int


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
        is_full, difference = _compare(services, client, project)
    except LabelStudioError as error:
        log.warning("project %d is not compared with Label Studio: %s", project_id, error)
        return f"not compared with Label Studio: {error}"
    finally:
        client.close()
    scope = "" if is_full else "what has changed in "
    return (
        f"compared with {scope}Label Studio: {difference.added} annotations were missing here, "
        f"{difference.deleted} are gone there"
    )


def _compare(services: Services, client: LabelStudio, project: Project) -> tuple[bool, Difference]:
    """Compare what has changed, or everything.

    Returns:
        Whether everything was compared, and the difference.
    """
    # Label Studio's clock, since its times are compared with this one. The header has whole seconds. If a proxy
    # hides the clock, ours is taken; OVERLAP covers what the other may be behind.
    started_there = now() + timedelta(seconds=client.server().clock_ahead_s or 0.0)
    difference = Difference(0, 0)
    if project.compared_at is not None and not _is_full_due(project, services.settings.compare_fully_hours):
        difference = _compare_tasks(services, client, project, project.compared_at - OVERLAP)
        # An annotation that arrives between the two counts makes them differ, but not twice.
        if any(_uncounted(services, client, project) == project.uncounted for _ in range(2)):
            _keep(services, project.id, compared_at=started_there)
            return False, difference
        log.info("project %d: the numbers of annotations differ, so all are compared", project.id)
    full = _compare_tasks(services, client, project, None)
    _keep(
        services,
        project.id,
        compared_at=started_there,
        compared_fully_at=now(),
        uncounted=_uncounted(services, client, project),
    )
    return True, Difference(difference.added + full.added, difference.deleted + full.deleted)


def _is_full_due(project: Project, hours: float) -> bool:
    return project.compared_fully_at is None or now() - project.compared_fully_at >= timedelta(hours=hours)


def _uncounted(services: Services, client: LabelStudio, project: Project) -> int:
    """How many more annotations Label Studio counts than there are here, without skips."""
    counted = client.count_annotations(project.label_studio_id)
    apply_during_run(services, project.id)
    with services.store.read() as session:
        counts = (
            session.scalar(select(func.count(Annotation.id)).where(Annotation.project_id == project.id, *kind))
            for kind in (training_runs.IS_NEW, training_runs.IS_LEARNED)
        )
        return counted - sum(count or 0 for count in counts)


def _keep(services: Services, project_id: int, **columns: Any) -> None:
    with services.store.write() as session:
        project = session.get_one(Project, project_id, with_for_update=True)
        for name, value in columns.items():
            setattr(project, name, value)


def _compare_tasks(
    services: Services, client: LabelStudio, project: Project, changed_since: datetime | None
) -> Difference:
    """Compare the annotations of the tasks that were changed since a time; of all tasks if it is None."""
    project_id = project.id
    started = now()
    seen_ids: set[int] = set()
    task_ids: list[int] = []
    added = 0
    batch: list[Received] = []
    unmasked: list[RedactionError] = []
    for task in client.annotated_tasks(project.label_studio_id, changed_since):
        task_ids.append(task.task_id)
        try:
            batch += _received(task, services.redactor)
        except RedactionError as error:
            unmasked.append(error)
        seen_ids.update(annotation["id"] for annotation in task.annotations)
        if len(batch) >= TASKS_PER_TRANSACTION:
            added += _add(services, project_id, batch)
            batch = []
    added += _add(services, project_id, batch)
    if unmasked:
        log.error("project %d: annotations of %d tasks are left out: %s", project_id, len(unmasked), unmasked[0])
    # Annotations that arrived while the pages were read may be newer than the pages, so they are left out.
    stored = select(Annotation.id).where(
        Annotation.project_id == project_id, Annotation.is_deleted.is_(False), Annotation.received_at < started
    )
    of_tasks = (
        [stored]
        if changed_since is None
        else [stored.where(Annotation.task_id.in_(chunk)) for chunk in id_chunks(task_ids)]
    )
    with services.store.read() as session:
        unlisted_ids = [
            annotation_id
            for query in of_tasks
            for annotation_id in session.scalars(query)
            if annotation_id not in seen_ids
        ]
    # A deletion cannot be undone, so Label Studio is asked about each annotation.
    deleted_ids = [annotation_id for annotation_id in unlisted_ids if not client.has_annotation(annotation_id)]
    with services.store.write() as session:
        project = session.get_one(Project, project_id, with_for_update=True)
        deleted = delete_annotations(session, project_id, deleted_ids)
        if deleted:
            project_heads.count_change(project)
            vocabularies.renew(session, project)
    return Difference(added, deleted)


def _received(task: AnnotatedTask, redactor: Redactor) -> list[Received]:
    """What is stored of a task's annotations. Raises RedactionError if it cannot be masked."""
    data, annotations, predictions = task.data, task.annotations, task.predictions
    if redactor.is_on:
        body = {"data": data, "annotations": annotations, "predictions": predictions}
        data, annotations, predictions = RedactedBody(redactor).of(body).values()
    return [Received(annotation, task.task_id, data, predictions) for annotation in annotations]


def _add(services: Services, project_id: int, batch: list[Received]) -> int:
    with services.store.write() as session:
        project = session.get_one(Project, project_id, with_for_update=True)
        added = sum(apply_annotations(session, project_id, batch))
        if added:
            project_heads.count_change(project)
            vocabularies.renew(session, project)
        return added
