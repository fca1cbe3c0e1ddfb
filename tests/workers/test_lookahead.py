import json
import logging
from typing import Any, cast

import pytest

from lorabel.database import projects, task_embeddings
from lorabel.database.store import Store
from lorabel.database.tables import Event, Project
from lorabel.inference.messages import Priority
from tests.backend import requests
from tests.backend.fake_model_server import FakeModelServer
from tests.backend.test_label_studio_routes import add_version
from tests.lorabel.fake_label_studio import FakeLabelStudio
from tests.workers.conftest import add_tasks
from workers import lookahead
from workers.services import Services

LOOKAHEAD = 8


def pictures(model_server: FakeModelServer) -> list[int]:
    """The numbers of the pictures in the requests so far; they are the ids of the tasks."""
    urls = [row.input["contents"][0]["media"]["url"] for row in model_server.rows]
    return [int(url.rsplit("-", 1)[1].removesuffix(".png")) for url in urls]


@pytest.fixture(autouse=True)
def tasks(label_studio: FakeLabelStudio) -> None:
    add_tasks(label_studio, *(f"red-{i}" for i in range(1, 41)))


def created(store: Store, count: int) -> int:
    tasks = [requests.task(i, f"http://pictures.test/blue-{i}.png") for i in range(100, 100 + count)]
    event = Event(
        action="TASKS_CREATED",
        project_id=1,
        payload=json.dumps(requests.event("TASKS_CREATED", tasks=[{"id": 99}, *tasks])),
    )
    with store.write() as session:
        session.add(event)
        session.flush()
        return event.id


def test_the_open_tasks_after_the_task_on_the_screen_are_predicted_at_the_lowest_priority(
    services: Services, label_studio: FakeLabelStudio, model_server: FakeModelServer
) -> None:
    label_studio.tasks[5]["total_annotations"] = 1
    label_studio.tasks[6]["predictions"] = [{"id": 1, "model_version": "p1.v0"}]
    lookahead.look_ahead(1, 3, None)
    assert pictures(model_server) == [4, 5, 8, 9, 10, 11, 12]
    assert {(request.priority, request.project) for request in model_server.requests} == {(Priority.LOOKAHEAD, 1)}


def test_tasks_predicted_ahead_are_embedded_for_search(services: Services, model_server: FakeModelServer) -> None:
    lookahead.look_ahead(1, 3, None)
    with services.store.read() as session:
        assert task_embeddings.read_keys(session, 1, 0, None).keys() == set(range(4, 4 + LOOKAHEAD))


def test_while_tasks_are_opened_in_turn_each_is_predicted_once_and_label_studio_is_asked_rarely(
    services: Services, label_studio: FakeLabelStudio, model_server: FakeModelServer
) -> None:
    for task_id in range(1, 31):
        lookahead.look_ahead(1, task_id, None)
    assert pictures(model_server) == list(range(2, 38))
    assert label_studio.requests.count("/api/tasks/") == 8


def test_new_tasks_come_from_the_event_without_asking_label_studio(
    services: Services, store: Store, label_studio: FakeLabelStudio, model_server: FakeModelServer
) -> None:
    event_id = created(store, 20)
    lookahead.look_ahead(1, 0, event_id)
    lookahead.look_ahead(1, 0, event_id)
    assert pictures(model_server) == list(range(100, 107)), "the first has no data"
    assert "/api/tasks/" not in label_studio.requests


def test_after_a_promotion_the_open_tasks_are_predicted_again(
    services: Services, model_server: FakeModelServer
) -> None:
    lookahead.look_ahead(1, 0, None)
    add_version(cast(Any, services), 1)
    lookahead.look_ahead(1, 0, None)
    assert pictures(model_server) == list(range(1, 9)) * 2
    assert [row.adapter for row in model_server.rows[LOOKAHEAD:]] == ["p1.v1/label"] * LOOKAHEAD


def test_without_a_token_only_the_tasks_of_events_are_predicted(
    services: Services, store: Store, label_studio: FakeLabelStudio, model_server: FakeModelServer
) -> None:
    projects.upsert(store, 1, label_studio_url=None, hostname=label_studio.url, setup_token="legacy")
    lookahead.look_ahead(1, 3, None)
    assert pictures(model_server) == []
    assert label_studio.requests == []
    lookahead.look_ahead(1, 0, created(store, 2))
    assert pictures(model_server) == [100, 101]


@pytest.mark.parametrize("sampling", ["Uniform sampling", "Uncertainty sampling"])
def test_nothing_is_predicted_ahead_if_label_studio_does_not_go_by_id(
    services: Services, label_studio: FakeLabelStudio, model_server: FakeModelServer, sampling: str
) -> None:
    label_studio.sampling = sampling
    lookahead.look_ahead(1, 3, None)
    assert pictures(model_server) == []


@pytest.mark.parametrize("status", [503, 500])
def test_an_error_ends_a_job_without_a_message_and_the_next_task_starts_another(
    services: Services, model_server: FakeModelServer, caplog: pytest.LogCaptureFixture, status: int
) -> None:
    model_server.status = status
    with caplog.at_level(logging.INFO, "workers.lookahead"):
        lookahead.look_ahead(1, 3, None)
    assert [record for record in caplog.records if record.name != "werkzeug"] == []
    model_server.status = 200
    lookahead.look_ahead(1, 4, None)
    assert pictures(model_server) == list(range(5, 13))


def test_for_an_unknown_or_unserved_project_label_studio_is_not_asked(
    services: Services, store: Store, label_studio: FakeLabelStudio
) -> None:
    lookahead.look_ahead(99, 3, None)
    for label_config in (requests.UNSERVED, None, "<View"):
        with store.write() as session:
            session.get_one(Project, 1).label_config = label_config
        lookahead.look_ahead(1, 3, None)
    assert label_studio.requests == []
