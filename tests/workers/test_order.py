"""Open tasks put into an order and written to a Label Studio that answers over a real socket."""

from typing import Any

import numpy as np
import pytest

from lorabel.database import bulk_runs, projects
from lorabel.database.store import Store
from lorabel.database.tables import Annotation, BulkRun, RunState
from tests.backend.fake_model_server import FakeModelServer
from tests.lorabel.fake_label_studio import FakeLabelStudio
from tests.workers.conftest import add_tasks
from workers import order, retries
from workers.services import Services

BACKEND = "http://127.0.0.1:9090"
# What the model says of each picture: (red, blue), by a part of its name.
SURE = {"red-a": 0.55, "red-b": 0.95, "blue-c": 0.3, "red-d": 0.8}


@pytest.fixture(autouse=True)
def connected(
    services: Services, store: Store, label_studio: FakeLabelStudio, model_server: FakeModelServer
) -> None:
    projects.upsert(store, 1, backend_url=BACKEND)
    label_studio.backends = [{"id": 1, "url": BACKEND, "title": "Lorabel", "state": "CO"}]
    label_studio.settings = {"model_version": "Lorabel"}
    model_server.outputs = {name: {"probabilities": [red, 1 - red]} for name, red in SURE.items()}


def do(services: Services, strategy: str) -> BulkRun:
    run = bulk_runs.request(services.store, 1, "test", only_unlabeled=True, strategy=strategy)
    order.order(run.id)
    with services.store.read() as session:
        return bulk_runs.get(session, 1, run.id)


def stream(label_studio: FakeLabelStudio) -> list[int]:
    """As Label Studio's uncertainty sampling: ascending scores of the predictions named as the project's model."""
    name = label_studio.settings["model_version"]
    scores = {
        task["id"]: one["score"]
        for task in label_studio.tasks
        for one in task["predictions"]
        if one["model_version"] == name
    }
    assert label_studio.settings["sampling"] == "Uncertainty sampling"
    return sorted(scores, key=scores.__getitem__)


@pytest.mark.parametrize("strategy", ["uncertainty", "margin"])
def test_the_least_certain_task_comes_first_and_carries_what_the_live_version_predicts(
    services: Services, label_studio: FakeLabelStudio, strategy: str
) -> None:
    add_tasks(label_studio, *SURE)
    add_tasks(label_studio, "red-a", first=9, annotations=1)
    run = do(services, strategy)
    assert (run.state, run.done, run.failed, run.total, run.error) == (RunState.FINISHED, 4, 0, 4, None)
    assert stream(label_studio) == [1, 3, 4, 2], "task 9 is labeled"
    first = label_studio.tasks[0]["predictions"][0]
    assert (first["result"][0]["value"]["choices"], first["score"]) == (["red"], 0.25)


def test_a_close_second_counts_for_the_margin_and_not_for_uncertainty(
    services: Services,
    store: Store,
    label_studio: FakeLabelStudio,
    model_server: FakeModelServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(retries, "sleep", lambda seconds: None)
    three = '<Choice value="red"/><Choice value="blue"/><Choice value="green"/>'
    config = (
        f'<View><Image name="image" value="$image"/><Choices name="label" toName="image">{three}</Choices></View>'
    )
    projects.upsert(store, 1, label_config=config)
    model_server.outputs = {
        "flat": {"probabilities": [0.4, 0.3, 0.3]},
        "split": {"probabilities": [0.48, 0.47, 0.05]},
    }
    add_tasks(label_studio, "flat", "split")
    do(services, "uncertainty")
    assert stream(label_studio) == [1, 2]
    label_studio.change_statuses = [502, 502]
    do(services, "margin")
    assert label_studio.settings["model_version"] == "Lorabel", "Label Studio had forgotten it"
    assert stream(label_studio) == [2, 1], "and the former order is gone"
    assert [len(task["predictions"]) for task in label_studio.tasks] == [1, 1]


def test_a_task_that_cannot_be_read_is_named_and_has_no_place(
    services: Services, label_studio: FakeLabelStudio
) -> None:
    add_tasks(label_studio, "red", "forbidden", "broken", "blue")
    run = do(services, "random")
    assert (run.state, run.done, run.failed) == (RunState.FINISHED, 2, 2)
    assert [one["task_id"] for one in run.failures] == [2, 3]
    assert sorted(stream(label_studio)) == [1, 4]


def test_chance_has_another_order_each_time(services: Services, label_studio: FakeLabelStudio) -> None:
    add_tasks(label_studio, *["red"] * 25)
    orders = []
    for _ in range(2):
        do(services, "random")
        orders.append(stream(label_studio))
    assert sorted(orders[0]) == list(range(1, 26))
    assert orders[0] != orders[1]


def test_what_is_least_like_the_labeled_tasks_comes_first(
    services: Services, store: Store, label_studio: FakeLabelStudio, monkeypatch: pytest.MonkeyPatch
) -> None:
    def vectors(caller: Any, bound: Any, tasks: list[dict[str, Any]], resolve: Any) -> list[Any]:
        angles = [float(task["image"].rsplit("-", 1)[1].removesuffix(".png")) for task in tasks]
        radians = np.deg2rad(angles)
        found: list[Any] = list(np.stack([np.cos(radians), np.sin(radians)], axis=1).astype(np.float32))
        return [None if angle == 360 else one for angle, one in zip(angles, found, strict=True)]

    monkeypatch.setattr(order, "task_vectors", vectors)
    with store.write() as session:
        session.add(
            Annotation(
                id=1, project_id=1, task_id=99, task_data={"image": "http://pictures.test/red-0.png"}, result=[]
            )
        )
    add_tasks(label_studio, "red-5", "red-360", "red-170", "red-90", "red-10")
    assert do(services, "diversity").state == RunState.FINISHED
    assert stream(label_studio) == [3, 4, 5, 1, 2], "the one without a vector is last"


def test_a_project_that_is_not_connected_to_us_fails_with_what_to_do(
    services: Services, label_studio: FakeLabelStudio
) -> None:
    label_studio.backends = []
    add_tasks(label_studio, "red")
    run = do(services, "uncertainty")
    assert run.state == RunState.FAILED
    assert run.error is not None and "connect it with `lorabel connect`" in run.error
    assert label_studio.tasks[0]["predictions"] == []
