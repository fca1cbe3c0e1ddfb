"""/webhook, as tests/data/recordings/CLIENT_CONTRACT.md describes it."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import select

from backend.app import create_app
from backend.services import EXTENSION, Services
from backend.webhook_events import EVENT_BODIES
from lorabel.database.tables import Event, EventState, Project, RunState, TrainingRun
from lorabel.settings import Settings
from tests.backend import requests
from tests.sqlite_limits import limit_pages
from workers.collect import apply_pending

EVENTS = {
    "ANNOTATION_CREATED": {"annotation": requests.annotation(7), "task": requests.task(3)},
    "ANNOTATIONS_CREATED": {"annotation": [requests.annotation(7)], "task": [requests.task(3)]},
    "ANNOTATION_UPDATED": {"annotation": requests.annotation(7), "task": requests.task(3)},
    "ANNOTATIONS_DELETED": {"annotations": [{"id": 7}]},
    "TASKS_CREATED": {"tasks": [requests.task(3)]},
    "TASKS_DELETED": {"tasks": [{"id": 3}]},
    "PROJECT_UPDATED": {},
    "PROJECT_DELETED": {},
    "START_TRAINING": {},
}


def created(**changes: Any) -> dict[str, Any]:
    """An event about a new annotation with these fields."""
    return requests.event("ANNOTATION_CREATED", annotation=requests.annotation(7) | changes, task=requests.task(1))


class FakeJobs:
    """Stands in for the queues and records the jobs that were enqueued."""

    def __init__(self, services: Services) -> None:
        self.store = services.store
        self.collected: list[int] = []
        self.trained: list[tuple[int, int]] = []
        self.looked_ahead: list[tuple[int, int]] = []

    def collect(self, event_id: int) -> bool:
        with self.store.read() as session:
            assert session.get(Event, event_id), "the job came before the commit"
        self.collected.append(event_id)
        return True

    def look_ahead(self, project_id: int, *, event_id: int) -> bool:
        self.looked_ahead.append((project_id, event_id))
        return True

    def train(self, run_id: int, attempt: int = 1) -> bool:
        self.trained.append((run_id, attempt))
        return True


@pytest.fixture
def jobs(services: Services) -> Iterator[FakeJobs]:
    real, fake = services.jobs, FakeJobs(services)
    object.__setattr__(services, "jobs", fake)
    yield fake
    object.__setattr__(services, "jobs", real)


def stored(services: Services) -> list[Event]:
    with services.store.read() as session:
        return list(session.scalars(select(Event).order_by(Event.id)))


def runs(services: Services) -> list[TrainingRun]:
    with services.store.read() as session:
        return list(session.scalars(select(TrainingRun).order_by(TrainingRun.id)))


def test_every_known_action_has_a_test_event() -> None:
    assert EVENTS.keys() == EVENT_BODIES.keys()


@pytest.mark.parametrize("action", [action for action in EVENTS if action != "START_TRAINING"])
def test_an_event_is_stored_as_it_came_and_a_job_is_enqueued(
    client: FlaskClient, services: Services, jobs: FakeJobs, action: str, metric: Any
) -> None:
    raw = json.dumps(requests.event(action, **EVENTS[action]), indent=3)
    answer = client.post("/webhook", data=raw)
    assert (answer.status_code, answer.json) == (200, {"status": "ok"})
    [event] = stored(services)
    assert (event.action, event.project_id, event.state) == (action, 1, EventState.PENDING)
    assert event.payload == raw
    assert jobs.collected == [event.id]
    assert jobs.looked_ahead == ([(1, event.id)] if action == "TASKS_CREATED" else [])
    assert metric("lorabel_events_total", action=action, state="pending") == 1
    with services.store.read() as session:
        assert session.get(Project, 1) is not None


def test_the_same_event_five_times_is_stored_five_times(client: FlaskClient, services: Services) -> None:
    for _ in range(5):
        client.post("/webhook", json=requests.event("ANNOTATION_CREATED", **EVENTS["ANNOTATION_CREATED"]))
    assert len(stored(services)) == 5


@pytest.mark.parametrize("action", ["LABEL_LINK_CREATED", "ANNOTATION_DELETED", "REVIEW_CREATED", "x y"])
@pytest.mark.parametrize("parts", [{}, {"tasks": "what", "annotation": 3}])
def test_an_unknown_action_is_kept_as_ignored(
    client: FlaskClient, services: Services, jobs: FakeJobs, action: str, parts: dict[str, Any], metric: Any
) -> None:
    assert client.post("/webhook", json=requests.event(action, **parts)).status_code == 200
    [event] = stored(services)
    assert (event.action, event.state) == (action, EventState.IGNORED)
    assert jobs.collected == []
    assert metric("lorabel_events_total", action="other", state="ignored") == 1


def test_an_unknown_action_needs_no_project(client: FlaskClient, services: Services) -> None:
    assert client.post("/webhook", json={"action": "PING"}).status_code == 200
    assert stored(services)[0].project_id is None


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ({}, "action: Field required"),
        ({"action": ""}, "action: String should have at least 1 character"),
        ({"action": None}, "action: Input should be a valid string"),
        ({"action": "A\x00B"}, "action: String should match pattern"),
        ({"action": "A" * 101}, "action: String should have at most 100"),
        ({"action": "START_TRAINING"}, "project: Field required"),
        ({"action": "PROJECT_UPDATED", "project": 1}, "project: Input should be"),
        ({"action": "PROJECT_UPDATED", "project": {"id": "1"}}, "project.id: Input should be a valid integer"),
        ({"action": "PROJECT_UPDATED", "project": {"id": True}}, "project.id: Input should be a valid integer"),
        ({"action": "PROJECT_UPDATED", "project": {"id": 2**31}}, "project.id: Input should be less than"),
        ({"action": "PROJECT_UPDATED", "project": {"id": -1}}, "project.id: Input should be greater than"),
        ({"action": "PING", "project": {"id": 1.5}}, "project.id"),
        (requests.event("ANNOTATION_CREATED"), "annotation: Field required"),
        (requests.event("ANNOTATION_CREATED", annotation={}), "annotation.SubmittedAnnotation.id: Field required"),
        (requests.event("ANNOTATION_CREATED", annotation={"id": "7"}), "annotation.SubmittedAnnotation.id"),
        (requests.event("ANNOTATIONS_CREATED", annotation=[{"id": 1}, 2]), "annotation.list"),
        (
            requests.event("ANNOTATION_CREATED", annotation={"id": 7}),
            "annotation.SubmittedAnnotation.updated_at: Field required",
        ),
        (created(updated_at=1_700_000_000), "updated_at: Value error, expected a time in ISO 8601"),
        (created(updated_at="1700000000"), "updated_at: Value error, expected a time in ISO 8601"),
        (created(updated_at="2026-11-22t05:12:14z"), "updated_at: Value error, expected a time in ISO 8601"),
        (created(updated_at="2026-11-22T05:12:14"), "updated_at: Input should have timezone info"),
        (created(updated_at="0001-01-01T00:00:00+14:00"), "updated_at: Value error, expected a time"),
        (created(updated_at="9999-12-31T23:59:59-14:00"), "updated_at: Value error, expected a time"),
        (created(id=2**63), "annotation.SubmittedAnnotation.id: Input should be less than"),
        (created(completed_by="x"), "annotation.SubmittedAnnotation.completed_by"),
        (created(completed_by=1.5), "annotation.SubmittedAnnotation.completed_by"),
        (created(completed_by=2**40), "annotation.SubmittedAnnotation.completed_by"),
        (created(completed_by={"id": "x"}), "annotation.SubmittedAnnotation.completed_by"),
        (created(was_cancelled="no"), "annotation.SubmittedAnnotation.was_cancelled"),
        (created(ground_truth=[]), "annotation.SubmittedAnnotation.ground_truth"),
        (created(task="x"), "annotation.SubmittedAnnotation.task"),
        (created(task=2**63), "annotation.SubmittedAnnotation.task"),
        (created(task={"id": []}), "annotation.SubmittedAnnotation.task"),
        (created(task=None) | {"task": None}, "annotation 7 names no task"),
        (created() | {"task": {"id": 3, "data": "red.png"}}, "task.EventTask.data"),
        (
            created() | {"project": {"id": 1, "label_config": 5}},
            "project.label_config: Input should be a valid str",
        ),
        (
            requests.event("PROJECT_UPDATED") | {"project": {"id": 1, "label_config": "<View>\x00</View>"}},
            "project.label_config: Value error, the text has a NUL character",
        ),
        (requests.event("TASKS_DELETED", tasks=[{"id": 2**63}]), "tasks.0.id: Input should be less than"),
        (requests.event("ANNOTATIONS_DELETED", annotations=[{"id": 2**80}]), "annotations.0.id"),
        (requests.event("ANNOTATIONS_DELETED", annotations=[{"id": 1}, {}]), "annotations.1.id: Field required"),
        (requests.event("ANNOTATIONS_DELETED"), "annotations: Field required"),
        (requests.event("TASKS_CREATED", tasks={"id": 1}), "tasks: Input should be a valid list"),
        (requests.event("TASKS_DELETED", tasks=[None]), "tasks.0: Input should be"),
    ],
)
def test_a_malformed_event_is_refused_with_the_reason_and_nothing_is_stored(
    client: FlaskClient, services: Services, jobs: FakeJobs, body: dict[str, Any], reason: str
) -> None:
    answer = client.post("/webhook", json=body)
    assert answer.status_code == 400
    assert reason in answer.json["error"]
    assert stored(services) == []
    assert jobs.collected == []
    assert client.get("/api/v1/projects").json == {"projects": []}


NO_JSON = [
    b"",
    b"{",
    b'{"action": "X"} y',
    b"\xff",
    b'{"action": "\xff"}',
    b"[" * 100_000,
    b'{"action": "PING", "x": NaN}',
    b'{"action": "PING", "x": 1e400}',
    b'{"action": "PING", "x": ' + b"1" * 400 + b".0}",
    b'{"action": "PING", "x": ' + b"1" * 5000 + b"}",
    b'{"action": "PING", "x": "\\ud800"}',
]


@pytest.mark.parametrize("raw", NO_JSON)
def test_a_body_that_is_no_json_is_refused_and_nothing_is_stored(
    client: FlaskClient, services: Services, raw: bytes
) -> None:
    assert client.post("/webhook", data=raw).status_code == 400
    assert stored(services) == []


def test_start_training_is_answered_with_the_id_of_a_run(
    client: FlaskClient, services: Services, jobs: FakeJobs
) -> None:
    client.post("/setup", json=requests.setup())
    answer = client.post("/webhook", json=requests.event("START_TRAINING"))
    [run] = runs(services)
    assert (answer.status_code, answer.json) == (200, {"status": "ok", "job": str(run.id)})
    assert (run.project_id, run.state, run.reason) == (1, RunState.QUEUED, "START_TRAINING")
    assert jobs.trained == [(run.id, 1)]
    assert [event.state for event in stored(services)] == [EventState.APPLIED]


def test_start_training_twice_and_before_its_annotation_is_one_run(
    client: FlaskClient, services: Services, jobs: FakeJobs
) -> None:
    client.post("/setup", json=requests.setup())
    first = client.post("/webhook", json=requests.event("START_TRAINING")).json
    client.post("/webhook", json=requests.event("ANNOTATION_CREATED", **EVENTS["ANNOTATION_CREATED"]))
    second = client.post("/webhook", json=requests.event("START_TRAINING")).json
    assert first == second
    assert len(runs(services)) == 1


@pytest.fixture
def without_redis(settings: Settings, tmp_path: Path) -> Iterator[Flask]:
    app = create_app(settings.model_copy(update={"redis_url": f"unix://{tmp_path}/nobody.sock"}))
    yield app
    app.extensions[EXTENSION].close()


@pytest.mark.parametrize("action", EVENTS)
def test_without_redis_every_event_is_stored_and_answered(without_redis: Flask, action: str) -> None:
    answer = without_redis.test_client().post("/webhook", json=requests.event(action, **EVENTS[action]))
    assert answer.status_code == 200
    assert [event.action for event in stored(without_redis.extensions[EXTENSION])] == [action]


@pytest.mark.slow
def test_a_bulk_event_of_5000_items_is_stored_as_it_came(client: FlaskClient, services: Services) -> None:
    annotations = [requests.annotation(i, i) | {"unique_id": "x" * 900} for i in range(5000)]
    tasks = [requests.task(i, meta="y" * 500) for i in range(5000)]
    raw = json.dumps(requests.event("ANNOTATIONS_CREATED", annotation=annotations, task=tasks))
    assert len(raw) > 8_000_000
    assert client.post("/webhook", data=raw).status_code == 200
    assert [event.payload for event in stored(services)] == [raw]


def test_an_event_that_cannot_be_stored_is_answered_with_500(
    app: Flask, services: Services, jobs: FakeJobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("backend.event_writer.EventWriter._write", fail)
    answer = app.test_client().post("/webhook", json=requests.event("PROJECT_UPDATED"))
    assert answer.status_code == 500
    assert stored(services) == []
    assert jobs.collected == []


def test_start_training_that_fails_half_way_stays_pending_for_the_sweep(
    app: Flask, services: Services, jobs: FakeJobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise OSError("killed")

    app.test_client().post("/setup", json=requests.setup())
    monkeypatch.setattr("backend.webhook_events.training_runs.request", fail)
    assert app.test_client().post("/webhook", json=requests.event("START_TRAINING")).status_code == 500
    assert [event.state for event in stored(services)] == [EventState.PENDING]


def nested(depth: int) -> Any:
    value: Any = "red"
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    "body",
    [
        created(completed_by={"id": 2**31 - 1, "email": "a@example.com"}),
        created(completed_by=None, was_cancelled=None, ground_truth=None),
        created(id=2**63 - 1, task=2**63 - 1),
        created(task={"id": 3, "data": {}}),
        created(updated_at="2026-11-22 05:12:14+14:00"),
        created(updated_at="20261122T051214,5Z"),
        created(updated_at="0001-01-01T00:00:00Z"),
        created(updated_at="9999-12-31T23:59:59Z"),
        created(result=[]),
        created(result=[{}]),
        created(result=[{"value": None}]),
        created(result=[{"value": {"choices": nested(150)}}]),
        created(result=[{"value": {"number": 10**4000, "text": "\x00\x1f\x7f\u2028"}}]),
        created() | {"task": None},
        created() | {"task": {"id": 3, "data": None}},
        requests.event("ANNOTATIONS_CREATED", annotation=[], task=[]),
        requests.event("ANNOTATIONS_CREATED", annotation=[requests.annotation(7)] * 2, task=[]),
        requests.event("ANNOTATIONS_DELETED", annotations=[{"id": 2**63 - 1}] * 2),
        requests.event("TASKS_DELETED", tasks=[{"id": 2**63 - 1}] * 2),
        requests.event("TASKS_DELETED", tasks=[]),
        requests.event("PROJECT_UPDATED") | {"project": {"id": 1, "label_config": "<View"}},
        requests.event("PROJECT_DELETED"),
    ],
)
def test_an_event_that_is_accepted_can_be_applied_and_shown(
    client: FlaskClient, services: Services, jobs: FakeJobs, body: dict[str, Any]
) -> None:
    assert client.post("/webhook", json=body).status_code == 200
    apply_pending(services.store)
    [event] = stored(services)
    assert (event.state in (EventState.APPLIED, EventState.STALE), event.error) == (True, None)
    for path in ("/api/v1/projects/1/annotations", "/api/v1/projects/1", "/api/v1/projects", "/api/v1/events"):
        answer = client.get(path)
        assert answer.status_code == 200
        assert json.loads(answer.data, parse_constant=pytest.fail)


@pytest.mark.parametrize("action", EVENTS)
@pytest.mark.parametrize("config", [None, ""])
def test_an_event_of_a_project_without_a_known_label_config_creates_nothing(
    client: FlaskClient, services: Services, jobs: FakeJobs, action: str, config: str | None, metric: Any
) -> None:
    body = requests.event(action, **EVENTS[action]) | {"project": {"id": 1, "label_config": config}}
    answer = client.post("/webhook", json=body)
    assert (answer.status_code, answer.json) == (200, {"status": "ok"})
    assert [event.state for event in stored(services)] == [EventState.IGNORED]
    assert runs(services) == []
    assert jobs.trained == jobs.collected == jobs.looked_ahead == []
    assert metric("lorabel_events_total", action=action, state="ignored") == 1
    assert client.get("/api/v1/projects").json == {"projects": []}


@pytest.mark.parametrize("action", EVENTS)
def test_an_event_need_not_repeat_a_label_config_that_is_known(
    client: FlaskClient, services: Services, jobs: FakeJobs, action: str
) -> None:
    client.post("/setup", json=requests.setup())
    body = requests.event(action, **EVENTS[action]) | {"project": {"id": 1}}
    assert client.post("/webhook", json=body).status_code == 200
    assert [event.state for event in stored(services)] != [EventState.IGNORED]


def test_an_event_that_finds_a_full_disk_is_answered_with_503(
    client: FlaskClient, services: Services, jobs: FakeJobs, caplog: pytest.LogCaptureFixture
) -> None:
    if not services.store.is_sqlite:
        pytest.skip("the limit is one of SQLite")
    client.post("/setup", json=requests.setup())
    limit_pages(services.store, more=2)
    large = created(result=[{"value": "x" * 100_000}])
    answer = client.post("/webhook", json=large)
    assert answer.status_code == 503
    assert "the database cannot be used now" in answer.json["error"]
    assert "database or disk is full" in caplog.text and "Traceback" not in caplog.text
    assert stored(services) == []
    limit_pages(services.store, more=10_000)
    assert client.post("/webhook", json=large).status_code == 200
