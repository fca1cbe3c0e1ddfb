"""A real PostgreSQL is restarted under the requests of Label Studio."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from flask import Flask
from sqlalchemy import select
from sqlalchemy.exc import OperationalError

from backend import restarts
from backend.services import Services
from lorabel.database.store import Store
from lorabel.database.tables import Event
from lorabel.settings import Settings
from tests.backend import requests
from tests.servers import MissingServerError, PostgresServer, postgres_server
from tests.skipped import skip_or_fail

pytestmark = pytest.mark.slow

AT_ONCE = 8
AWAY_S = 0.5


@pytest.fixture(scope="module")
def postgres() -> Iterator[PostgresServer]:
    try:
        with postgres_server() as server:
            yield server
    except MissingServerError as error:
        skip_or_fail(str(error))


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With the key of the tokens in the database."""
    return tmp_path_factory.mktemp("data")


@pytest.fixture
def settings(settings: Settings, postgres: PostgresServer, data_dir: Path) -> Settings:
    return settings.model_copy(update={"database_url": postgres.url(), "data_dir": data_dir})


def setup(app: Flask, number: int) -> int:
    return app.test_client().post("/setup", json=requests.setup()).status_code


def predict(app: Flask, number: int) -> int:
    answer = app.test_client().post("/predict", json=requests.predict(requests.task(number)))
    assert answer.status_code != 200 or len(answer.json["results"]) == 1
    return answer.status_code


def webhook(app: Flask, number: int) -> int:
    body = requests.event("ANNOTATION_CREATED", annotation=requests.annotation(number), task=requests.task(1))
    return app.test_client().post("/webhook", json=body).status_code


def stored(store: Store) -> list[int]:
    """The annotations of the events that are in the database."""
    with store.read() as session:
        payloads = session.scalars(select(Event.payload)).all()
    return [json.loads(payload)["annotation"]["id"] for payload in payloads]


@pytest.mark.parametrize("ask", [setup, predict, webhook])
def test_after_a_restart_no_request_has_to_be_repeated(
    app: Flask, postgres: PostgresServer, ask: Callable[[Flask, int], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of as many connections as there are threads."""
    monkeypatch.setattr(restarts, "PATIENCE_S", 0.0)
    assert setup(app, 0) == 200
    with ThreadPoolExecutor(AT_ONCE) as threads:
        assert set(threads.map(lambda number: ask(app, number), range(50))) == {200}
        postgres.process.stop()
        postgres.process.start()
        assert set(threads.map(lambda number: ask(app, number), range(50))) == {200}


def test_no_prediction_fails_and_no_event_is_lost_while_it_restarts(
    app: Flask, services: Services, postgres: PostgresServer
) -> None:
    assert setup(app, 0) == 200
    is_over = threading.Event()
    sent: list[int] = []
    statuses: list[tuple[str, int]] = []

    def send(sender: int) -> None:
        ask = (setup, predict, webhook, webhook)[sender % 4]
        number = 100_000 * (sender + 1)
        while not is_over.is_set():
            number += 1
            if ask is webhook:
                sent.append(number)
            statuses.append((ask.__name__, ask(app, number)))

    with ThreadPoolExecutor(AT_ONCE) as threads:
        senders = [threads.submit(send, sender) for sender in range(AT_ONCE)]
        for _ in range(2):
            time.sleep(0.5)
            postgres.process.stop()
            time.sleep(AWAY_S)
            postgres.process.start()
        time.sleep(0.5)
        is_over.set()
        for sender in senders:
            sender.result()
    assert {status for _, status in statuses} == {200}
    assert {name for name, _ in statuses} == {"setup", "predict", "webhook"} and len(statuses) > 100
    assert set(sent) <= set(stored(services.store))


def test_a_server_that_stays_away_is_waited_for_once(
    app: Flask, postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(restarts, "PATIENCE_S", 1.0)
    assert setup(app, 0) == 200
    postgres.process.stop()
    try:
        took_s = [timed(lambda: predict(app, 1), 503), timed(lambda: webhook(app, 2), 503)]
    finally:
        postgres.process.start()
    assert 1.0 <= took_s[0] < 5.0 and took_s[1] < 0.5
    assert predict(app, 1) == webhook(app, 2) == 200
    postgres.process.stop()
    try:
        assert timed(lambda: setup(app, 0), 503) >= 1.0, "the next restart is waited for again"
    finally:
        postgres.process.start()


def timed(ask: Callable[[], int], expected: int) -> float:
    began_at = time.monotonic()
    assert ask() == expected
    return time.monotonic() - began_at


def test_a_request_that_alone_loses_its_connection_is_not_repeated_for_ever(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before, each success of another request gave it another PATIENCE_S."""
    monkeypatch.setattr(restarts, "PATIENCE_S", 0.5)
    calls = 0

    def lose_connection() -> None:
        nonlocal calls
        calls += 1
        assert services.restarts.outlive(lambda: 1) == 1
        raise OperationalError("SELECT", {}, Exception("it is gone"), connection_invalidated=True)

    with pytest.raises(OperationalError):
        services.restarts.outlive(lose_connection)
    assert 2 <= calls <= 8
