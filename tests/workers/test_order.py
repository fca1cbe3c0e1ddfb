"""Open tasks are ordered, and the order is written to a Label Studio that answers over a real socket."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from lorabel.database import bulk_runs, projects
from lorabel.database.store import Store
from lorabel.database.tables import Annotation, BulkRun, BulkRunKind, RunState
from lorabel.database.task_embeddings import TaskVector
from tests.backend.fake_model_server import FakeModelServer
from tests.lorabel.fake_label_studio import FakeLabelStudio
from tests.workers.conftest import add_tasks
from workers import order, retries
from workers.services import Services

pytestmark = [pytest.mark.slow, pytest.mark.servers]

BACKEND = "http://127.0.0.1:9090"
# The probability of red, by a part of the picture's name.
RED = {"red-a": 0.55, "red-b": 0.95, "blue-c": 0.3, "red-d": 0.8}


@pytest.fixture(autouse=True)
def connected(
    services: Services, store: Store, label_studio: FakeLabelStudio, model_server: FakeModelServer
) -> None:
    projects.upsert(store, 1, backend_url=BACKEND)
    label_studio.backends = [{"id": 1, "url": BACKEND, "title": "Lorabel", "state": "CO"}]
    label_studio.settings = {"model_version": "Lorabel"}
    model_server.outputs = {name: {"probabilities": [red, 1 - red]} for name, red in RED.items()}


def order_tasks(services: Services, strategy: str, kind: BulkRunKind = BulkRunKind.ORDER) -> BulkRun:
    run = bulk_runs.request(services.store, 1, "test", kind=kind, only_unlabeled=True, strategy=strategy)
    order.order(run.id)
    with services.store.read() as session:
        return bulk_runs.get(session, 1, run.id)


def stream(label_studio: FakeLabelStudio) -> list[int]:
    """The task ids in the order of Label Studio's uncertainty sampling: by score of the project's model."""
    name = label_studio.settings["model_version"]
    scores = {
        task["id"]: prediction["score"]
        for task in label_studio.tasks
        for prediction in task["predictions"]
        if prediction["model_version"] == name
    }
    assert label_studio.settings["sampling"] == "Uncertainty sampling"
    return sorted(scores, key=scores.__getitem__)


def test_the_least_certain_task_comes_first_with_the_prediction_of_the_live_version(
    services: Services, label_studio: FakeLabelStudio
) -> None:
    add_tasks(label_studio, *RED)
    add_tasks(label_studio, "red-a", first=9, annotations=1)
    run = order_tasks(services, "margin")
    assert (run.state, run.done, run.failed, run.total, run.error) == (RunState.FINISHED, 4, 0, 4, None)
    assert stream(label_studio) == [1, 3, 4, 2], "task 9 is labeled"
    first = label_studio.tasks[0]["predictions"][0]
    assert (first["result"][0]["value"]["choices"], first["score"]) == (["red"], 0.25)


def test_margin_looks_at_the_second_label_and_a_new_order_replaces_the_former_one(
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
    outputs = {"flat": [0.4, 0.3, 0.3], "split": [0.48, 0.47, 0.05]}
    model_server.outputs = {name: {"probabilities": probabilities} for name, probabilities in outputs.items()}
    add_tasks(label_studio, "flat", "split")
    order_tasks(services, "margin")
    assert stream(label_studio) == [2, 1]
    model_server.outputs["flat"] = {"probabilities": [0.4, 0.4, 0.2]}
    label_studio.change_statuses = [502, 502]
    order_tasks(services, "margin")
    assert label_studio.settings["model_version"] == "Lorabel", "Label Studio had forgotten it"
    assert stream(label_studio) == [1, 2], "and the former order is deleted"
    assert [len(task["predictions"]) for task in label_studio.tasks] == [1, 1]


def test_a_task_that_cannot_be_read_is_a_failure_and_gets_no_position(
    services: Services, label_studio: FakeLabelStudio
) -> None:
    add_tasks(label_studio, "red", "forbidden", "broken", "blue")
    run = order_tasks(services, "random")
    assert (run.state, run.done, run.failed) == (RunState.FINISHED, 2, 2)
    assert [failure["task_id"] for failure in run.failures] == [2, 3]
    assert sorted(stream(label_studio)) == [1, 4]


def test_the_random_order_is_different_each_time(services: Services, label_studio: FakeLabelStudio) -> None:
    add_tasks(label_studio, *["red"] * 25)
    orders = []
    for _ in range(2):
        order_tasks(services, "random")
        orders.append(stream(label_studio))
    assert sorted(orders[0]) == list(range(1, 26))
    assert orders[0] != orders[1]


def vectors_at_angles(
    caller: Any, bound: Any, tasks: list[dict[str, Any]], resolve: Any
) -> list[TaskVector | None]:
    """A picture's name ends with the angle of its vector. At 360 it has none, and above 360 it is in a space of
    three dimensions."""
    angles = [float(task["image"].rsplit("-", 1)[1].removesuffix(".png")) for task in tasks]
    vectors: list[TaskVector | None] = []
    for angle in angles:
        point = [np.cos(np.deg2rad(angle)), np.sin(np.deg2rad(angle)), 0.0][: 3 if angle > 360 else 2]
        space = "solid" if angle > 360 else "flat"
        vectors.append(None if angle == 360 else TaskVector(space, np.array(point, "<f2").tobytes()))
    return vectors


def test_tasks_in_another_space_than_most_are_not_compared_come_last_and_are_counted(
    services: Services,
    store: Store,
    label_studio: FakeLabelStudio,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(order, "embed_tasks", vectors_at_angles)
    with store.write() as session:
        for number, angle in enumerate((0, 400), start=1):
            data = {"image": f"http://pictures.test/red-{angle}.png"}
            session.add(Annotation(id=number, project_id=1, task_id=90 + number, task_data=data, result=[]))
    add_tasks(label_studio, "red-5", "red-400", "red-170", "red-500", "red-90")
    run = order_tasks(services, "diversity")
    assert (run.state, run.error) == (RunState.FINISHED, None)
    assert (run.done, run.skipped, run.failed, run.total) == (3, 2, 0, 5)
    assert stream(label_studio) == [3, 5, 1, 2, 4]
    assert "2 of 5 tasks are not compared: their vectors are not in flat" in caplog.text


def test_the_task_least_similar_to_labeled_tasks_comes_first(
    services: Services, store: Store, label_studio: FakeLabelStudio, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(order, "embed_tasks", vectors_at_angles)
    with store.write() as session:
        session.add(
            Annotation(
                id=1, project_id=1, task_id=99, task_data={"image": "http://pictures.test/red-0.png"}, result=[]
            )
        )
    add_tasks(label_studio, "red-5", "red-360", "red-170", "red-90", "red-10")
    assert order_tasks(services, "diversity").state == RunState.FINISHED
    assert stream(label_studio) == [3, 4, 5, 1, 2], "the task without a vector is last"


def annotate(store: Store, label_studio: FakeLabelStudio, *task_ids: int) -> None:
    with store.write() as session:
        for task_id in task_ids:
            task = next(task for task in label_studio.tasks if task["id"] == task_id)
            task["total_annotations"] = 1
            session.add(Annotation(id=task_id, project_id=1, task_id=task_id, task_data=task["data"], result=[]))


def with_setting(services: Services, monkeypatch: pytest.MonkeyPatch, **changes: Any) -> Services:
    changed = replace(services, settings=services.settings.model_copy(update=changes))
    monkeypatch.setattr(Services, "current", lambda: changed)
    return changed


def two_groups(label_studio: FakeLabelStudio, model_server: FakeModelServer) -> None:
    """Tasks 1 to 8 at about 0 degrees, of which the model is sure, and tasks 9 to 16 at about 90, of which it is
    not."""
    add_tasks(label_studio, *[f"sure-{angle}" for angle in range(8)])
    add_tasks(label_studio, *[f"unsure-{angle}" for angle in range(90, 98)], first=9)
    model_server.outputs = {
        "unsure": {"probabilities": [0.52, 0.48]},
        "sure": {"probabilities": [0.99, 0.01]},
    }


def test_auto_takes_a_typical_task_of_each_group_first_and_unsure_ones_once_enough_are_annotated(
    services: Services,
    store: Store,
    label_studio: FakeLabelStudio,
    model_server: FakeModelServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(order, "embed_tasks", vectors_at_angles)
    two_groups(label_studio, model_server)
    run = order_tasks(services, "auto")
    assert (run.state, run.error, run.done) == (RunState.FINISHED, None, 16)
    first = stream(label_studio)
    assert sorted(first) == list(range(1, 17))
    assert {task_id > 8 for task_id in first[:4]} == {False, True}, "nothing is annotated: of both groups"
    annotate(store, label_studio, 1, 4, 10, 13)
    order_tasks(services, "auto")
    assert all(task_id > 8 for task_id in stream(label_studio)[:4])


def test_auto_orders_by_margin_where_no_task_has_a_vector(
    services: Services,
    label_studio: FakeLabelStudio,
    model_server: FakeModelServer,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(order, "embed_tasks", lambda caller, bound, tasks, resolve: [None] * len(tasks))
    two_groups(label_studio, model_server)
    assert order_tasks(services, "auto").state == RunState.FINISHED
    assert stream(label_studio)[:8] == list(range(9, 17))
    assert "ordered by margin, since no open task could be embedded" in caplog.text


def test_auto_gives_only_the_first_tasks_a_position_unless_it_is_never_renewed(
    services: Services,
    label_studio: FakeLabelStudio,
    model_server: FakeModelServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(order, "embed_tasks", vectors_at_angles)
    two_groups(label_studio, model_server)
    order_tasks(with_setting(services, monkeypatch, order_renew_after=1), "auto")
    assert len(stream(label_studio)) == 5
    order_tasks(with_setting(services, monkeypatch, order_renew_after=0), "auto")
    assert len(stream(label_studio)) == 16


def test_a_renewal_adds_and_deletes_only_what_has_changed_and_leaves_the_settings_alone(
    services: Services,
    store: Store,
    label_studio: FakeLabelStudio,
    model_server: FakeModelServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(order, "embed_tasks", vectors_at_angles)
    two_groups(label_studio, model_server)
    services = with_setting(services, monkeypatch, order_renew_after=1)
    order_tasks(services, "auto")
    before = stream(label_studio)
    kept_ids = {task["id"]: prediction["id"] for task in label_studio.tasks for prediction in task["predictions"]}
    label_studio.requests.clear()
    annotate(store, label_studio, *before[:4])
    run = order_tasks(services, "auto", BulkRunKind.ORDER_RENEWAL)
    assert (run.state, run.error) == (RunState.FINISHED, None)
    open_tasks = [task for task in label_studio.tasks if not task["total_annotations"]]
    after = {task["id"]: task["predictions"] for task in open_tasks if task["predictions"]}
    assert len(after) == 5 and all(len(predictions) == 1 for predictions in after.values())
    assert all(task_id > 8 for task_id in after), "the model is unsure of these"
    assert label_studio.import_sizes[-1] == 5 - len(after.keys() & kept_ids.keys())
    assert all(after[task_id][0]["id"] == kept_ids[task_id] for task_id in after.keys() & kept_ids.keys())
    deleted = [path for path in label_studio.requests if path.startswith("/api/predictions/")]
    assert len(deleted) == len(set(before[4:]) - after.keys())
    assert "/api/projects/1/model-versions/" not in label_studio.requests
    assert label_studio.settings["model_version"] == "Lorabel"


def test_a_project_that_is_not_connected_to_us_fails_with_what_to_do(
    services: Services, label_studio: FakeLabelStudio
) -> None:
    label_studio.backends = []
    add_tasks(label_studio, "red")
    run = order_tasks(services, "margin")
    assert run.state == RunState.FAILED
    assert run.error is not None and "connect it with `lorabel connect`" in run.error
    assert label_studio.tasks[0]["predictions"] == []
