"""A worker with a real Redis, into which somebody has put a job that is none of ours."""

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from rq import Callback, Queue
from rq.job import Job, JobStatus
from rq.serializers import JSONSerializer

from lorabel.commands.embedded_redis import EmbeddedRedis
from lorabel.database.jobs import COLLECT_JOB, JOB_FUNCTIONS, LIGHT, Jobs
from lorabel.redaction import Redactor
from lorabel.settings import Settings
from workers import (
    accept_tasks,
    collect,
    finetune,
    forget,
    index_tasks,
    label_errors,
    lookahead,
    order,
    preannotate,
    worker,
)

pytestmark = pytest.mark.slow


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[Redis]:
    settings = Settings(data_dir=tmp_path)
    server = subprocess.Popen(EmbeddedRedis(settings).command(), stdout=subprocess.DEVNULL)
    jobs = Jobs(settings)
    while not jobs.is_reachable():
        time.sleep(0.05)
    jobs.redis.close()
    connection = Redis.from_url(settings.redis)
    yield connection
    connection.close()
    server.terminate()
    server.wait()


@pytest.fixture
def collected(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Replaces the job that applies events. It notes its calls."""
    calls: list[str] = []
    monkeypatch.setattr(collect, "collect", lambda: calls.append("collect"))
    return calls


def put(redis: Redis, function: str, *arguments: Any, **options: Any) -> Job:
    queue = Queue(LIGHT, connection=redis, serializer=JSONSerializer)
    return queue.enqueue_call(function, args=arguments, timeout=-1, **options)


def work(redis: Redis) -> None:
    """Do the jobs that are queued, as `workers.worker.work` does, but without signal handlers."""
    worker.make_worker(LIGHT, redis, worker.ThreadWorker).work(burst=True, logging_level="WARNING")


def test_a_job_that_is_not_listed_is_refused_and_the_next_is_done(
    redis: Redis, tmp_path: Path, collected: list[str]
) -> None:
    trace = tmp_path / "trace"
    forged = put(redis, "os.system", f"touch {trace}")
    put(redis, COLLECT_JOB)
    work(redis)
    assert not trace.exists()
    assert forged.get_status() == JobStatus.FAILED
    assert "os.system" in (forged.latest_result().exc_string or "")
    assert collected == ["collect"]


@pytest.mark.parametrize(
    "function", ["builtins.exec", "subprocess.check_output", "workers.worker.main", "collect"]
)
def test_other_functions_are_refused_too(redis: Redis, function: str) -> None:
    forged = put(redis, function, "1")
    work(redis)
    assert "RefusedJobError" in (forged.latest_result().exc_string or "")


def test_what_a_job_failed_with_is_kept_masked(redis: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise ValueError("of anna.bell@mail.example.com")

    monkeypatch.setattr(collect, "collect", fail)
    failed = put(redis, COLLECT_JOB)
    masking = worker.make_worker(LIGHT, redis, worker.ThreadWorker)
    masking.redactor = Redactor(["email"], {})
    masking.work(burst=True, logging_level="WARNING")
    assert "ValueError: of xxxx.xxxx@" in (failed.latest_result().exc_string or "")


def test_a_method_of_an_argument_is_refused(redis: Redis) -> None:
    forged = put(redis, COLLECT_JOB)
    redis.hset(forged.key, "data", JSONSerializer.dumps([COLLECT_JOB, "text", [], {}]))
    work(redis)
    assert "RefusedJobError" in (forged.latest_result().exc_string or "")


@pytest.mark.parametrize("function", [COLLECT_JOB, "os.system"])
def test_no_callback_of_a_job_is_called(
    redis: Redis, tmp_path: Path, collected: list[str], function: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    called: list[object] = []
    monkeypatch.setattr("shutil.rmtree", lambda *arguments: called.append(arguments))
    callback = Callback("shutil.rmtree")
    put(redis, function, on_success=callback, on_failure=callback, on_stopped=callback)
    work(redis)
    assert called == []


def test_the_list_has_every_job() -> None:
    bulk_functions = (preannotate.preannotate, order.order, label_errors.find_label_errors)
    bulk_functions += (accept_tasks.accept_tasks, accept_tasks.undo, index_tasks.index_tasks)
    functions = (collect.collect, finetune.finetune, *bulk_functions, lookahead.look_ahead, forget.forget)
    assert {f"{function.__module__}.{function.__name__}" for function in functions} == JOB_FUNCTIONS
