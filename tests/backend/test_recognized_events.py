"""With Presidio and a model of spaCy, names are nowhere stored, and spans are learned in their places."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient
from sqlalchemy import select

pytest.importorskip("presidio_analyzer", reason="the extra `presidio` is not installed: make test-presidio")

from backend.services import Services
from lorabel import logs
from lorabel.database.base_table import Table
from lorabel.database.tables import Annotation, Event
from lorabel.problems.binding import bind
from lorabel.settings import Settings
from tests.backend import requests
from tests.name_models import train_name_model
from workers.collect import apply_pending

NAME, CARD, EMAIL = "Marta Lindqvist", "4111 1111 1111 1111", "marta@mail.example.com"
TEXT = f"😀 Dear {NAME}, thank you for your letter. My card is {CARD}, write to {EMAIL}."
CONFIG = (
    '<View><Text name="text" value="$text"/><Labels name="label" toName="text">'
    '<Label value="Person"/><Label value="Card"/></Labels></View>'
)
SECRETS = ("Marta", "Lindqvist", "4111", "marta@")


@pytest.fixture(scope="module")
def name_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_name_model(tmp_path_factory.mktemp("names"))


@pytest.fixture
def settings(settings: Settings, name_model: Path) -> Settings:
    return settings.model_copy(update={"redact": "presidio", "redact_spacy_model": str(name_model)})


def span(words: str, label: str) -> dict[str, Any]:
    start = TEXT.index(words)
    value = {"start": start, "end": start + len(words), "text": words, "labels": [label]}
    return {"id": label, "from_name": "label", "to_name": "text", "type": "labels", "value": value}


def event() -> dict[str, Any]:
    result = [span(NAME, "Person"), span("1111 1111, write", "Card")]
    result.append({"from_name": "who", "to_name": "text", "type": "textarea", "value": {"text": [NAME]}})
    annotation = requests.annotation(7) | {"result": result, "completed_by": {"id": 1, "email": EMAIL}}
    body = requests.event("ANNOTATION_CREATED", annotation=annotation, task={"id": 1, "data": {"text": TEXT}})
    body["project"] |= {"label_config": CONFIG}
    return body


def test_an_event_is_stored_without_names_and_its_spans_are_learned_in_their_places(
    client: FlaskClient, services: Services, metric: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        assert client.post("/webhook", json=event()).status_code == 200
    apply_pending(services.store)
    with services.store.read() as session:
        payload = json.loads(session.scalars(select(Event.payload)).one())
        annotation = session.scalars(select(Annotation)).one()
        for table in Table.metadata.sorted_tables:
            for row in session.execute(select(table)):
                assert not any(secret in repr(tuple(row)) for secret in SECRETS), table.name
    for path in services.settings.data_dir.rglob("*"):
        assert not (path.is_file() and any(secret.encode() in path.read_bytes() for secret in SECRETS)), path
    masked = payload["task"]["data"]["text"]
    assert masked == (
        "😀 Dear Xxxxx Xxxxxxxxx, thank you for your letter. My card is 0000 0000 0000 0000, write to "
        "xxxxx@xxxx.xxxxxxx.xxx."
    )
    *spans, typed = annotation.result
    for region in spans:
        value = region["value"]
        assert value["text"] == masked[value["start"] : value["end"]]
    assert typed["value"]["text"] == ["Xxxxx Xxxxxxxxx"]
    (problem,) = bind(CONFIG).bindings
    target: Any = problem.target(annotation.result, annotation.task_data or {})
    assert {each[0] for each in target.spans} == {TEXT.index(NAME), TEXT.index("1111 1111, write")}

    assert metric("lorabel_redacted_total", kind="PERSON") == 2
    assert metric("lorabel_redacted_total", kind="CREDIT_CARD") == 1
    assert "masked in ANNOTATION_CREATED: 1 CREDIT_CARD, 2 PERSON, 2 email" in caplog.text
    report = caplog.text + services.metrics.render().decode()
    assert not any(secret in report for secret in SECRETS)


def test_logs_have_no_names_and_a_fault_of_masking_shows_nothing(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = logging.getLogger()
    before = root.handlers[:]
    handler = logging.StreamHandler()
    logs.configure(services.settings, handler)
    try:
        record = logging.LogRecord(
            "lorabel.x", logging.WARNING, __file__, 1, "task 7: found %r", (f"Dear {NAME}, it broke",), None
        )
        line = handler.format(record)
        assert "Dear Xxxxx Xxxxxxxxx, it broke" in line and not any(secret in line for secret in SECRETS)

        def fail(*_: object, **__: object) -> None:
            logging.getLogger("backend").warning("while masking %s", NAME)
            raise ValueError(NAME)

        monkeypatch.setattr("presidio_analyzer.AnalyzerEngine.analyze", fail)
        record.args = (f"Dear {NAME}, it broke again",)
        line = handler.format(record)
        assert "withheld" in line and "ValueError" in line and "Marta" not in line
    finally:
        root.handlers[:] = before


def test_an_event_in_which_presidio_fails_is_refused(
    client: FlaskClient, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ValueError(f"Did not find word '{NAME}'")

    monkeypatch.setattr("presidio_analyzer.AnalyzerEngine.analyze", fail)
    answer = client.post("/webhook", json=event() | {"task": {"id": 1, "data": {"text": f"{TEXT} Once more."}}})
    assert answer.status_code == 503
    assert "cannot be masked (ValueError at" in answer.json["error"] and "Marta" not in answer.json["error"]
    with services.store.read() as session:
        assert session.scalars(select(Event)).all() == []
