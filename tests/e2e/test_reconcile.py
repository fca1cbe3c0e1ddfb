"""Comparison with Label Studio finds annotations made before connecting, and deletions that send no event."""

from collections.abc import Iterator

import pytest
from sqlalchemy import select

from lorabel.database import projects
from lorabel.database.store import Store
from lorabel.database.tables import Annotation
from lorabel.demo.project import LABEL_CONFIG, create_project
from lorabel.label_studio.client import LabelStudio
from lorabel.settings import Settings
from tests.e2e.label_studio_server import Server
from tests.workers.pictures import result
from workers.reconcile import reconcile
from workers.services import Services

pytestmark = pytest.mark.e2e


@pytest.fixture
def services(settings: Settings, store: Store) -> Iterator[Services]:
    services = Services.open(settings)
    yield services
    services.close()


def annotate(client: LabelStudio, task_id: int, grade: str, **fields: object) -> int:
    body = {"result": result(grade), "lead_time": 1.0, **fields}
    return int(client.call("POST", f"/api/tasks/{task_id}/annotations/", json=body)["id"])


def stored_annotations(store: Store) -> dict[int, str]:
    """Annotation id -> its grade, `skipped` or `deleted`."""
    with store.read() as session:
        return {row.id: describe(row) for row in session.scalars(select(Annotation))}


def describe(row: Annotation) -> str:
    if row.is_deleted:
        return "deleted"
    return "skipped" if row.was_cancelled else str((row.result or [])[0]["value"]["choices"][0])


def test_the_comparison_adds_missing_annotations_and_marks_deleted_ones(
    services: Services, store: Store, label_studio: Server, client: LabelStudio
) -> None:
    project_id = create_project(client, 4)
    first, second, third, _ = (task.task_id for task in client.tasks(project_id))
    first_id = annotate(client, first, "Grade A")
    second_id = annotate(client, second, "Grade B")
    skipped_id = annotate(client, third, "Grade C", was_cancelled=True)
    projects.upsert(
        store, project_id, label_config=LABEL_CONFIG, label_studio_url=label_studio.url, api_key=label_studio.token
    )
    assert "3 annotations were missing here, 0 are gone there" in reconcile(services, project_id)
    assert stored_annotations(store) == {first_id: "Grade A", second_id: "Grade B", skipped_id: "skipped"}
    assert "0 annotations were missing here, 0 are gone there" in reconcile(services, project_id)
    client.call("PATCH", f"/api/annotations/{second_id}/", json={"result": result("Grade C")})
    client.call("POST", f"/api/annotations/{first_id}/convert-to-draft", json={})
    assert "1 annotations were missing here, 1 are gone there" in reconcile(services, project_id)
    assert stored_annotations(store) == {first_id: "deleted", second_id: "Grade C", skipped_id: "skipped"}


def test_a_host_that_only_setup_has_named_is_never_called(
    services: Services, store: Store, label_studio: Server, client: LabelStudio
) -> None:
    project_id = create_project(client, 1)
    (task,) = client.tasks(project_id)
    annotate(client, task.task_id, "Grade A")
    projects.upsert(store, project_id, hostname=label_studio.url, setup_token=label_studio.token)
    assert "not connected by `lorabel connect`" in reconcile(services, project_id)
    assert stored_annotations(store) == {}


def test_a_refused_token_is_reported_and_deletes_nothing(
    services: Services, store: Store, label_studio: Server, client: LabelStudio
) -> None:
    project_id = create_project(client, 1)
    projects.upsert(store, project_id, label_studio_url=label_studio.url, api_key="wrong")
    with store.write() as session:
        session.add(Annotation(id=10**6, project_id=project_id, task_id=1, result=result("Grade A")))
    assert "not compared with Label Studio" in reconcile(services, project_id)
    assert set(stored_annotations(store).values()) == {"Grade A"}
