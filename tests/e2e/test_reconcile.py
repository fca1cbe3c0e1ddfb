"""What events did not bring: annotations made before the backend was connected, deletions that send nothing."""

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
def here(settings: Settings, store: Store) -> Iterator[Services]:
    here = Services.open(settings)
    yield here
    here.close()


def annotate(client: LabelStudio, task_id: int, grade: str, **parts: object) -> int:
    body = {"result": result(grade), "lead_time": 1.0, **parts}
    return int(client.call("POST", f"/api/tasks/{task_id}/annotations/", json=body)["id"])


def known(store: Store) -> dict[int, str]:
    with store.read() as session:
        return {row.id: describe(row) for row in session.scalars(select(Annotation))}


def describe(row: Annotation) -> str:
    if row.is_deleted:
        return "deleted"
    return "skipped" if row.was_cancelled else str((row.result or [])[0]["value"]["choices"][0])


def test_a_comparison_brings_missed_annotations_and_takes_silent_deletions(
    here: Services, store: Store, label_studio: Server, client: LabelStudio
) -> None:
    project_id = create_project(client, 4)
    first, second, third, _ = (task.task_id for task in client.tasks(project_id))
    kept = annotate(client, first, "Grade A")
    changed = annotate(client, second, "Grade B")
    skipped = annotate(client, third, "Grade C", was_cancelled=True)
    projects.remember(
        store, project_id, label_config=LABEL_CONFIG, label_studio_url=label_studio.url, api_key=label_studio.token
    )
    assert "3 annotations were missing here, 0 are gone there" in reconcile(here, project_id)
    assert known(store) == {kept: "Grade A", changed: "Grade B", skipped: "skipped"}
    assert "0 annotations were missing here, 0 are gone there" in reconcile(here, project_id)
    client.call("PATCH", f"/api/annotations/{changed}/", json={"result": result("Grade C")})
    client.call("POST", f"/api/annotations/{kept}/convert-to-draft", json={})
    assert "1 annotations were missing here, 1 are gone there" in reconcile(here, project_id)
    assert known(store) == {kept: "deleted", changed: "Grade C", skipped: "skipped"}


def test_a_host_that_only_setup_named_is_never_asked(
    here: Services, store: Store, label_studio: Server, client: LabelStudio
) -> None:
    project_id = create_project(client, 1)
    (task,) = client.tasks(project_id)
    annotate(client, task.task_id, "Grade A")
    projects.remember(store, project_id, hostname=label_studio.url, setup_token=label_studio.token)
    assert "not connected by `lorabel connect`" in reconcile(here, project_id)
    assert known(store) == {}


def test_a_token_that_is_refused_is_said_and_deletes_nothing(
    here: Services, store: Store, label_studio: Server, client: LabelStudio
) -> None:
    project_id = create_project(client, 1)
    projects.remember(store, project_id, label_studio_url=label_studio.url, api_key="wrong")
    with store.write() as session:
        session.add(Annotation(id=10**6, project_id=project_id, task_id=1, result=result("Grade A")))
    assert "not compared with Label Studio" in reconcile(here, project_id)
    assert set(known(store).values()) == {"Grade A"}
