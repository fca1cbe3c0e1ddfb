"""Wrong annotations in the real Label Studio are found by the base model's features of the pictures.

Open tasks are then ordered by diversity (a core-set of the same features).
"""

import subprocess

import httpx
import pytest

from lorabel.commands.connect import TITLE, connect
from lorabel.label_studio.client import LabelStudio
from lorabel.labeling.regions import choices
from tests.e2e.label_studio_server import Server
from tests.e2e.lorabel_processes import PROGRAM, Lorabel, bare_environment
from tests.e2e.processes import wait_until
from tests.e2e.test_order import order, written
from tests.workers.pictures import data_url, pictures

pytestmark = [pytest.mark.e2e, pytest.mark.long]

COLOURS = ("red", "blue", "green")
LABELED, OPEN, WRONG = 60, 8, 3
TIMEOUT_S = 120.0
CONFIG = (
    '<View><Image name="image" value="$image"/><Choices name="colour" toName="image">'
    + "".join(f'<Choice value="{colour}"/>' for colour in COLOURS)
    + "</Choices></View>"
)


def test_wrong_annotations_are_listed_first_and_open_tasks_ordered_by_diversity(
    lorabel_up: Lorabel,
    label_studio: Server,
    client: LabelStudio,
) -> None:
    drawn = [picture for picture in pictures(400) if picture.colour in COLOURS][: LABELED + OPEN]
    created = client.call("POST", "/api/projects/", json={"title": "errors", "label_config": CONFIG})
    project_id = int(created["id"])
    tasks = [{"image": data_url(picture)} for picture in drawn]
    client.call("POST", f"/api/projects/{project_id}/import", json=tasks, timeout_s=TIMEOUT_S)
    connect(lorabel_up.settings, label_studio.url, label_studio.token, project_id)
    ids = [task.task_id for task in client.tasks(project_id)]
    wrong = ids[:WRONG]
    for task_id, picture in zip(ids[:LABELED], drawn, strict=False):
        next_colour = COLOURS[(COLOURS.index(picture.colour) + 1) % len(COLOURS)]
        colour = next_colour if task_id in wrong else picture.colour
        body = {"result": [choices("colour", "image", [colour])]}
        client.call("POST", f"/api/tasks/{task_id}/annotations/", json=body)
    url = f"{lorabel_up.url}/api/v1/projects/{project_id}"
    with httpx.Client(base_url=url, trust_env=False, timeout=TIMEOUT_S) as api:
        wait_until(lambda: api.get("/annotations").json()["total"] == LABELED, TIMEOUT_S, "all events are applied")
        assert api.get("/label-errors").raise_for_status().json() == {"run": None, "report": None}
        run_id = api.post("/label-errors").raise_for_status().json()["id"]

        def is_finished() -> bool:
            run = api.get("/label-errors").json()["run"]
            assert run["state"] != "failed", run["error"]
            return bool(run["state"] == "finished")

        wait_until(is_finished, TIMEOUT_S, "the run has ended")
        report = api.get("/label-errors").json()["report"]
    assert report["run_id"] == run_id
    assert {error["task_id"] for error in report["errors"][:WRONG]} == set(wrong)
    first = report["errors"][0]
    assert first["suggested"] == drawn[ids.index(first["task_id"])].colour
    assert report["checked"] == LABELED
    completed = subprocess.run(
        [str(PROGRAM), "label-errors", str(project_id)],
        env={**bare_environment(), **lorabel_up.environment, "COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )
    summary = f"{len(report['errors'])} of {LABELED} annotations are probably wrong"
    assert summary in completed.stdout, completed.stderr

    assert f"{OPEN} tasks ordered by diversity, 0 failed" in order(lorabel_up, project_id, "diversity")
    scores = written(client, project_id, TITLE)
    assert scores.keys() == set(ids[LABELED:])
    task = client.call("GET", f"/api/projects/{project_id}/next", timeout_s=TIMEOUT_S)
    assert task["id"] == min(scores, key=scores.__getitem__)
