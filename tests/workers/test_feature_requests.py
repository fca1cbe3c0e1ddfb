"""The model server is asked for the features of several projects at once."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any, cast

import pytest
from sqlalchemy import select, text
from sqlalchemy.exc import OperationalError

from lorabel.database import project_heads
from lorabel.database.tables import TaskFeatures
from tests.backend.fake_model_server import FakeModelServer
from tests.workers.events import PROJECT, put, task_deletion
from tests.workers.test_head_fitting import COLOURS, WAIT_S, submitted
from tests.workers.test_head_fitting import services as services
from workers import feature_collection, head_fitting
from workers.collect import apply_pending
from workers.feature_requests import ASKING, MOST_AT_ONCE
from workers.head_fitting import HeadFitter, fit_forever
from workers.services import Services

# Of project 1 in this schema; tests in other schemas have claims, too.
END_CLAIM = text(
    """
    SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND objid = 1
    AND CAST(classid AS bigint)
        = CAST(hashtext(concat(current_schema(), ':', CAST(:asking AS integer))) AS bigint) & 4294967295
    """
)


def test_a_project_does_not_wait_for_the_features_of_another(
    services: Services, model_server: FakeModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The media of project 1 are slow. Project 2 is annotated later and has its head first."""
    monkeypatch.setattr(feature_collection, "TIMEOUT_S", 10 * WAIT_S)
    model_server.held = "slow"
    stop = threading.Event()
    thread = threading.Thread(target=fit_forever, args=(services, stop), daemon=True)
    thread.start()
    annotate(services, 1, *(slow(number) for number in range(1, 501)))
    wait_until(lambda: len(model_server.requests) == 1)
    annotate(services, 2, submitted(1, "red"), submitted(2, "blue"))
    wait_until(lambda: "p2.h1" in folders(services))
    assert "p1.h1" not in folders(services), "nothing is known about its tasks"
    annotate(services, 2, submitted(3, "red"))
    wait_until(lambda: "p2.h2" in folders(services))
    model_server.released.set()
    wait_until(lambda: "p1.h1" in folders(services))
    stop.set()
    services.heads_wanted.set()
    thread.join(WAIT_S)


@pytest.mark.slow
@pytest.mark.parametrize("is_many", [True, False], ids=["many", "slow"])
def test_projects_that_lack_many_features_or_are_slow_leave_a_place_for_another(
    services: Services, model_server: FakeModelServer, monkeypatch: pytest.MonkeyPatch, is_many: bool
) -> None:
    """Which projects are slow is known after their first request."""
    model_server.held = "slow"
    fitter = HeadFitter(services)
    other, *long = range(1, 2 + MOST_AT_ONCE)
    for project_id in long:
        count = 1 + feature_collection.FEW if is_many else 2
        annotate(services, project_id, *(slow(number) for number in range(1, 1 + count)))
    if not is_many:
        monkeypatch.setattr(feature_collection, "TIMEOUT_S", 0.1)
        fitter.fit_due()
        fitter.requests.join()
        model_server.requests.clear()
    monkeypatch.setattr(feature_collection, "TIMEOUT_S", 10 * WAIT_S)
    fitter.fit_due()
    fitter.fit_due()
    annotate(services, other, submitted(1, "red"), submitted(2, "blue"))
    fitter.fit_due()
    wait_until(lambda: len(model_server.requests) == MOST_AT_ONCE)
    asked = {request.project for request in model_server.requests}
    model_server.released.set()
    fitter.requests.join()
    assert other in asked and len(asked) == MOST_AT_ONCE


@pytest.mark.parametrize(
    ("event", "remaining"),
    [(task_deletion(1), [2]), ({"action": "PROJECT_DELETED", "project": {"id": PROJECT}}, [])],
    ids=["task", "project"],
)
def test_features_of_what_is_deleted_while_they_are_computed_are_not_stored(
    services: Services, model_server: FakeModelServer, event: dict[str, Any], remaining: list[int]
) -> None:
    """Nobody would delete them later."""
    model_server.held = "slow"
    fitter = HeadFitter(services)
    annotate(services, PROJECT, slow(1), slow(2))
    fitter.fit_due()
    wait_until(lambda: len(model_server.requests) == 1)
    annotate(services, PROJECT, event)
    model_server.released.set()
    fitter.requests.join()
    with services.store.read() as session:
        assert list(session.scalars(select(TaskFeatures.task_id))) == remaining


