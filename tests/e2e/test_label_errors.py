"""Wrong annotations in the real Label Studio are found by what the pictures look like to the base model, and open
tasks are put into the order of a core-set."""

import subprocess

import httpx
import pytest

from lorabel.commands.connect import TITLE, connect
from lorabel.label_studio.client import LabelStudio
from lorabel.labeling.regions import choices
from tests.e2e.label_studio_server import Server
from tests.e2e.lorabel_processes import PROGRAM, Lorabel, bare_environment
from tests.e2e.processes import wait_until
from tests.e2e.test_order import lorabel, order, written  # noqa: F401 - `lorabel` is a fixture
from tests.workers.pictures import data_url, pictures

pytestmark = pytest.mark.e2e

COLOURS = ("red", "blue", "green")
LABELED, OPEN, WRONG = 60, 8, 3
TIMEOUT_S = 120.0
CONFIG = (
    '<View><Image name="image" value="$image"/><Choices name="colour" toName="image">'
    + "".join(f'<Choice value="{colour}"/>' for colour in COLOURS)
    + "</Choices></View>"
)


def test_wrong_annotations_are_listed_first_and_open_tasks_ordered_by_diversity(
    lorabel: Lorabel,  # noqa: F811
    label_studio: Server,
    client: LabelStudio,
) -> None:
    drawn = [one for one in pictures(400) if one.colour in COLOURS][: LABELED + OPEN]
    made = client.call("POST", "/api/projects/", json={"title": "errors", "label_config": CONFIG})
    project_id = int(made["id"])
    tasks = [{"image": data_url(one)} for one in drawn]
    client.call("POST", f"/api/projects/{project_id}/import", json=tasks, timeout_s=TIMEOUT_S)
    connect(lorabel.settings, label_studio.url, label_studio.token, project_id)
    ids = [task.task_id for task in client.tasks(project_id)]
    wrong = ids[:WRONG]
    for task_id, picture in zip(ids[:LABELED], drawn, strict=False):
        at = COLOURS.index(picture.colour)
        given = COLOURS[(at + 1) % len(COLOURS)] if task_id in wrong else picture.colour
        body = {"result": [choices("colour", "image", [given])]}
        client.call("POST", f"/api/tasks/{task_id}/annotations/", json=body)
    url = f"{lorabel.url}/api/v1/projects/{project_id}"
    with httpx.Client(base_url=url, trust_env=False, timeout=TIMEOUT_S) as api:
        wait_until(lambda: api.get("/annotations").json()["total"] == LABELED, TIMEOUT_S, "all events are applied")
        found = api.get("/label-errors").raise_for_status().json()
    assert {one["task_id"] for one in found["errors"][:WRONG]} == set(wrong)
    first = found["errors"][0]
    assert first["suggested"] == drawn[ids.index(first["task_id"])].colour
    assert found["checked"] == LABELED
    said = subprocess.run(
        [str(PROGRAM), "label-errors", str(project_id)],
        env={**bare_environment(), **lorabel.environment, "COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )
    assert f"{len(found['errors'])} of {LABELED} annotations are probably wrong" in said.stdout, said.stderr

    assert f"{OPEN} tasks ordered by diversity, 0 failed" in order(lorabel, project_id, "diversity")
    places = written(client, project_id, TITLE)
    assert places.keys() == set(ids[LABELED:])
    task = client.call("GET", f"/api/projects/{project_id}/next", timeout_s=TIMEOUT_S)
    assert task["id"] == min(places, key=places.__getitem__)
