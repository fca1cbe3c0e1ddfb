"""Fixtures: a Label Studio and a model server that answer over real sockets, and a project connected to both."""

import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from redis import Redis
from redis.exceptions import RedisError

from lorabel.commands.embedded_redis import EmbeddedRedis
from lorabel.database import projects
from lorabel.database.jobs import Jobs
from lorabel.database.store import Store
from lorabel.database.tables import BulkRun
from lorabel.settings import Settings
from tests.backend import requests
from tests.backend.fake_model_server import FakeModelServer
from tests.lorabel.fake_label_studio import PERSONAL_TOKEN, FakeLabelStudio, serve
from workers.services import Services


class NotedJobs(Jobs):
    """Notes which bulk runs are to be put on the queues, and does not do so."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self.carried_out: list[int] = []

    def carry_out(self, run: BulkRun) -> bool:
        self.carried_out.append(run.id)
        return True


@pytest.fixture
def label_studio() -> Iterator[FakeLabelStudio]:
    fake = FakeLabelStudio()
    with serve(fake):
        yield fake


@pytest.fixture
def services(
    settings: Settings,
    store: Store,
    model_server: FakeModelServer,
    label_studio: FakeLabelStudio,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Services]:
    """What jobs get from `Services.current()`; project 1 is connected."""
    changed = {"model_server_url": model_server.url, "bulk_page": 10, "label_studio_requests_per_second": 1e6}
    real = Services.open(settings.model_copy(update=changed))
    with_noted_jobs = replace(real, jobs=NotedJobs(settings))
    monkeypatch.setattr(Services, "current", lambda: with_noted_jobs)
    projects.upsert(
        store, 1, label_config=requests.CONFIG, label_studio_url=label_studio.url, api_key=PERSONAL_TOKEN
    )
    yield with_noted_jobs
    with_noted_jobs.jobs.redis.close()
    real.close()


@pytest.fixture(scope="session")
def redis_url() -> Iterator[str]:
    """Of the Redis that `lorabel up` would start, for tests that need one also where no server is installed."""
    with TemporaryDirectory(prefix="lorabel-") as folder:  # a short path, since the socket is in it
        settings = Settings(data_dir=Path(folder))
        server = subprocess.Popen(EmbeddedRedis(settings).command(), stdout=subprocess.DEVNULL)
        try:
            with Redis.from_url(settings.redis) as redis:
                while not _answers(redis):
                    assert server.poll() is None, "Redis has ended"
                    time.sleep(0.02)
            yield settings.redis
        finally:
            server.terminate()
            server.wait()


def _answers(redis: Redis) -> bool:
    try:
        return bool(redis.ping())
    except RedisError:
        return False


def add_tasks(label_studio: FakeLabelStudio, *names: str, first: int = 1, annotations: int = 0) -> None:
    """Add tasks with ids from `first` on, one for each name; see tests/backend/fake_model_server.py."""
    label_studio.tasks += [
        {
            "id": task_id,
            "data": {"image": f"http://pictures.test/{name}.png"},
            "annotations": [],
            "predictions": [],
            "total_annotations": annotations,
            "cancelled_annotations": 0,
        }
        for task_id, name in enumerate(names, start=first)
    ]
