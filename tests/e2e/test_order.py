"""The labeling stream of the real Label Studio follows the order that Lorabel writes."""

import re
import subprocess
from typing import Any

import httpx
import pytest

from lorabel.commands.connect import TITLE, connect
from lorabel.demo.project import create_project
from lorabel.label_studio.client import LabelStudio
from tests.e2e.label_studio_server import Server
from tests.e2e.lorabel_processes import PROGRAM, Lorabel, bare_environment
from tests.e2e.processes import wait_until
from tests.workers.pictures import result

pytestmark = pytest.mark.e2e

TASKS = 12
RENEW_AFTER, FIRST = 10, 50
TIMEOUT_S = 120.0


def order(lorabel: Lorabel, project_id: int, strategy: str) -> str:
    """Run `lorabel order`; returns its output."""
    command = [str(PROGRAM), "order", str(project_id), "--strategy", strategy]
    environment = {**bare_environment(), **lorabel.environment, "COLUMNS": "200"}
    completed = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=TIMEOUT_S)
    assert completed.returncode == 0, completed.stdout + completed.stderr
    return completed.stdout


def written(client: LabelStudio, project_id: int, version: str) -> dict[int, float]:
    """Task id -> score of the prediction of this version; each task has at most one such prediction."""
    stored = client.call("GET", "/api/predictions/", params={"project": project_id})
    predictions = [prediction for prediction in stored if prediction["model_version"] == version]
    scores = {prediction["task"]: prediction["score"] for prediction in predictions}
    assert len(scores) == len(predictions)
    return scores


def label_next(client: LabelStudio, project_id: int, count: int) -> list[int]:
    """Annotate the next `count` tasks of the labeling stream; returns their ids in the order of the stream.

    Each task must come with the prediction of the live version only, which is then on the screen.
    """
    task_ids = []
    for _ in range(count):
        task = client.call("GET", f"/api/projects/{project_id}/next", timeout_s=TIMEOUT_S)
        versions = [prediction["model_version"] for prediction in task["predictions"]]
        assert versions == [f"p{project_id}.v0"]
        body = {"result": result("Grade A"), "lead_time": 1.0}
        client.call("POST", f"/api/tasks/{task['id']}/annotations/", json=body)
        task_ids.append(task["id"])
    return task_ids


def test_the_labeling_stream_follows_the_order_and_a_new_order_replaces_the_old(
    lorabel_up: Lorabel, label_studio: Server, client: LabelStudio
) -> None:
    project_id = create_project(client, TASKS)
    assert connect(lorabel_up.settings, label_studio.url, label_studio.token, project_id).is_complete
    output = order(lorabel_up, project_id, "margin")
    assert f"{TASKS} tasks ordered by margin, 0 failed" in output
    order_scores = written(client, project_id, TITLE)
    page = httpx.get(f"{lorabel_up.url}/ui/projects/{project_id}/tasks?show=unsure", trust_env=False)
    listed = [int(task_id) for task_id in re.findall(r'<th scope="row"><a [^>]*>task (\d+)<', page.text)]
    assert listed == sorted(order_scores, key=order_scores.__getitem__)
    least_certain_first = label_next(client, project_id, 5)
    assert (
        least_certain_first == sorted(order_scores, key=order_scores.__getitem__)[:5] != sorted(order_scores)[:5]
    )
    project = client.project(project_id)
    assert (project.model_version, project.is_prelabeling, project.is_sequential) == (TITLE, True, False)

    left = order_scores.keys() - set(least_certain_first)
    assert f"{len(left)} tasks ordered by random" in order(lorabel_up, project_id, "random")
    random_scores = written(client, project_id, TITLE)
    assert random_scores.keys() == left, "the former order is deleted"
    at_random = sorted(random_scores, key=random_scores.__getitem__)
    assert at_random not in (sorted(left), sorted(left, key=order_scores.__getitem__))
    assert label_next(client, project_id, len(left)) == at_random


@pytest.mark.long
def test_an_automatic_order_is_renewed_after_ten_annotations(
    lorabel_up: Lorabel, label_studio: Server, client: LabelStudio
) -> None:
    project_id = create_project(client, FIRST + RENEW_AFTER + 10)
    assert connect(lorabel_up.settings, label_studio.url, label_studio.token, project_id).is_complete
    order(lorabel_up, project_id, "auto")
    first = written(client, project_id, TITLE)
    assert len(first) == FIRST, "only the first tasks have a position"
    annotated = label_next(client, project_id, RENEW_AFTER)
    assert annotated == sorted(first, key=first.__getitem__)[:RENEW_AFTER]

    def renewals() -> list[dict[str, Any]]:
        url = f"{lorabel_up.url}/api/v1/projects/{project_id}/preannotations"
        runs = httpx.get(url, trust_env=False, timeout=TIMEOUT_S).raise_for_status().json()["runs"]
        return [run for run in runs if run["kind"] == "order_renewal"]

    # Nobody annotates more, so an order that still rests is queued by the sweep.
    wait_until(lambda: [run["state"] for run in renewals()] == ["finished"], TIMEOUT_S, "the order is renewed")
    renewed = written(client, project_id, TITLE)
    assert len(renewed.keys() - set(annotated)) == FIRST
    kept = renewed.keys() & first.keys()
    assert all(renewed[task_id] == first[task_id] for task_id in kept)
    assert client.project(project_id).model_version == TITLE
    following = label_next(client, project_id, 3)
    still_open = sorted(renewed.keys() - set(annotated), key=renewed.__getitem__)
    assert [renewed[task_id] for task_id in following] == [renewed[task_id] for task_id in still_open[:3]]
