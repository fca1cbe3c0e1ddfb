from collections.abc import Iterator
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from backend.app import create_app
from backend.services import EXTENSION, Services
from lorabel.settings import Settings
from tests.backend.fake_model_server import FakeModelServer


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
    services: Services = app.extensions[EXTENSION]
    return services


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    return app.test_client()


@pytest.fixture
def metric(services: Services) -> Any:
    """Reads the value of a metric by its name and labels; 0 if it is not there."""

    def read(name: str, **labels: str) -> float:
        return services.metrics._registry.get_sample_value(name, labels) or 0.0

    return read
