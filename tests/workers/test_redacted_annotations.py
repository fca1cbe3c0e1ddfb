"""With REDACT, what a run reads from Label Studio's API, and lines that were read in pictures, are masked."""

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import select

from lorabel.database import bulk_runs, projects
from lorabel.database.tables import Annotation, BulkRunKind, Event, Project, UnreadableTask
from lorabel.feature_contracts import Features
from lorabel.label_studio.records import AnnotatedTask
from lorabel.labeling.redacted_bodies import RedactedBody
from lorabel.redaction import Redactor
from lorabel.space_contracts import TextLine
from tests.backend import requests
from tests.finders import WordFinder
from tests.lorabel.fake_label_studio import FakeLabelStudio
from tests.workers.conftest import add_tasks
from tests.workers.test_order import BACKEND
from workers import index_tasks, lookahead, order, preannotate
from workers.feature_collection import _masked
from workers.reconcile import _received, reconcile
from workers.services import Services

EMAIL = "anna.bell@mail.example.com"
MASK = "xxxx.xxxx@xxxx.xxxxxxx.xxx"
REDACTOR = Redactor(["email"], {})


@pytest.fixture
def services(services: Services, monkeypatch: pytest.MonkeyPatch) -> Iterator[Services]:
    """They mask e-mail addresses, and cannot mask what is `unreadable`."""
    masking = replace(services, redactor=Redactor(["email"], {}, WordFinder({}, fault="unreadable")))
    monkeypatch.setattr(Services, "current", lambda: masking)
    yield masking


def test_annotations_of_the_api_are_masked_as_their_task_is() -> None:
    text = f"Mail {EMAIL} now"
    start = text.index("bell@mail")
    value = {"start": start, "end": start + len("bell@mail"), "text": "bell@mail", "labels": ["Mail"]}
    annotation = {
        "id": 7,
        "result": [{"from_name": "label", "value": value}],
        "updated_at": "2026-11-22T05:12:14Z",
    }
    prediction = {"id": 5, "result": [{"value": {"text": [f"write {EMAIL}"]}}]}
    task = AnnotatedTask(1, {"text": text}, [annotation], predictions=[prediction])
    (received,) = _received(task, REDACTOR)
    assert received.task_data == {"text": f"Mail {MASK} now"}
    assert received.annotation["result"][0]["value"] == {**value, "text": "xxxx@xxxx"}
    assert received.annotation["updated_at"] == annotation["updated_at"]
    assert received.predictions[0]["result"][0]["value"]["text"] == [f"write {MASK}"]
    (as_it_is,) = _received(task, Redactor([], {}))
    assert as_it_is.task_data == {"text": text}


def test_lines_that_were_read_in_pictures_are_masked() -> None:
    line = TextLine(corners=(0.0, 0.0, 1.0, 1.0), text=f"to {EMAIL}", probability=0.9)
    features = Features(space="s", dim=0, float16="", logits=(), lines=(line,))
    masked = _masked(features, REDACTOR)
    assert isinstance(masked, Features) and [each.text for each in masked.lines] == [f"to {MASK}"]
    assert _masked(f"cannot read {EMAIL}", REDACTOR) == f"cannot read {MASK}"


def test_answers_that_are_no_spans_are_not_taken_for_parts_of_secrets() -> None:
    counted = {"from_name": "count", "type": "textarea", "value": {"text": ["4", "mail", "com"]}}
    typed = {"from_name": "note", "type": "textarea", "value": {"text": "example"}, "meta": {"text": ["bell"]}}
    body = {"data": {"text": f"write {EMAIL}, or call 4 times"}, "annotation": {"result": [counted, typed]}}
    assert RedactedBody(REDACTOR).of(body)["annotation"] == {"result": [counted, typed]}


