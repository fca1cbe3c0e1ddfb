"""Predictions are accepted unseen in the real Label Studio, as annotations of a named user, and taken back."""

import json
import subprocess
from typing import Any

import httpx
import pytest

from lorabel.commands.connect import connect
from lorabel.demo.pictures import Picture
from lorabel.label_studio.annotations import find_user
from lorabel.label_studio.client import LabelStudio
from lorabel.labeling.regions import choices
from tests.e2e.label_studio_server import Server
from tests.e2e.lorabel_processes import PROGRAM, Lorabel, bare_environment
from tests.e2e.processes import wait_until
from tests.workers.pictures import data_url, pictures

pytestmark = [pytest.mark.e2e, pytest.mark.long]

COLOURS = ("red", "blue", "green")
LABELED, OPEN = 50, 30
TIMEOUT_S = 240.0
USER = "machine@example.com"
CONFIG = (
    '<View><Image name="image" value="$image"/><Choices name="colour" toName="image">'
    + "".join(f'<Choice value="{colour}"/>' for colour in COLOURS)
    + "</Choices></View>"
)


def accept(lorabel: Lorabel, *options: str) -> dict[str, Any]:
    """Run `lorabel accept --json`, and return the acceptance."""
    completed = subprocess.run(
        [str(PROGRAM), "accept", *options, "--json"],
        env={**bare_environment(), **lorabel.environment, "COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )
    assert completed.returncode == 0, completed.stdout + completed.stderr
    acceptance: dict[str, Any] = json.loads(completed.stdout)["acceptance"]
    return acceptance


def labeled_project(
    title: str, lorabel: Lorabel, label_studio: Server, client: LabelStudio
) -> tuple[int, dict[int, Picture]]:
    """Connect a project with LABELED annotated tasks and OPEN others. Returns its id, and the task's pictures."""
    drawn = [picture for picture in pictures(300, seed=9) if picture.colour in COLOURS][: LABELED + OPEN]
    project_id: int = client.call("POST", "/api/projects/", json={"title": title, "label_config": CONFIG})["id"]
    tasks = [{"image": data_url(picture)} for picture in drawn]
    client.call("POST", f"/api/projects/{project_id}/import", json=tasks, timeout_s=TIMEOUT_S)
    connect(lorabel.settings, label_studio.url, label_studio.token, project_id)
    drawn_by_task = dict(zip((task.task_id for task in client.tasks(project_id)), drawn, strict=True))
    for task_id in list(drawn_by_task)[:LABELED]:
        body = {"result": [choices("colour", "image", [drawn_by_task[task_id].colour])]}
        client.call("POST", f"/api/tasks/{task_id}/annotations/", json=body)
    return project_id, drawn_by_task


def test_accepted_predictions_are_a_users_annotations_are_not_learned_from_and_are_taken_back(
    lorabel_up: Lorabel, label_studio: Server, client: LabelStudio
) -> None:
    project_id, colours = labeled_project("accept", lorabel_up, label_studio, client)
    project = str(project_id)
    client.call(
        "POST", "/api/users/", json={"email": USER, "username": "machine", "first_name": "Ma", "last_name": ""}
    )
    user_id = find_user(client, USER)
    assert user_id is not None
    api = httpx.Client(base_url=f"{lorabel_up.url}/api/v1/projects/{project}", trust_env=False, timeout=TIMEOUT_S)
    with api:

        def counted() -> int:
            return int(api.get("/annotations").json()["total"])

        wait_until(lambda: counted() == LABELED, TIMEOUT_S, "all events are applied")
        options = (project, "--precision", "0.8", "--together")
        shown = accept(lorabel_up, *options)
        (proof,) = shown["labels"]
        assert (proof["cases"], proof["reason"], shown["tasks"]) == (LABELED, "", {})
        assert 0 < proof["tasks"] <= OPEN and proof["bound"] >= 0.8
        assert "fitted without it" in shown["cases_from"]
        assert len(list(client.annotated_tasks(project_id))) == LABELED, "a dry run has written"

        written = accept(lorabel_up, *options, "--write", "--user", USER)
        (proof,) = written["labels"]
        assert written["tasks"] == {"written": proof["tasks"]}
        accepted = {
            task.task_id: task.annotations[0]
            for task in client.annotated_tasks(project_id)
            if task.annotations[0]["completed_by"] == user_id
        }
        assert len(accepted) == proof["tasks"] >= 3
        right = [
            annotation["result"][0]["value"]["choices"] == [colours[task_id].colour]
            for task_id, annotation in accepted.items()
        ]
        assert sum(right) >= 0.8 * len(right)
        assert all("score" not in annotation["result"][0] for annotation in accepted.values())

        # A person corrects one, which makes it a human annotation, and confirms none of the others.
        corrected_id, corrected = next(iter(accepted.items()))
        other = next(colour for colour in COLOURS if [colour] != corrected["result"][0]["value"]["choices"])
        region = corrected["result"][0] | {"value": {"choices": [other]}}
        client.call("PATCH", f"/api/annotations/{corrected['id']}/", json={"result": [region]})
        wait_until(lambda: counted() == LABELED + 1, TIMEOUT_S, "the correction is counted")
        events = httpx.get(f"{lorabel_up.url}/api/v1/events?limit=500", trust_env=False).json()["events"]
        stale = [event for event in events if event["project_id"] == project_id and event["state"] == "stale"]
        assert len(stale) >= len(accepted), "the accepted annotations came back as events and changed nothing"

        undone = accept(lorabel_up, project, "--undo", str(written["id"]))
        assert undone["tasks"] == {"removed": len(accepted) - 1, "changed": 1}
        left = {task.task_id for task in client.annotated_tasks(project_id)}
        assert left == {*list(colours)[:LABELED], corrected_id}
        assert counted() == LABELED + 1
        assert [each["id"] for each in api.get("/acceptances").json()["acceptances"]] == [
            written["id"],
            shown["id"],
        ]


def test_a_random_sample_is_reviewed_in_a_tab_and_tells_whether_the_promise_holds(
    lorabel_up: Lorabel, label_studio: Server, client: LabelStudio
) -> None:
    project_id, colours = labeled_project("review", lorabel_up, label_studio, client)
    project = str(project_id)
    address = f"{lorabel_up.url}/api/v1/projects/{project}"

    def counted() -> int:
        return int(httpx.get(f"{address}/annotations", trust_env=False, timeout=TIMEOUT_S).json()["total"])

    wait_until(lambda: counted() == LABELED, TIMEOUT_S, "all events are applied")
    shown = accept(lorabel_up, project, "--precision", "0.8", "--together", "--review", "--sample", "8")
    (proof,) = shown["labels"]
    assert shown["tasks"] == {"shown": proof["tasks"]} and proof["tasks"] >= 8
    assert len(list(client.annotated_tasks(project_id))) == LABELED, "nothing is annotated"
    tab = {"project": project_id, "view": shown["tab_id"], "fields": "all", "page_size": 100}
    sample = client.call("GET", "/api/tasks/", params=tab)["tasks"]
    assert len(sample) == 8 and all(not task["annotations"] for task in sample)
    assert {row["model_version"] for task in sample for row in task["predictions"]} >= {
        f"{shown['version']} (review {shown['id']})"
    }
    others = [task for task in client.tasks(project_id) if any("(acceptance" in name for name in task.versions)]
    assert len(others) == proof["tasks"] - 8

    # People review the sample: the truth, but for one that they see otherwise.
    wrong = 0
    for place, task in enumerate(sorted(sample, key=lambda task: task["id"])):
        (mine,) = (row for row in task["predictions"] if "(review" in row["model_version"])
        (predicted,) = mine["result"][0]["value"]["choices"]
        said = colours[task["id"]].colour if place else next(each for each in COLOURS if each != predicted)
        wrong += said != predicted
        body = {"result": [{**mine["result"][0], "value": {"choices": [said]}}], "parent_prediction": mine["id"]}
        client.call("POST", f"/api/tasks/{task['id']}/annotations/", json=body)
    wait_until(lambda: counted() == LABELED + 8, TIMEOUT_S, "reviews are people's annotations, and count")
    review = httpx.get(f"{address}/acceptances/{shown['id']}/review", trust_env=False, timeout=TIMEOUT_S).json()
    assert (review["sampled"], review["reviewed"], review["wrong"]) == (8, 8, wrong)
    assert review["tasks"] == proof["tasks"] and review["estimate"] == 1 - wrong / 8
    assert review["low"] <= review["estimate"] <= review["high"]
    page = httpx.get(f"{lorabel_up.url}/ui/projects/{project}/accept", trust_env=False, timeout=TIMEOUT_S).text
    assert f"data?tab={shown['tab_id']}" in page and "8 of 8 sampled tasks are reviewed" in page

    undone = accept(lorabel_up, project, "--undo", str(shown["id"]))
    assert undone["tasks"] == {"removed": proof["tasks"]}
    left = [name for task in client.tasks(project_id) for name in task.versions if "(" in name]
    assert left == []
    tabs = client.call("GET", "/api/dm/views/", params={"project": project_id})
    assert shown["tab_id"] not in [each["id"] for each in tabs]
    assert counted() == LABELED + 8, "what people said stays"
