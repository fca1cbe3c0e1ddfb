from collections.abc import Iterator
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from backend.app import create_app
from backend.services import EXTENSION, Services
from lorabel.database import projects
from lorabel.settings import Settings
from tests.backend import requests
from tests.backend.fake_model_server import FakeModelServer
from tests.lorabel.fake_label_studio import PERSONAL_TOKEN, FakeLabelStudio, serve
from tests.workers.conftest import add_tasks


@pytest.fixture
def settings(settings: Settings, model_server: FakeModelServer) -> Settings:
    return settings.model_copy(update={"model_server_url": model_server.url})


@pytest.fixture(scope="session")
def shared_app(tmp_path_factory: pytest.TempPathFactory) -> Flask:
    """To make its routes takes many times as long as to make services."""
    app = create_app(Settings(data_dir=tmp_path_factory.mktemp("app")))
    app.extensions[EXTENSION].close()
    return app


@pytest.fixture
def app(shared_app: Flask, settings: Settings) -> Iterator[Flask]:
    """The app with services of its own; what `create_app` takes from the settings itself is as by default."""
    services = shared_app.extensions[EXTENSION] = Services.open(settings)
    yield shared_app
    services.close()


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


@pytest.fixture
def label_studio(services: Services) -> Iterator[FakeLabelStudio]:
    """A Label Studio with three tasks of project 1, which Lorabel knows."""
    fake = FakeLabelStudio()
    add_tasks(fake, "blue-star", "red-star", "red-circle")
    with serve(fake):
        projects.upsert(
            services.store, 1, label_config=requests.CONFIG, label_studio_url=fake.url, api_key=PERSONAL_TOKEN
        )
        yield fake