def test_a_span_is_masked_as_its_own_task_says() -> None:
    def spans(*texts: str) -> list[dict[str, Any]]:
        return [{"value": {"start": "/p[1]", "startOffset": 2, "text": text}} for text in texts]

    tasks = [{"data": {"text": f"<p>to {EMAIL}</p>"}}, {"data": {"text": "<p>The bell rings in a mail</p>"}}]
    redacted = RedactedBody(REDACTOR).of({"tasks": tasks, "result": spans("bell@mail", "bell rings", "to", "be")})
    texts = [region["value"]["text"] for region in redacted["result"]]
    assert texts == ["xxxx@xxxx", "bell rings", "to", "be"]


@pytest.mark.parametrize("kind", ["predictions", "order", "index"])
def test_why_tasks_of_a_bulk_run_cannot_be_read_is_stored_without_what_it_quotes(
    services: Services, label_studio: FakeLabelStudio, kind: str
) -> None:
    add_tasks(label_studio, "red", "blue")
    label_studio.tasks[0]["data"] = {"image": [{"of": f"Mail {EMAIL} now"}]}
    if kind == "order":
        projects.upsert(services.store, 1, backend_url=BACKEND)
        label_studio.backends = [{"id": 1, "url": BACKEND, "title": "Lorabel", "state": "CO"}]
        run = bulk_runs.request(
            services.store, 1, "test", kind=BulkRunKind.ORDER, only_unlabeled=True, strategy="random"
        )
        order.order(run.id)
    elif kind == "index":
        run = bulk_runs.request(services.store, 1, "test", kind=BulkRunKind.INDEX)
        index_tasks.index_tasks(run.id)
    else:
        run = bulk_runs.request(services.store, 1, "test")
        preannotate.preannotate(run.id)
    with services.store.read() as session:
        run = bulk_runs.get(session, 1, run.id)
        noted = list(session.scalars(select(UnreadableTask.reason)))
    assert [failure["task_id"] for failure in run.failures] == [1]
    assert "found {'of': 'Mail xxxx" in run.failures[0]["reason"]
    assert len(noted) == (1 if kind == "predictions" else 0)
    for reason in (*noted, run.failures[0]["reason"]):
        assert not any(part in reason for part in ("anna", "bell", "ample", "com"))


def test_one_task_that_cannot_be_masked_does_not_keep_the_others_from_being_compared(
    services: Services, label_studio: FakeLabelStudio, caplog: pytest.LogCaptureFixture
) -> None:
    add_tasks(label_studio, "red", "blue", annotations=1)
    for number, task in enumerate(label_studio.tasks):
        task["annotations"] = [requests.annotation(10 + number, task["id"])]
    label_studio.tasks[0]["data"] = {"text": f"unreadable {EMAIL}"}
    assert "1 annotations were missing here, 0 are gone there" in reconcile(services, 1)
    with services.store.read() as session:
        assert list(session.scalars(select(Annotation.id))) == [11]
    assert "annotations of 1 tasks are left out" in caplog.text and "anna" not in caplog.text
    label_studio.tasks[0]["data"] = {"text": EMAIL}
    with services.store.write() as session:
        session.get_one(Project, 1).compared_fully_at = None
    reconcile(services, 1)
    with services.store.read() as session:
        assert session.get_one(Annotation, (1, 10)).task_data == {"text": MASK}


def test_new_tasks_are_predicted_ahead_with_their_texts_and_not_with_the_stored_masks(
    services: Services, label_studio: FakeLabelStudio, model_server: Any
) -> None:
    add_tasks(label_studio, "red")
    masked = [{"id": 1, "data": {"image": "http://pictures.test/blue.png"}}]
    with services.store.write() as session:
        payload = json.dumps(requests.event("TASKS_CREATED", tasks=masked))
        event = Event(action="TASKS_CREATED", project_id=1, payload=payload)
        session.add(event)
        session.flush()
        event_id = event.id
    lookahead.look_ahead(1, 0, event_id)
    assert ["red.png" in str(row.input) for row in model_server.rows] == [True]
