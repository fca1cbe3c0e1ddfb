"""How often each request of Label Studio asks PostgreSQL, and that the simulation of many machines says the same.

SQLite is in the process and is not asked over a network.
"""

import os
from collections.abc import Callable, Iterator

import pytest
from flask.testing import FlaskClient
from sqlalchemy import make_url

from benchmarks.simulation import site
from lorabel.database import projects
from lorabel.database.store import Store
from lorabel.database.tables import ProjectHead, now
from lorabel.settings import Settings
from tests.backend import requests
from tests.lorabel.database.relay import Relay

# A driver prepares a query that it has sent five times, which takes a round trip of its own.
TIMES = 10


@pytest.fixture
def relay(is_on_servers: bool) -> Iterator[Relay]:
    if not is_on_servers:
        pytest.skip("SQLite is in the process")
    port = make_url(os.environ["DATABASE_URL_FOR_TESTS"]).port
    assert port is not None
    with Relay(port).running() as relay:
        yield relay


@pytest.fixture
def other_process(settings: Settings) -> Iterator[Store]:
    store = Store.open(settings)
    yield store
    store.close()


@pytest.fixture
def settings(settings: Settings, relay: Relay) -> Settings:
    url = make_url(settings.database).set(port=relay.port)
    return settings.model_copy(update={"database_url": url.render_as_string(hide_password=False)})


def trips(relay: Relay, ask: Callable[[], object]) -> float:
    """Of one request, when it was asked often."""
    for _ in range(TIMES):
        ask()
    before = relay.round_trips
    for _ in range(TIMES):
        ask()
    return (relay.round_trips - before) / TIMES


def test_a_request_asks_postgresql_as_often_as_the_simulation_says(client: FlaskClient, relay: Relay) -> None:
    def webhook() -> None:
        body = requests.event("ANNOTATION_CREATED", annotation=requests.annotation(7), task=requests.task(1))
        assert client.post("/webhook", json=body).status_code == 200

    def setup() -> None:
        assert client.post("/setup", json=requests.setup()).status_code == 200

    def predict() -> None:
        assert client.post("/predict", json=requests.predict(requests.task(1))).json["results"]

    assert trips(relay, setup) == site.SETUP_TRIPS
    assert trips(relay, webhook) == site.EVENT_TRIPS
    assert trips(relay, predict) == site.LOOKUP_TRIPS


def test_a_project_whose_row_has_changed_is_loaded_as_the_simulation_says(
    client: FlaskClient, relay: Relay, other_process: Store
) -> None:
    """With a head that was fitted for it."""
    assert client.post("/setup", json=requests.setup()).status_code == 200
    with other_process.write() as session:
        head = {"labels": "digest", "digest": "digest", "annotation_ids": [1], "fitted_at": now()}
        session.add(ProjectHead(project_id=1, from_name="label", folder="p1.h1", **head))
    projects.upsert(other_process, 1, head_number=1, head_config=requests.CONFIG)
    asked = []
    for number in range(2 * TIMES):
        projects.upsert(other_process, 1, annotation_revision=number + 1)
        before = relay.round_trips
        assert client.post("/predict", json=requests.predict(requests.task(1))).status_code == 200
        asked.append(relay.round_trips - before)
    assert asked[-TIMES:] == [site.LOOKUP_TRIPS + site.LOAD_TRIPS] * TIMES
