import json
import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
from redis import Redis

from lorabel.database import projects, task_embeddings
from lorabel.database.jobs import LOOKAHEAD as LOOKAHEAD_QUEUE
from lorabel.database.jobs import Jobs
from lorabel.database.store import Store
from lorabel.database.tables import Event, Project
from lorabel.inference.messages import Priority
from lorabel.settings import Settings
from tests.backend import requests
from tests.backend.fake_model_server import FakeModelServer
from tests.backend.test_label_studio_routes import add_version
from tests.lorabel.fake_label_studio import FakeLabelStudio
from tests.workers.conftest import add_tasks
from workers import lookahead
from workers.services import Services
from workers.worker import ThreadWorker, make_worker

LOOKAHEAD = 8


def pictures(model_server: FakeModelServer) -> list[int]:
    """The numbers of the pictures in the requests so far; they are the ids of the tasks."""
    urls = [row.input["contents"][0]["media"]["url"] for row in model_server.rows]
    return [int(url.rsplit("-", 1)[1].removesuffix(".png")) for url in urls]


@pytest.fixture
def settings(settings: Settings, is_on_servers: bool, redis_url: str) -> Settings:
    """With a Redis, in which is kept what was predicted."""
    if is_on_servers:
        return settings
    with Redis.from_url(redis_url) as redis:
        redis.flushall()
    return settings.model_copy(update={"redis_url": redis_url})


@pytest.fixture
def other_worker(services: Services) -> Iterator[Services]:
    """The services of another bulk worker, which shares database and Redis with the first."""
    real = Services.open(services.settings)
    yield real
    real.jobs.redis.close()
    real.close()


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


def test_what_one_worker_has_predicted_no_other_asks_for(
    services: Services, other_worker: Services, label_studio: FakeLabelStudio, model_server: FakeModelServer
) -> None:
    """As many requests as by a single worker."""
    for task_id in range(1, 31):
        lookahead.predict_ahead((services, other_worker)[task_id % 2], 1, task_id, None)
    assert pictures(model_server) == list(range(2, 38))
    assert label_studio.requests.count("/api/tasks/") == 8


def test_two_workers_and_two_backends_ask_label_studio_once_for_a_few_opened_tasks(
    services: Services, store: Store, label_studio: FakeLabelStudio, model_server: FakeModelServer
) -> None:
    """With real queues. Each backend would add a job: it has not seen the project for LOOKAHEAD_PAUSE_S."""
    with store.read() as session:
        project = projects.get(session, 1)
    jobs_added = 0
    for task_id in range(1, 5):
        backend = Jobs(services.settings)
        assert backend.look_ahead(1, after=task_id, project=project)
        jobs_added += backend.redis.llen("rq:queue:lookahead")  # type: ignore[operator]
        for _ in range(2):
            make_worker(LOOKAHEAD_QUEUE, backend.redis, ThreadWorker).work(burst=True, logging_level="WARNING")
        backend.redis.close()
    assert jobs_added == 1
    assert label_studio.requests.count("/api/tasks/") == 1
    assert pictures(model_server) == list(range(2, 10))


def test_without_redis_tasks_are_predicted_again(
    services: Services, label_studio: FakeLabelStudio, model_server: FakeModelServer, tmp_path: Path
) -> None:
    without = replace(
        services, jobs=Jobs(services.settings.model_copy(update={"redis_url": f"unix://{tmp_path}/none"}))
    )
    for _ in range(2):
        assert lookahead.predict_ahead(without, 1, 3, None) == LOOKAHEAD
    assert label_studio.requests.count("/api/tasks/") == 2


def test_new_tasks_come_from_the_event_without_asking_label_studio(
    services: Services, store: Store, label_studio: FakeLabelStudio, model_server: FakeModelServer
) -> None:
    event_id = created(store, 20)
    lookahead.look_ahead(1, 0, event_id)
    lookahead.look_ahead(1, 0, event_id)
    assert pictures(model_server) == list(range(100, 107)), "the first has no data"
    assert "/api/tasks/" not in label_studio.requests


def test_an_import_does_not_stop_the_look_ahead_for_those_who_are_at_the_first_tasks(
    services: Services, store: Store, label_studio: FakeLabelStudio, model_server: FakeModelServer
) -> None:
    """Before, tasks with the highest ids counted as being ahead of everybody."""
    lookahead.look_ahead(1, 0, created(store, 20))
    assert lookahead.predict_ahead(services, 1, 1, None) == LOOKAHEAD
    assert pictures(model_server)[-LOOKAHEAD:] == list(range(2, 2 + LOOKAHEAD))


def test_after_a_promotion_the_open_tasks_are_predicted_again(
    services: Services, model_server: FakeModelServer
) -> None:
    lookahead.look_ahead(1, 0, None)
    add_version(cast(Any, services), 1)
    lookahead.look_ahead(1, 0, None)
    assert pictures(model_server) == list(range(1, 9)) * 2
    assert [row.adapter for row in model_server.rows[LOOKAHEAD:]] == ["p1.v1/label"] * LOOKAHEAD


@pytest.mark.parametrize(
    "changed",
    [
        {"label_config": requests.CONFIG.replace('"blue"', '"green"')},
        {"instructions": {"by_hand": {"label": "What is it?"}}},
        {"extra_params": {"detector_threshold": 0.5}},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_under_another_label_config_the_open_tasks_are_predicted_again(
    services: Services, store: Store, model_server: FakeModelServer, changed: dict[str, Any]
) -> None:
    lookahead.look_ahead(1, 0, None)
    lookahead.look_ahead(1, 0, None)
    assert pictures(model_server) == list(range(1, 9))
    projects.upsert(store, 1, **changed)
    lookahead.look_ahead(1, 0, None)
    assert pictures(model_server) == list(range(1, 9)) * 2


def test_a_new_head_changes_nothing_of_what_is_predicted(
    services: Services, store: Store, model_server: FakeModelServer
) -> None:
    lookahead.look_ahead(1, 0, None)
    projects.upsert(store, 1, head_number=3, head_config=requests.CONFIG, annotation_revision=7, head_revision=7)
    lookahead.look_ahead(1, 0, None)
    assert pictures(model_server) == list(range(1, 9))


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
