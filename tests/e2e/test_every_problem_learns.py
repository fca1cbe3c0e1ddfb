"""Each kind of labeling in the real Label Studio: predict, annotate, train, promote, and predict better.

The tasks are in `tests/e2e/courses`. One Lorabel with the base models of all courses learns them all.
"""

import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from lorabel.commands.connect import connect
from lorabel.database.versions import without_heads
from lorabel.label_studio.client import LabelStudio
from tests.e2e import courses
from tests.e2e.courses import Course
from tests.e2e.label_studio_server import Server
from tests.e2e.lorabel_processes import Lorabel

pytestmark = pytest.mark.e2e

# One for each kind of input and of answer; `make test-long` has all.
SHORT = ("digits", "text_choices", "entities")
TIMEOUT_S = 240.0
NEVER = str(10**6)


@pytest.fixture(scope="module")
def shared_lorabel(start_lorabel: Callable[..., Lorabel], tmp_path_factory: pytest.TempPathFactory) -> Lorabel:
    """A Lorabel that trains only on request, so that each course is one run."""
    variables = {"TRAIN_AFTER_ANNOTATIONS": NEVER, "TRAIN_MIN_ANNOTATIONS": NEVER, "FAMILIES": ""}
    for name in courses.names():
        variables |= courses.load(name).variables(tmp_path_factory.mktemp(name))
    return start_lorabel(variables)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in SHORT else pytest.mark.long) for name in courses.names()]
)
def test_a_run_is_promoted_and_the_held_out_tasks_are_answered_better(
    name: str, shared_lorabel: Lorabel, label_studio: Server, client: LabelStudio
) -> None:
    course = courses.load(name)
    project_id = _create(client, name, course)
    connect(shared_lorabel.settings, label_studio.url, label_studio.token, project_id)
    tasks = [task.task_id for task in client.tasks(project_id)]
    unseen = tasks[-course.unseen :]
    before = _predictions(client, project_id, unseen, f"p{project_id}.v0")
    assert any(before.values()) != course.is_silent_before
    for task_id, (_, result) in zip(tasks[: -course.unseen], course.tasks, strict=False):
        client.call("POST", f"/api/tasks/{task_id}/annotations/", json={"result": result})
    live = _train(shared_lorabel, project_id)
    for control_tag, figure in course.primary.items():
        candidate, former = live["metrics"]["candidate"][control_tag], live["metrics"]["live"][control_tag]
        assert candidate[figure] > former[figure], f"{control_tag}: {figure}, {former} -> {candidate}"
    after = _predictions(client, project_id, unseen, live["version"])
    assert sum(map(bool, after.values())) > len(unseen) / 2, "most unseen tasks are predicted by the new version"


def _create(client: LabelStudio, name: str, course: Course) -> int:
    project = client.call("POST", "/api/projects/", json={"title": name, "label_config": course.label_config})
    data = [{"data": data} for data, _ in course.tasks]
    client.call("POST", f"/api/projects/{project['id']}/import", json=data, timeout_s=60.0)
    return int(project["id"])


def _predictions(client: LabelStudio, project_id: int, tasks: list[int], version: str) -> dict[int, list[Any]]:
    """Task id -> the result that this version predicts, by the Data Manager's "Retrieve Predictions"."""
    client.call(
        "POST",
        "/api/dm/actions",
        params={"id": "retrieve_tasks_predictions", "project": project_id},
        json={"selectedItems": {"all": False, "included": tasks}},
        timeout_s=110.0,
    )
    predictions = client.call("GET", "/api/predictions/", params={"project": project_id})
    results = {
        prediction["task"]: prediction["result"]
        for prediction in sorted(predictions, key=lambda prediction: int(prediction["id"]))
        if without_heads(prediction["model_version"]) == version
    }
    return {task_id: results.get(task_id, []) for task_id in tasks}


def _train(shared_lorabel: Lorabel, project_id: int) -> dict[str, Any]:
    """Start a run by the REST API and wait for its end; returns the record of the live version."""
    base = f"{shared_lorabel.url}/api/v1/projects/{project_id}"
    deadline = time.monotonic() + TIMEOUT_S
    with httpx.Client(trust_env=False) as client:
        client.post(f"{base}/train").raise_for_status()
        while time.monotonic() < deadline:
            (run,) = client.get(f"{base}/runs").json()["runs"]
            if run["state"] in ("finished", "failed"):
                assert run["state"] == "finished", run["error"]
                versions = client.get(f"{base}/versions").json()["versions"]
                assert versions and versions[0]["state"] == "live", run["decision"]
                return dict(versions[0])
            time.sleep(0.3)
    raise AssertionError(f"the run of project {project_id} did not end in {TIMEOUT_S:.0f} s: {run}")
