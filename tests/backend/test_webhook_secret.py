"""The secret of a project's webhook: which events /webhook refuses, and what it tells about it."""

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import select

from backend.app import create_app
from backend.services import EXTENSION, Services
from lorabel.database import projects, webhook_secrets
from lorabel.database.tables import Event, EventState, TrainingRun, now
from lorabel.settings import Settings
from tests.backend import requests
from tests.backend.test_webhook_events import EVENTS

SECRET = "one-secret"
OTHER_SECRET = "another-secret"
HEADERS = {"Lorabel-Secret": SECRET}
FORGED = [{}, {"Lorabel-Secret": ""}, {"Lorabel-Secret": OTHER_SECRET}, {"Lorabel-Secret": "s\xe9cret"}]
SIGNED_ACTIONS = [*(action for action in EVENTS if action != "START_TRAINING"), "LABEL_LINK_CREATED"]


def event(action: str, project_id: int = 1) -> dict[str, Any]:
    body = requests.event(action, **EVENTS.get(action, {}))
    return body | {"project": body["project"] | {"id": project_id}}


def set_secret(services: Services, project_id: int, secret: str, overlap: timedelta = timedelta()) -> None:
    projects.upsert(services.store, project_id, label_config=requests.CONFIG)
    webhook_secrets.announce(services.store, project_id, secret)
    webhook_secrets.enforce(services.store, project_id, overlap)


def stored(services: Services) -> list[str]:
    with services.store.read() as session:
        return list(session.scalars(select(Event.action).order_by(Event.id)))


@pytest.fixture
def strict_app(settings: Settings) -> Iterator[Flask]:
    app = create_app(settings.model_copy(update={"webhook_secret_required": True}))
    yield app
    app.extensions[EXTENSION].close()


@pytest.mark.parametrize(
    ("action", "headers"),
    [*((action, {}) for action in SIGNED_ACTIONS), *(("ANNOTATION_UPDATED", headers) for headers in FORGED[1:])],
)
def test_an_event_without_the_secret_of_its_project_is_refused(
    client: FlaskClient, services: Services, action: str, headers: dict[str, str], metric: Any
) -> None:
    set_secret(services, 1, SECRET)
    answer = client.post("/webhook", json=event(action), headers=headers)
    assert answer.status_code == 401
    assert stored(services) == []
    reason = "event with a wrong secret" if headers else "event without secret"
    assert metric("lorabel_refused_events_total", project="1", reason=reason) == 1


@pytest.mark.parametrize("action", SIGNED_ACTIONS)
def test_an_event_with_the_secret_is_stored(client: FlaskClient, services: Services, action: str) -> None:
    set_secret(services, 1, SECRET)
    assert client.post("/webhook", json=event(action), headers=HEADERS).status_code == 200
    assert stored(services) == [action]


def test_the_secret_of_one_project_is_not_good_for_another(client: FlaskClient, services: Services) -> None:
    set_secret(services, 1, SECRET)
    set_secret(services, 2, OTHER_SECRET)
    for project_id, status in ((1, 200), (2, 401)):
        answer = client.post("/webhook", json=event("ANNOTATION_CREATED", project_id), headers=HEADERS)
        assert answer.status_code == status
    assert len(stored(services)) == 1


@pytest.mark.parametrize("headers", [*FORGED, HEADERS])
def test_events_of_a_project_without_a_secret_are_accepted(
    client: FlaskClient, services: Services, headers: dict[str, str]
) -> None:
    set_secret(services, 2, OTHER_SECRET)
    assert client.post("/webhook", json=event("ANNOTATION_CREATED"), headers=headers).status_code == 200
    assert len(stored(services)) == 1


@pytest.mark.parametrize("action", [*SIGNED_ACTIONS, "START_TRAINING"])
def test_a_setting_refuses_events_of_projects_without_a_secret(strict_app: Flask, action: str) -> None:
    services: Services = strict_app.extensions[EXTENSION]
    client = strict_app.test_client()
    client.post("/setup", json=requests.setup())
    for project_id in (1, 9):
        assert client.post("/webhook", json=event(action, project_id), headers=HEADERS).status_code == 401
    assert stored(services) == []
    registry = services.metrics._registry
    for project in ("1", "unknown"):
        labels = {"project": project, "reason": "project without secret"}
        assert registry.get_sample_value("lorabel_refused_events_total", labels) == 1
    set_secret(services, 1, SECRET)
    assert client.post("/webhook", json=event(action), headers=HEADERS).status_code == 200


