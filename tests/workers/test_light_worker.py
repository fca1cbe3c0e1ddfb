"""The light worker as a process of its own."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import func, select

from lorabel.commands.embedded_redis import EmbeddedRedis
from lorabel.commands.readiness import is_taking_jobs
from lorabel.database.jobs import LIGHT, Jobs
from lorabel.database.store import Store
from lorabel.database.tables import Event, EventState
from lorabel.settings import Settings
from tests.workers.events import annotation, put

WAIT_S = 60.0


@pytest.fixture
def own_redis_settings(settings: Settings) -> Settings:
    """With an embedded Redis, which the test starts."""
    return settings.model_copy(update={"redis_url": None})


@pytest.fixture
def light_worker(own_redis_settings: Settings, tmp_path: Path) -> Iterator["subprocess.Popen[bytes]"]:
    variables = {
        "DATA_DIR": str(own_redis_settings.data_dir),
        "DATABASE_URL": own_redis_settings.database,
        "SWEEP_SECONDS": "0.2",
    }
    with (tmp_path / "worker.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "workers", LIGHT], env={**os.environ, **variables}, stderr=log
        )
    yield process
    process.kill()
    process.wait()


def wait_until(condition: Callable[[], bool], worker: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert worker.poll() is None, "the worker has ended"
        assert time.monotonic() < deadline, "it took too long"
        time.sleep(0.1)


@pytest.mark.slow
def test_the_sweep_runs_without_redis_and_jobs_are_taken_when_it_comes(
    own_redis_settings: Settings, store: Store, light_worker: "subprocess.Popen[bytes]", tmp_path: Path
) -> None:
    put(store, annotation(1, 1, "red", 0))

    def is_applied() -> bool:
        with store.read() as session:
            return session.scalar(select(func.count()).where(Event.state == EventState.APPLIED)) == 1

    wait_until(is_applied, light_worker)
    assert "Redis does not answer" in (tmp_path / "worker.log").read_text()
    redis = subprocess.Popen(EmbeddedRedis(own_redis_settings).command(), stdout=subprocess.DEVNULL)
    jobs = Jobs(own_redis_settings)
    try:
        wait_until(lambda: is_taking_jobs(jobs, LIGHT, light_worker.pid), light_worker)
    finally:
        light_worker.kill()
        redis.terminate()
        redis.wait()
        jobs.redis.close()
