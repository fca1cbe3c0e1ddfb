from collections.abc import Iterator
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from backend.app import create_app
from backend.services import EXTENSION, Services
from lorabel.settings import Settings
from tests.backend import fake_model_server
from tests.backend.fake_model_server import FakeModelServer


@pytest.fixture(scope="session")
def shared_model_server() -> Iterator[FakeModelServer]:
    with fake_model_server.running() as server:
        yield server


@pytest.fixture
def model_server(shared_model_server: FakeModelServer) -> FakeModelServer:
    """As new: what an earlier test asked for or changed is forgotten."""
    shared_model_server.__init__(shared_model_server.url)  # type: ignore[misc]
    return shared_model_server


@pytest.fixture
def settings(settings: Settings, model_server: FakeModelServer) -> Settings:
    return settings.model_copy(update={"model_server_url": model_server.url})


@pytest.fixture
def app(settings: Settings) -> Iterator[Flask]:
    app = create_app(settings)
    yield app
    app.extensions[EXTENSION].close()


@pytest.fixture
def services(app: Flask) -> Services:
    found: Services = app.extensions[EXTENSION]
    return found


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    return app.test_client()


@pytest.fixture
def metric(services: Services) -> Any:
    """The value of one line at /metrics, 0 if it is not there."""

    def read(name: str, **labels: str) -> float:
        return services.metrics._registry.get_sample_value(name, labels) or 0.0

    return read
