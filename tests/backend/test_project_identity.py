"""Two Label Studios, each with a project 1, on one backend; and one of them reset."""

from typing import Any

import pytest
from flask.testing import FlaskClient
from sqlalchemy import select

from backend.services import Services
from lorabel.database import projects
from lorabel.database.tables import Annotation, Event, Project
from tests.backend import requests
from workers.collect import apply_pending

FIRST, SECOND = "2026-11-22T05:12:01.772489Z", "2026-11-25T17:00:00.000001Z"
FIRST_KEY, SECOND_KEY = "1.1795324321", "1.1795626000"
SECOND_ID = 1_000_000


def event(created_at: str | None, action: str = "ANNOTATION_CREATED", **parts: Any) -> dict[str, Any]:
    body = requests.event(action, **parts)
    if created_at is not None:
        body["project"]["created_at"] = created_at
    return body


def submitted(created_at: str, annotation_id: int, label: str) -> dict[str, Any]:
    annotation = requests.annotation(annotation_id, task_id=3)
    annotation["result"][0]["value"]["choices"] = [label]
    return event(created_at, annotation=annotation, task=requests.task(3))


def labels(services: Services) -> dict[tuple[int, int], str]:
    """By project and annotation, its label."""
    with services.store.read() as session:
        rows = session.scalars(select(Annotation).where(Annotation.is_deleted.is_(False)))
        return {(row.project_id, row.id): row.result[0]["value"]["choices"][0] for row in rows}


def version(client: FlaskClient, key: str, **changes: Any) -> str:
    return str(client.post("/setup", json=requests.setup(project=key, **changes)).json["model_version"])


def predicted_by(client: FlaskClient, key: str) -> str:
    answer = client.post("/predict", json=requests.predict(requests.task(3)) | {"project": key})
    return str(answer.json["results"][0]["model_version"])


@pytest.mark.parametrize("hostname", ["http://localhost:8080", "http://other.example.com"])
def test_a_second_project_1_is_predicted_by_its_own_version(
    client: FlaskClient, services: Services, hostname: str
) -> None:
    assert version(client, FIRST_KEY) == "p1.v0"
    assert version(client, SECOND_KEY, hostname=hostname) == f"p{SECOND_ID}.v0"
    assert predicted_by(client, FIRST_KEY) == "p1.v0"
    assert predicted_by(client, SECOND_KEY) == f"p{SECOND_ID}.v0"
    assert version(client, FIRST_KEY) == "p1.v0"


def test_annotations_of_two_projects_1_with_the_same_ids_are_both_kept(
    client: FlaskClient, services: Services
) -> None:
    client.post("/webhook", json=submitted(FIRST, 7, "red"))
    client.post("/webhook", json=submitted(SECOND, 7, "blue"))
    apply_pending(services.store)
    assert labels(services) == {(1, 7): "red", (SECOND_ID, 7): "blue"}
    client.post("/webhook", json=event(SECOND, "ANNOTATIONS_DELETED", annotations=[{"id": 7}]))
    client.post("/webhook", json=event(SECOND, "TASKS_DELETED", tasks=[{"id": 3}]))
    client.post("/webhook", json=submitted(FIRST, 8, "red"))
    apply_pending(services.store)
    assert labels(services) == {(1, 7): "red", (1, 8): "red"}


def test_a_reset_label_studio_starts_afresh(client: FlaskClient, services: Services) -> None:
    client.post("/webhook", json=submitted(FIRST, 7, "red"))
    assert version(client, FIRST_KEY) == "p1.v0"
    projects.upsert(services.store, 1, live_number=4)
    client.post("/webhook", json=submitted(SECOND, 7, "blue"))
    apply_pending(services.store)
    assert version(client, SECOND_KEY) == f"p{SECOND_ID}.v0"
    assert labels(services) == {(1, 7): "red", (SECOND_ID, 7): "blue"}


def test_rest_shows_both_ids(client: FlaskClient) -> None:
    version(client, FIRST_KEY)
    version(client, SECOND_KEY)
    records = client.get("/api/v1/projects").json["projects"]
    assert [(record["id"], record["label_studio_id"]) for record in records] == [(1, 1), (SECOND_ID, 1)]
    assert client.get(f"/api/v1/projects/{SECOND_ID}").json["label_studio_created_at"].startswith("2026-11-25")


def test_start_training_trains_the_project_that_it_names(client: FlaskClient, services: Services) -> None:
    version(client, FIRST_KEY)
    version(client, SECOND_KEY)
    assert client.post("/webhook", json=event(SECOND, "START_TRAINING")).json["job"]
    assert len(client.get(f"/api/v1/projects/{SECOND_ID}/runs").json["runs"]) == 1
    assert client.get("/api/v1/projects/1/runs").json["runs"] == []


def test_an_event_without_creation_time_is_of_the_only_project_with_its_number(
    client: FlaskClient, services: Services
) -> None:
    """PROJECT_DELETED, which only webhooks of a whole organization send, has the id alone."""
    version(client, FIRST_KEY)
    client.post("/webhook", json={"action": "PROJECT_DELETED", "project": {"id": 1}})
    apply_pending(services.store)
    with services.store.read() as session:
        assert session.get_one(Project, 1).is_deleted


def test_an_event_that_fits_two_projects_is_refused_and_changes_nothing(
    client: FlaskClient, services: Services, caplog: pytest.LogCaptureFixture
) -> None:
    version(client, FIRST_KEY)
    version(client, SECOND_KEY)
    answer = client.post("/webhook", json={"action": "PROJECT_DELETED", "project": {"id": 1}})
    assert answer.status_code == 409
    assert f"fits the projects 1 and {SECOND_ID} here" in answer.json["error"]
    assert "fits the projects" in caplog.text
    with services.store.read() as session:
        assert session.scalars(select(Event)).all() == []


def test_an_event_of_an_unknown_project_belongs_to_none(client: FlaskClient, services: Services) -> None:
    body = event(FIRST, "TASKS_DELETED", tasks=[{"id": 3}])
    del body["project"]["label_config"]
    assert client.post("/webhook", json=body).status_code == 200
    with services.store.read() as session:
        assert session.scalars(select(Event.project_id)).all() == [None]
        assert session.scalars(select(Project)).all() == []


def test_an_event_does_not_decide_which_project_a_row_of_an_older_version_is(
    client: FlaskClient, services: Services
) -> None:
    """Anybody may send an event. With a made-up time it would take the row away from its own project."""
    projects.upsert(services.store, 1, label_config=requests.CONFIG, live_number=3)
    assert client.post("/webhook", json=submitted("2020-01-01T00:00:00.000001Z", 7, "red")).status_code == 200
    with services.store.read() as session:
        assert session.get_one(Project, 1).label_studio_created_at is None
    assert version(client, FIRST_KEY) == "p1.v3"
    assert client.post("/webhook", json=submitted("2026-11-22T05:12:01.000001Z", 8, "red")).status_code == 200
    assert client.post("/webhook", json=submitted(FIRST, 9, "red")).status_code == 200
