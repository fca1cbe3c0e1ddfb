"""The model as label-studio-ml 2.x calls it, with a fake base class (2.x is not on PyPI). tests/e2e has 1.0.9."""

import sys
from collections.abc import Iterator
from datetime import timedelta
from importlib import import_module
from types import ModuleType
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import select

from lorabel.database import projects, webhook_secrets
from lorabel.database.store import Store
from lorabel.database.tables import Event, Project
from lorabel.errors import ForgedEventError
from lorabel.settings import Settings
from tests.backend import requests
from tests.backend.fake_model_server import FakeModelServer


class Base:
    """The part of LabelStudioMLBase 2.x that its `api.py` and our subclass use."""

    def __init__(self, project_id: str | None = None, label_config: str | None = None) -> None:
        self.cache: dict[str, str] = {}
        self.project_id = project_id or ""
        self.label_config = label_config
        self.setup()

    def set(self, key: str, value: str) -> None:
        assert isinstance(value, str)
        self.cache[key] = value

    def get(self, key: str) -> str | None:
        return self.cache.get(key)

    def setup(self) -> None: ...


@pytest.fixture
def model(
    settings: Settings, store: Store, model_server: FakeModelServer, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Any]:
    for name, value in (
        ("DATA_DIR", str(settings.data_dir)),
        ("DATABASE_URL", settings.database),
        ("REDIS_URL", settings.redis),
        ("MODEL_SERVER_URL", model_server.url),
    ):
        monkeypatch.setenv(name, value)
    package, module = ModuleType("label_studio_ml"), ModuleType("label_studio_ml.model")
    module.LabelStudioMLBase = Base  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "label_studio_ml", package)
    monkeypatch.setitem(sys.modules, "label_studio_ml.model", module)
    monkeypatch.delitem(sys.modules, "backend.label_studio_ml", raising=False)
    module_under_test = import_module("backend.label_studio_ml")
    yield module_under_test.LorabelModel
    module_under_test._services().close()
    del sys.modules["backend.label_studio_ml"]


def test_setup_names_the_live_version(model: Any, store: Store) -> None:
    assert model("1", requests.CONFIG).get("model_version") == "p1.v0"
    projects.upsert(store, 1, live_number=2)
    assert model("1", requests.CONFIG).get("model_version") == "p1.v2"


def test_a_second_project_1_is_told_apart_by_the_request_since_label_studio_ml_drops_its_creation_time(
    model: Any,
) -> None:
    app = Flask("label-studio-ml")
    versions = []
    for key in ("1.1795324321", "1.1795626000"):
        with app.test_request_context("/predict", method="POST", json={"project": key}):
            setup_version = model("1", requests.CONFIG).get("model_version")
            (entry,) = model("1", requests.CONFIG).predict([requests.task(1)])
            assert entry["model_version"] == setup_version
            versions.append(setup_version)
    assert versions == ["p1.v0", "p1000000.v0"]


def test_a_model_without_project_can_be_made(model: Any) -> None:
    assert model().get("model_version") is None


def test_predictions_equal_those_of_our_own_backend(model: Any) -> None:
    tasks = [
        requests.task(1, "http://p.test/blue.png"),
        requests.task(2, "http://p.test/forbidden.png"),
        requests.task(3, "http://p.test/broken.png"),
    ]
    entries = model("1", requests.CONFIG).predict(tasks, context=None, login=None, password=None)
    region = {"from_name": "label", "to_name": "image", "type": "choices", "value": {"choices": ["blue"]}}
    assert entries == [
        {"result": [region], "score": 0.9, "model_version": "p1.v0"},
        [],
        {"result": [], "score": 0.0, "model_version": "p1.v0"},
    ]


def test_no_tasks_get_no_predictions(model: Any) -> None:
    assert model("1", requests.CONFIG).predict([]) == []


def test_extra_params_may_be_an_object(model: Any, store: Store) -> None:
    model("1", requests.CONFIG).set_extra_params({"train_after_annotations": 2})
    with store.read() as session:
        assert session.get_one(Project, 1).extra_params == {"train_after_annotations": 2}


def test_the_secret_of_a_project_is_read_from_the_request(model: Any, store: Store) -> None:
    projects.upsert(store, 1, label_config=requests.CONFIG)
    webhook_secrets.announce(store, 1, "our-secret")
    webhook_secrets.enforce(store, 1, timedelta())
    data = requests.event("TASKS_DELETED", tasks=[])
    event = data.pop("action")
    for headers in ({}, {"Lorabel-Secret": "guessed"}):
        with Flask("label-studio-ml").test_request_context(headers=headers), pytest.raises(ForgedEventError):
            model("1", requests.CONFIG).fit(event, data)
    with Flask("label-studio-ml").test_request_context(headers={"Lorabel-Secret": "our-secret"}):
        assert model("1", requests.CONFIG).fit(event, data) == {"status": "ok"}


def test_events_are_stored_for_the_workers(model: Any, store: Store) -> None:
    data = requests.event("ANNOTATION_CREATED", annotation=requests.annotation(7), task=requests.task(3))
    event = data.pop("action")
    assert model("1", requests.CONFIG).fit(event, data) == {"status": "ok"}
    project = {"id": 1, "label_config": requests.CONFIG}
    answer = model("1", requests.CONFIG).fit("START_TRAINING", {"project": project})
    assert answer["job"]
    with store.read() as session:
        actions = list(session.scalars(select(Event.action).order_by(Event.id)))
    assert actions == ["ANNOTATION_CREATED", "START_TRAINING"]


def test_extra_params_may_be_the_text_of_an_object(model: Any, store: Store) -> None:
    model("1", requests.CONFIG).set_extra_params('{"train_after_annotations": 2}')
    model("1", requests.CONFIG).set_extra_params("fast")
    with store.read() as session:
        assert session.get_one(Project, 1).extra_params == {"train_after_annotations": 2}
