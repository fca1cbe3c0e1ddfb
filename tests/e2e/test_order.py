"""The labeling stream of the real Label Studio, in the order that we chose."""

import subprocess
from collections.abc import Callable

import pytest

from lorabel.commands.connect import TITLE, connect
from lorabel.demo.project import create_project
from lorabel.label_studio.client import LabelStudio
from tests.e2e.label_studio_server import Server
from tests.e2e.lorabel_processes import PROGRAM, Lorabel, bare_environment
from tests.workers.pictures import result

pytestmark = pytest.mark.e2e

TASKS = 12
TIMEOUT_S = 120.0


def order(lorabel: Lorabel, project_id: int, strategy: str) -> str:
    command = [str(PROGRAM), "order", str(project_id), "--strategy", strategy]
    environment = {**bare_environment(), **lorabel.environment, "COLUMNS": "200"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=TIMEOUT_S)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def written(client: LabelStudio, project_id: int, version: str) -> dict[int, float]:
    """Task -> score, of the predictions of one version; each task has at most one."""
    every = client.call("GET", "/api/predictions/", params={"project": project_id})
    found = [one for one in every if one["model_version"] == version]
    scores = {one["task"]: one["score"] for one in found}
    assert len(scores) == len(found)
    return scores


def label_next(client: LabelStudio, project_id: int, count: int) -> list[int]:
    """The tasks that the labeling stream gives, each with the live version's prediction on the screen."""
    seen = []
    for _ in range(count):
        task = client.call("GET", f"/api/projects/{project_id}/next", timeout_s=TIMEOUT_S)
        assert [one["model_version"] for one in task["predictions"]] == [f"p{project_id}.v0"]
        body = {"result": result("Grade A"), "lead_time": 1.0}
        client.call("POST", f"/api/tasks/{task['id']}/annotations/", json=body)
        seen.append(task["id"])
    return seen


@pytest.fixture(scope="module")
def lorabel(start_lorabel: Callable[..., Lorabel]) -> Lorabel:
    """One that never trains, so that the live version stays."""
    return start_lorabel({"TRAIN_AFTER_ANNOTATIONS": "1000000", "TRAIN_MIN_ANNOTATIONS": "1000000"})


def test_the_labeling_stream_follows_the_order_and_a_new_one_takes_the_place_of_the_old(
    lorabel: Lorabel, label_studio: Server, client: LabelStudio
) -> None:
    project_id = create_project(client, TASKS)
    assert connect(lorabel.settings, label_studio.url, label_studio.token, project_id).is_complete
    said = order(lorabel, project_id, "uncertainty")
    assert f"{TASKS} tasks ordered by uncertainty, 0 failed" in said
    places = written(client, project_id, TITLE)
    least_certain_first = label_next(client, project_id, 5)
    assert least_certain_first == sorted(places, key=places.__getitem__)[:5] != sorted(places)[:5]
    # What the stream had predicted meanwhile says how certain the model is of these five.
    scores = written(client, project_id, f"p{project_id}.v0")
    assert [scores[task_id] for task_id in least_certain_first] == sorted(scores.values())
    project = client.project(project_id)
    assert (project.model_version, project.is_prelabeling, project.is_sequential) == (TITLE, True, False)

    left = places.keys() - set(least_certain_first)
    assert f"{len(left)} tasks ordered by random" in order(lorabel, project_id, "random")
    drawn = written(client, project_id, TITLE)
    assert drawn.keys() == left, "the former order is gone"
    at_random = sorted(drawn, key=drawn.__getitem__)
    assert at_random not in (sorted(left), sorted(left, key=places.__getitem__))
    assert label_next(client, project_id, len(left)) == at_random