def test_a_project_is_asked_about_again_after_no_thread_could_be_started(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when the process has as many threads as it may."""

    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    fitter = HeadFitter(services)
    annotate(services, PROJECT, submitted(1, "red"), submitted(2, "blue"))
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        fitter.fit_due()
    fitter.fit_due()
    fitter.requests.join()
    fitter.fit_due()
    assert folders(services) == {"p1.h1"}


@pytest.fixture
def other_worker(services: Services) -> Iterator[Services]:
    """The services of another light worker. On SQLite there is none."""
    if services.store.is_sqlite:
        pytest.skip("SQLite has one light worker")
    real = Services.open(services.settings)
    yield replace(real, jobs=services.jobs)
    real.close()


def test_of_two_light_workers_one_asks_about_a_project_and_the_other_waits_for_the_answer(
    services: Services, other_worker: Services, model_server: FakeModelServer
) -> None:
    model_server.held = "slow"
    first, second = HeadFitter(services), HeadFitter(other_worker)
    annotate(services, 1, slow(1), slow(2))
    first.fit_due()
    wait_until(lambda: len(model_server.requests) == 1)
    annotate(other_worker, 1, slow(3))
    annotate(other_worker, 2, submitted(4, "red"), submitted(5, "blue"))
    second.fit_due()
    assert second.has_left_some and second.requests.is_running(2) and not second.requests.is_running(1)
    second.requests.join()
    model_server.released.set()
    first.requests.join()
    second.fit_due()
    second.requests.join()
    second.fit_due()
    assert folders(services) == {"p1.h1", "p2.h1"}
    assert asked(model_server) == {"slow": 3, "pictures": 2}


def test_what_another_worker_was_answered_just_now_is_not_asked_for_again(
    services: Services, other_worker: Services, model_server: FakeModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second looks before the first has claimed the project, and claims it when the first is done."""
    model_server.held = "slow"
    first, second = HeadFitter(services), HeadFitter(other_worker)
    annotate(services, 1, slow(1), slow(2))
    claim = other_worker.store.claim

    def claim_late(namespace: int, number: int) -> AbstractContextManager[bool]:
        if namespace == head_fitting.FITTING and not model_server.requests:
            first.fit_due()
            wait_until(lambda: len(model_server.requests) == 1)
        elif namespace == ASKING:
            model_server.released.set()
            first.requests.join()
        return claim(namespace, number)

    monkeypatch.setattr(other_worker.store, "claim", claim_late)
    second.fit_due()
    second.requests.join()
    assert asked(model_server) == {"slow": 2} and folders(services) == {"p1.h1"}


def test_when_the_worker_that_asks_has_died_another_asks(
    services: Services, other_worker: Services, model_server: FakeModelServer
) -> None:
    """PostgreSQL closes its connection, and its claim ends."""
    fitter = HeadFitter(other_worker)
    annotate(services, 1, submitted(1, "red"), submitted(2, "blue"))
    with pytest.raises(OperationalError), services.store.claim(ASKING, 1) as is_claimed:
        assert is_claimed
        fitter.fit_due()
        assert fitter.has_left_some and not fitter.requests.is_running()
        with other_worker.store.write() as session:
            session.execute(END_CLAIM, {"asking": ASKING})
        wait_until(lambda: not other_worker.store.claimed(ASKING))
        fitter.fit_due()
        fitter.requests.join()
        fitter.fit_due()
        assert folders(services) == {"p1.h1"}


def asked(model_server: FakeModelServer) -> Counter[str]:
    """For the features of how many pictures the model server was asked, by the first part of their host."""
    urls = [row.input["contents"][0]["media"]["url"] for row in model_server.rows]
    return Counter(url.split("/")[2].partition(".")[0] for url in urls)


def slow(number: int) -> dict[str, Any]:
    body = submitted(number, COLOURS[number % 2])
    body["task"]["data"] = {"image": f"http://slow.test/{COLOURS[number % 2]}{number}.png"}
    return body


def annotate(services: Services, project_id: int, *bodies: dict[str, Any]) -> None:
    """Apply events as the light worker does."""
    put(services.store, *bodies, project_id=project_id)
    apply_pending(services.store)
    services.heads_wanted.set()


def folders(services: Services) -> set[str]:
    """The folders of the heads that answer, in all projects."""
    with services.store.read() as session:
        return {row.folder for row in project_heads.list_all(session)}


def wait_until(is_true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not is_true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_an_answer_about_a_project_that_another_worker_is_fitting_is_used_afterwards(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    annotate(services, PROJECT, submitted(1, "red"), submitted(2, "blue"))
    fitter, answers, claims = HeadFitter(services), [{PROJECT: 2}], [False, True]
    turns: list[tuple[int, int | None]] = []
    monkeypatch.setattr(type(services.store), "claim", lambda *_: nullcontext(claims.pop(0)))
    monkeypatch.setattr(fitter.requests, "take_answered", lambda: answers.pop() if answers else {})
    monkeypatch.setattr(fitter, "_fit_project", lambda *turn: turns.append(turn) or True)
    fitter.fit_due()
    assert fitter.has_left_some and not turns
    fitter.fit_due()
    assert turns == [(PROJECT, 2)]


class NotedWaits(threading.Event):
    """Notes how long was to be waited, and does not wait."""

    def __init__(self, stop: threading.Event) -> None:
        super().__init__()
        self.waits: list[float | None] = []
        self._stop = stop

    def wait(self, timeout: float | None = None) -> bool:
        self.waits.append(timeout)
        if len(self.waits) == 8:
            self._stop.set()
        return True


def test_a_worker_that_waits_for_the_fit_of_another_looks_ever_less_often(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fit_due(fitter: HeadFitter) -> bool:
        fitter.has_left_some = True
        return False

    stop = threading.Event()
    noted = NotedWaits(stop)
    monkeypatch.setattr(head_fitting.HeadFitter, "fit_due", fit_due)
    fit_forever(replace(services, heads_wanted=cast(threading.Event, noted)), stop)
    assert noted.waits == [None, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 3.2]
