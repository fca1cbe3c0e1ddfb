"""With REDACT, an event that arrives is nowhere stored as it came, and its spans are learned in their places."""

import json
import logging
import sys
from typing import Any

import pytest
from flask.testing import FlaskClient
from sqlalchemy import select

from backend.services import Services
from lorabel import logs
from lorabel.database.base_table import Table
from lorabel.database.tables import Annotation, Event
from lorabel.problems.binding import bind
from lorabel.settings import Settings
from tests.backend import requests
from workers.collect import apply_pending

EMAIL = "anna.bell@mail.example.com"
TEXT = f"Mail {EMAIL} or call Anna Bell at +49 30 1234567."
CONFIG = (
    '<View><Text name="text" value="$text"/><Labels name="label" toName="text">'
    '<Label value="Person"/><Label value="Mail"/></Labels></View>'
)


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"redact": "email,phone"})


def span(words: str, label: str) -> dict[str, Any]:
    start = TEXT.index(words)
    value = {"start": start, "end": start + len(words), "text": words, "labels": [label]}
    return {"id": label, "from_name": "label", "to_name": "text", "type": "labels", "value": value}


def event() -> dict[str, Any]:
    result = [span("Anna Bell", "Person"), span("bell@mail", "Mail")]
    annotation = requests.annotation(7) | {"result": result, "completed_by": {"id": 1, "email": EMAIL}}
    annotation["prediction"] = {"id": 5, "result": [span(EMAIL, "Mail")], "model_version": "m", "score": 0.5}
    data = {"text": TEXT, "image": "https://pictures.test/a.png", "more": [{"author": f"by {EMAIL}"}]}
    body = requests.event("ANNOTATION_CREATED", annotation=annotation, task={"id": 1, "data": data})
    body["project"] |= {"label_config": CONFIG, "created_by": {"email": EMAIL}}
    return body


def test_an_event_is_stored_without_personal_data(client: FlaskClient, services: Services, metric: Any) -> None:
    assert client.post("/webhook", json=event()).status_code == 200
    apply_pending(services.store)
    with services.store.read() as session:
        payload = json.loads(session.scalars(select(Event.payload)).one())
        for table in Table.metadata.sorted_tables:
            for row in session.execute(select(table)):
                assert not any(word in repr(tuple(row)) for word in (EMAIL, "bell@mail", "1234567")), table.name
    for path in services.settings.data_dir.rglob("*"):
        assert not (path.is_file() and EMAIL.encode() in path.read_bytes()), path
    masked = payload["task"]["data"]["text"]
    assert masked == "Mail xxxx.xxxx@xxxx.xxxxxxx.xxx or call Anna Bell at +00 00 0000000."
    assert payload["task"]["data"]["image"] == "https://pictures.test/a.png"
    assert payload["project"]["label_config"] == CONFIG
    assert payload["annotation"]["updated_at"] == event()["annotation"]["updated_at"]
    regions = payload["annotation"]["result"] + payload["annotation"]["prediction"]["result"]
    for region in regions:
        value = region["value"]
        assert value["text"] == masked[value["start"] : value["end"]]
    with services.store.read() as session:
        stored = session.scalars(select(Annotation)).one()
    assert stored.result == payload["annotation"]["result"] and stored.task_data == payload["task"]["data"]
    assert metric("lorabel_redacted_total", kind="email") > 0
    assert metric("lorabel_redacted_total", kind="phone") == 1


def test_spans_are_learned_at_their_places_in_the_masked_text(client: FlaskClient, services: Services) -> None:
    client.post("/webhook", json=event())
    with services.store.read() as session:
        payload = json.loads(session.scalars(select(Event.payload)).one())
    (problem,) = bind(CONFIG).bindings
    target: Any = problem.target(payload["annotation"]["result"], payload["task"]["data"])
    assert {each[0] for each in target.spans} == {TEXT.index(words) for words in ("Anna Bell", "bell@mail")}


def test_logs_are_masked(services: Services) -> None:
    root = logging.getLogger()
    before = root.handlers[:]
    handler = logging.StreamHandler()
    logs.configure(services.settings, handler)
    try:
        record = logging.LogRecord("lorabel.x", logging.WARNING, __file__, 1, "task 7: %s", (EMAIL,), None)
        assert "task 7: xxxx.xxxx@" in handler.format(record) and EMAIL not in handler.format(record)
        try:
            raise ValueError(EMAIL)
        except ValueError:
            record = logging.LogRecord("x", logging.ERROR, __file__, 1, "failed", (), None)
            record.exc_info = sys.exc_info()
        assert EMAIL not in handler.format(record)
    finally:
        root.handlers[:] = before
