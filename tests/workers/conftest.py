"""Fixtures: a Label Studio and a model server that answer over real sockets, and a project connected to both."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, cast

import pytest

from lorabel.database import projects
from lorabel.database.store import Store
from lorabel.database.tables import BulkRun
from lorabel.settings import Settings
from tests.backend import requests
from tests.backend.fake_model_server import FakeModelServer
from tests.lorabel.fake_label_studio import PERSONAL_TOKEN, FakeLabelStudio, serve
from workers.services import Services


class NotedJobs:
    """Fakes the queues, and notes which bulk runs were put on them."""

    def __init__(self) -> None:
        self.carried_out: list[int] = []

    def carry_out(self, run: BulkRun) -> bool:
        self.carried_out.append(run.id)
        return True


@pytest.fixture
def label_studio() -> Iterator[FakeLabelStudio]:
    fake = FakeLabelStudio()
    with serve(fake):
        yield fake


@pytest.fixture
def services(
    settings: Settings,
    store: Store,
    model_server: FakeModelServer,
    label_studio: FakeLabelStudio,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Services]:
    """What jobs get from `Services.current()`; project 1 is connected."""
    changed = {"model_server_url": model_server.url, "bulk_page": 10, "label_studio_requests_per_second": 1e6}
    real = Services.open(settings.model_copy(update=changed))
    with_noted_jobs = replace(real, jobs=cast(Any, NotedJobs()))
    monkeypatch.setattr(Services, "current", lambda: with_noted_jobs)
    projects.upsert(
        store, 1, label_config=requests.CONFIG, label_studio_url=label_studio.url, api_key=PERSONAL_TOKEN
    )
    yield with_noted_jobs
    real.close()


def add_tasks(label_studio: FakeLabelStudio, *names: str, first: int = 1, annotations: int = 0) -> None:
    """Add tasks with ids from `first` on, one for each name; see tests/backend/fake_model_server.py."""
    label_studio.tasks += [
        {
            "id": task_id,
            "data": {"image": f"http://pictures.test/{name}.png"},
            "annotations": [],
            "predictions": [],
            "total_annotations": annotations,
            "cancelled_annotations": 0,
        }
        for task_id, name in enumerate(names, start=first)
    ]
