"""Heads are fitted without tasks that cannot be read, which are asked about again after a while."""

# ruff: noqa: F401, F811 - fixtures of another module

from collections.abc import Collection
from typing import Any

import pytest

from lorabel.database import task_features
from lorabel.database.tables import now
from tests.backend.fake_model_server import FakeModelServer
from tests.workers.events import deletion
from tests.workers.test_head_fitting import HISTORY, expected, fit, head_file, is_due, services, submitted
from workers import feature_collection
from workers.services import Services


def test_a_picture_that_cannot_be_read_leaves_out_its_task(
    services: Services, model_server: FakeModelServer, expected: bytes
) -> None:
    unreadable = [submitted(20, "red"), submitted(21, "blue")]
    unreadable[0]["task"]["data"] = {"image": "http://pictures.test/broken-red.png"}
    unreadable[1]["task"]["data"] = {"image": "http://pictures.test/forbidden-blue.png"}
    fit(services, *HISTORY, *unreadable)
    assert head_file(services) == expected and not is_due(services)
    rows = len(model_server.rows)
    fit(services, submitted(30, "red"), deletion(30))
    asked = [row.input["contents"][0]["media"]["url"] for row in model_server.rows[rows:]]
    assert not any("broken" in url or "forbidden" in url for url in asked), "asked again a moment later"


def test_a_task_that_cannot_be_read_is_looked_up_once_and_asked_again_later(
    services: Services, model_server: FakeModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = submitted(20, "red")
    broken["task"]["data"] = {"image": "http://pictures.test/broken-red.png"}
    read, looked_up = task_features.read, list[int]()

    def reading(session: Any, project_id: int, from_name: str, task_ids: Collection[int]) -> Any:
        looked_up.extend(task_ids)
        return read(session, project_id, from_name, task_ids)

    fit(services, *HISTORY, broken)
    monkeypatch.setattr(task_features, "read", reading)
    fit(services, submitted(30, "red"))
    assert 30 in looked_up and 20 not in looked_up
    for module in (feature_collection, task_features):
        monkeypatch.setattr(module, "now", lambda: now() + task_features.RETRY_AFTER)
    rows = len(model_server.rows)
    fit(services, submitted(31, "red"))
    assert any("broken" in row.input["contents"][0]["media"]["url"] for row in model_server.rows[rows:])