def test_while_the_secret_is_new_no_event_is_refused(client: FlaskClient, services: Services) -> None:
    def statuses() -> list[int]:
        headers = ({}, {"Lorabel-Secret": SECRET}, {"Lorabel-Secret": OTHER_SECRET})
        return [client.post("/webhook", json=event("TASKS_DELETED"), headers=h).status_code for h in headers]

    projects.upsert(services.store, 1, label_config=requests.CONFIG)
    webhook_secrets.announce(services.store, 1, SECRET)
    assert statuses() == [200, 200, 200]
    webhook_secrets.enforce(services.store, 1, timedelta(hours=1))
    assert statuses() == [200, 200, 200], "events that were sent without a header may still come"
    projects.upsert(services.store, 1, secret_enforced_at=now())
    assert statuses() == [401, 200, 401]
    webhook_secrets.announce(services.store, 1, OTHER_SECRET)
    assert statuses() == [401, 200, 200]
    webhook_secrets.enforce(services.store, 1, timedelta(hours=1))
    assert statuses() == [401, 200, 200]
    projects.upsert(services.store, 1, secret_enforced_at=now())
    assert statuses() == [401, 401, 200]


def test_a_secret_that_never_reached_label_studio_does_not_replace_the_one_that_did(
    client: FlaskClient, services: Services
) -> None:
    set_secret(services, 1, SECRET)
    webhook_secrets.announce(services.store, 1, "lost")
    webhook_secrets.announce(services.store, 1, OTHER_SECRET)
    for secret, status in ((SECRET, 200), (OTHER_SECRET, 200), ("lost", 401)):
        headers = {"Lorabel-Secret": secret}
        assert client.post("/webhook", json=event("TASKS_DELETED"), headers=headers).status_code == status


def test_start_training_needs_no_secret_where_the_project_has_one(client: FlaskClient, services: Services) -> None:
    set_secret(services, 1, SECRET)
    answer = client.post("/webhook", json=event("START_TRAINING"))
    assert answer.status_code == 200 and answer.json["job"]


def test_start_training_of_a_made_up_project_creates_nothing(client: FlaskClient, services: Services) -> None:
    answer = client.post("/webhook", json=event("START_TRAINING", 77))
    assert (answer.status_code, answer.json) == (200, {"status": "ok"})
    with services.store.read() as session:
        assert list(session.scalars(select(TrainingRun))) == []
        assert list(session.scalars(select(Event.state))) == [EventState.IGNORED]
    assert client.get("/api/v1/projects").json == {"projects": []}


def test_start_training_does_not_change_a_label_config(client: FlaskClient, services: Services) -> None:
    client.post("/setup", json=requests.setup())
    body = event("START_TRAINING") | {"project": {"id": 1, "label_config": requests.TWO_TAGS}}
    assert client.post("/webhook", json=body).json["job"]
    with services.store.read() as session:
        assert projects.get(session, 1).label_config == requests.CONFIG


def test_bodies_that_name_no_project_are_answered_as_without_secrets(
    client: FlaskClient, strict_app: Flask, services: Services
) -> None:
    set_secret(services, 1, SECRET)
    for answering in (client, strict_app.test_client()):
        assert answering.post("/webhook", data=b"{").status_code == 400
        assert answering.post("/webhook", json={"action": "PROJECT_UPDATED"}).status_code == 400
        assert answering.post("/webhook", json={"action": "PING"}).status_code == 200


def test_no_secret_is_logged_stored_or_shown(
    client: FlaskClient, services: Services, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    set_secret(services, 1, SECRET)
    refused = client.post("/webhook", json=event("TASKS_DELETED"), headers={"Lorabel-Secret": OTHER_SECRET})
    client.post("/webhook", json=event("TASKS_DELETED"), headers=HEADERS)
    with services.store.read() as session:
        row = vars(projects.get(session, 1))
    paths = ("/api/v1/projects", "/api/v1/projects/1", "/api/v1/events", "/metrics")
    shown = [refused.text, caplog.text, str(row), *(client.get(path).text for path in paths)]
    assert not [text for text in shown if SECRET in text or OTHER_SECRET in text]
    assert not [text for text in shown[3:] if str(row["secret_hash"]) in text]
    assert "project 1 of Label Studio: TASKS_DELETED is refused, event with a wrong secret" in caplog.text
