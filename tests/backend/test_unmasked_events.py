"""What an event has beside the task's texts is masked, too; and what cannot be masked is not stored."""

import json
from dataclasses import replace
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import select

from backend.services import EXTENSION, Services
from lorabel.database.base_table import Table
from lorabel.database.tables import Event, UnreadableTask
from lorabel.labeling.regions import chat_message
from lorabel.redaction import Redactor
from lorabel.settings import Settings
from tests.backend import requests
from tests.backend.test_redacted_events import EMAIL
from tests.finders import WordFinder
from tests.lorabel.fake_label_studio import FakeLabelStudio

PHONE = "+49 30 1234567"


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"redact": "email,phone"})


@pytest.fixture
def finder(app: Flask) -> WordFinder:
    """Knows a name where it is greeted, and fails at `unreadable`."""
    finder = WordFinder({"Anna Bell": "PERSON"}, context="Dear", fault="unreadable")
    app.extensions[EXTENSION] = replace(app.extensions[EXTENSION], redactor=Redactor(["email"], {}, finder))
    return finder


def stored(services: Services) -> list[Any]:
    with services.store.read() as session:
        return [json.loads(payload) for payload in session.scalars(select(Event.payload).order_by(Event.id))]


def test_remarks_and_accounts_are_masked_and_what_the_label_config_says_is_not(
    client: FlaskClient, services: Services
) -> None:
    account = {"id": 4, "first_name": "Anna", "last_name": "Bell", "username": "anna", "email": EMAIL}
    task = {"id": 1, "data": {"image": "/a.png"}, "meta": {"from": PHONE}}
    body = requests.event("ANNOTATION_CREATED", annotation=requests.annotation(7), task=task)
    body["annotation"] |= {"completed_by": account}
    body["project"] |= {"description": f"ask {PHONE}", "control_weights": {"text": {"labels": {PHONE: 1.0}}}}
    comment = requests.event("COMMENT_CREATED", comment={"text": f"call {PHONE}", "created_by": account})
    for event in (body, comment):
        assert client.post("/webhook", json=event).status_code == 200
    masked, remark = stored(services)
    assert masked["task"] == {**task, "meta": {"from": "+00 00 0000000"}}
    assert masked["project"] == {**body["project"], "description": "ask +00 00 0000000"}
    kept = {"id": 4, "first_name": "Xxxx", "last_name": "Xxxx", "username": "xxxx"}
    assert masked["annotation"]["completed_by"] == {**kept, "email": "xxxx.xxxx@xxxx.xxxxxxx.xxx"}
    assert remark["comment"]["text"] == "call +00 00 0000000"
    assert not any(word in json.dumps(remark) for word in ("1234567", "Bell", "anna"))


def test_messages_of_a_chat_are_masked(client: FlaskClient, services: Services) -> None:
    annotation = requests.annotation(7) | {"result": [chat_message("chat", "user", f"call {PHONE}")]}
    task = {"id": 1, "data": {"chat": [{"role": "user", "content": f"call {PHONE}"}]}}
    client.post("/webhook", json=requests.event("ANNOTATION_CREATED", annotation=annotation, task=task))
    (masked,) = stored(services)
    assert masked["annotation"]["result"] == [chat_message("chat", "user", "call +00 00 0000000")]
    assert masked["task"]["data"]["chat"] == [{"role": "user", "content": "call +00 00 0000000"}]


@pytest.mark.usefixtures("finder")
def test_a_name_that_is_typed_alone_is_masked_as_in_the_text(client: FlaskClient, services: Services) -> None:
    values = [{"text": ["Anna Bell", "Annabelle"]}, {"start": 5, "end": 14, "text": "Anna Bell"}]
    annotation = requests.annotation(7) | {"result": [{"from_name": "who", "value": value} for value in values]}
    task = {"id": 1, "data": {"text": "Dear Anna Bell, I go."}}
    client.post("/webhook", json=requests.event("ANNOTATION_CREATED", annotation=annotation, task=task))
    (masked,) = stored(services)
    assert masked["task"]["data"]["text"] == "Dear Xxxx Xxxx, I go."
    texts = [region["value"]["text"] for region in masked["annotation"]["result"]]
    assert texts == [["Xxxx Xxxx", "Annabelle"], "Xxxx Xxxx"]


@pytest.mark.usefixtures("finder")
def test_an_event_that_cannot_be_masked_is_refused_and_nothing_of_it_is_kept(
    client: FlaskClient, services: Services, metric: Any, caplog: pytest.LogCaptureFixture
) -> None:
    task = {"id": 1, "data": {"text": "Anna Bell is unreadable"}}
    event = requests.event("ANNOTATION_CREATED", annotation=requests.annotation(7), task=task)
    answer = client.post("/webhook", json=event)
    assert answer.status_code == 503
    assert "ANNOTATION_CREATED is refused: a text of 23 characters cannot be masked" in answer.json["error"]
    assert "Anna" not in answer.json["error"] + caplog.text
    assert metric("lorabel_unmasked_events_total", action="ANNOTATION_CREATED") == 1
    with services.store.read() as session:
        for table in Table.metadata.sorted_tables:
            assert not any("Anna" in repr(tuple(row)) for row in session.execute(select(table))), table.name
    event["task"] = {"id": 1, "data": {"text": "a text"}}
    assert client.post("/webhook", json=event).status_code == 200


def test_why_a_task_cannot_be_read_is_stored_without_what_it_quotes(
    client: FlaskClient, services: Services, caplog: pytest.LogCaptureFixture
) -> None:
    task = requests.task(1) | {"data": {"image": [{"of": f"Mail {EMAIL} now"}]}}
    assert client.post("/predict", json=requests.predict(task)).status_code == 200
    with services.store.read() as session:
        reason = session.scalars(select(UnreadableTask.reason)).one()
    assert "task data has no picture under 'image'" in reason and "found {'of': 'Mail xxxx" in reason
    for text in (reason, caplog.text):
        assert not any(part in text for part in ("anna", "bell", "ample", "com"))


def test_what_a_task_shows_is_masked_on_pages(client: FlaskClient, label_studio: FakeLabelStudio) -> None:
    config = requests.CONFIG.replace("Image", "Text").replace("image", "text")
    client.post("/setup", json=requests.setup(schema=config))
    for task in label_studio.tasks:
        task["data"] = {"text": f"{'a ' * 88} Mail {EMAIL} and call {PHONE}"}
        task["predictions"] = [{"id": task["id"], "score": 0.5, "model_version": "p1.v1", "result": []}]
    html = client.get("/ui/projects/1/tasks?show=unsure").text
    assert "Mail xxxx.xxxx@" in html
    assert "anna" not in html
