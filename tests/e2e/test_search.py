"""Search in the real Label Studio: imported pictures are found by words and by likeness until they are deleted."""

import subprocess
from typing import Any

import httpx
import pytest

from lorabel.commands.connect import connect
from lorabel.database import task_embeddings
from lorabel.database.store import Store
from lorabel.demo.pictures import Picture
from lorabel.demo.project import LABEL_CONFIG
from lorabel.label_studio.client import LabelStudio
from tests.e2e.label_studio_server import Server
from tests.e2e.lorabel_processes import PROGRAM, Lorabel, bare_environment
from tests.e2e.processes import wait_until
from tests.workers.pictures import data_url

pytestmark = pytest.mark.e2e

KINDS = (("red", "star"), ("blue", "circle"), ("green", "heart"), ("yellow", "square"), ("purple", "arrow"))
OF_EACH = 4
TIMEOUT_S = 60.0


@pytest.fixture
def project(lorabel_up: Lorabel, label_studio: Server, client: LabelStudio) -> int:
    """With four pictures of each kind, in turn."""
    created = client.call("POST", "/api/projects/", json={"title": "search", "label_config": LABEL_CONFIG})
    project_id = int(created["id"])
    drawn = [Picture(colour, shape, seed=seed) for seed in range(OF_EACH) for colour, shape in KINDS]
    tasks = [{"data": {"image": data_url(picture)}} for picture in drawn]
    client.call("POST", f"/api/projects/{project_id}/import", json=tasks, timeout_s=TIMEOUT_S)
    assert connect(lorabel_up.settings, label_studio.url, label_studio.token, project_id).is_complete
    return project_id


def search(lorabel: Lorabel, project_id: int, **query: Any) -> dict[str, Any]:
    url = f"{lorabel.url}/api/v1/projects/{project_id}/search"
    answer = httpx.get(url, params=query, trust_env=False, timeout=TIMEOUT_S).raise_for_status()
    return dict(answer.json())


def command(lorabel: Lorabel, *arguments: str) -> str:
    environment = {**bare_environment(), **lorabel.environment, "COLUMNS": "200"}
    ended = subprocess.run(
        [str(PROGRAM), *arguments], env=environment, capture_output=True, text=True, check=True, timeout=TIMEOUT_S
    )
    return ended.stdout


def test_pictures_are_found_by_words_and_by_likeness_until_they_are_deleted(
    lorabel_up: Lorabel, client: LabelStudio, project: int
) -> None:
    tasks = [task.task_id for task in client.tasks(project)]
    of_kind = {kind: set(tasks[i :: len(KINDS)]) for i, kind in enumerate(KINDS)}
    for colour, shape in KINDS:
        found = search(lorabel_up, project, q=f"a {colour} {shape}", limit=OF_EACH)
        assert {hit["task_id"] for hit in found["hits"]} == of_kind[colour, shape]
        assert (found["indexed"], found["missing"]) == (len(tasks), 0)
    red = sorted(of_kind["red", "star"])
    alike = search(lorabel_up, project, task=red[0], limit=OF_EACH - 1)["hits"]
    assert {hit["task_id"] for hit in alike} == set(red[1:])
    page = httpx.get(alike[0]["url"], trust_env=False, follow_redirects=True, timeout=TIMEOUT_S)
    assert page.status_code == httpx.codes.OK

    said = command(lorabel_up, "search", str(project), "a blue circle", "--limit", "1")
    assert any(f"task={task}" in said for task in of_kind["blue", "circle"])

    gone = red[1]
    client.call(
        "POST",
        "/api/dm/actions",
        params={"id": "delete_tasks", "project": project},
        json={"selectedItems": {"all": False, "included": [gone]}},
    )
    wait_until(lambda: gone not in known(lorabel_up, project), TIMEOUT_S, "the event of the deletion is applied")
    found = search(lorabel_up, project, q="a red star", limit=OF_EACH)
    assert {hit["task_id"] for hit in found["hits"][:3]} == set(red) - {gone}
    assert (found["indexed"], found["missing"]) == (len(tasks) - 1, 0)


def known(lorabel: Lorabel, project_id: int) -> set[int]:
    store = Store.open(lorabel.settings)
    with store.read() as session:
        found = set(task_embeddings.read_keys(session, project_id, 0, None))
    store.close()
    return found
