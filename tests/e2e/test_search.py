"""Search in the real Label Studio: pictures are found by a text or a similar picture until they are deleted."""

import re
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
PICTURES_PER_KIND = 4
TIMEOUT_S = 60.0


@pytest.fixture
def project(lorabel_up: Lorabel, label_studio: Server, client: LabelStudio) -> int:
    """A connected project with four pictures of each kind; the kinds alternate."""
    created = client.call("POST", "/api/projects/", json={"title": "search", "label_config": LABEL_CONFIG})
    project_id = int(created["id"])
    drawn = [Picture(colour, shape, seed=seed) for seed in range(PICTURES_PER_KIND) for colour, shape in KINDS]
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
    completed = subprocess.run(
        [str(PROGRAM), *arguments], env=environment, capture_output=True, text=True, check=True, timeout=TIMEOUT_S
    )
    return completed.stdout


def test_pictures_are_found_by_text_and_by_similarity_until_they_are_deleted(
    lorabel_up: Lorabel, client: LabelStudio, project: int
) -> None:
    tasks = [task.task_id for task in client.tasks(project)]
    tasks_of_kind = {kind: set(tasks[i :: len(KINDS)]) for i, kind in enumerate(KINDS)}
    for colour, shape in KINDS:
        response = search(lorabel_up, project, q=f"a {colour} {shape}", limit=PICTURES_PER_KIND)
        assert {hit["task_id"] for hit in response["hits"]} == tasks_of_kind[colour, shape]
        assert (response["indexed"], response["missing"]) == (len(tasks), 0)
    red_stars = sorted(tasks_of_kind["red", "star"])
    similar = search(lorabel_up, project, task=red_stars[0], limit=PICTURES_PER_KIND - 1)["hits"]
    assert {hit["task_id"] for hit in similar} == set(red_stars[1:])
    page = httpx.get(similar[0]["url"], trust_env=False, follow_redirects=True, timeout=TIMEOUT_S)
    assert page.status_code == httpx.codes.OK

    tasks_page = f"{lorabel_up.url}/ui/projects/{project}/tasks"
    listed = httpx.get(tasks_page, params={"q": "a blue circle"}, trust_env=False, timeout=TIMEOUT_S).text
    assert re.search(r">task (\d+)<", listed)[1] in map(str, tasks_of_kind["blue", "circle"])  # type: ignore[index]
    picture = httpx.get(f"{tasks_page}/{red_stars[0]}/thumbnail", trust_env=False, timeout=TIMEOUT_S)
    assert picture.headers["Content-Type"] == "image/jpeg"

    output = command(lorabel_up, "search", str(project), "a blue circle", "--limit", "1")
    assert any(f"task={task}" in output for task in tasks_of_kind["blue", "circle"])

    deleted = red_stars[1]
    client.call(
        "POST",
        "/api/dm/actions",
        params={"id": "delete_tasks", "project": project},
        json={"selectedItems": {"all": False, "included": [deleted]}},
    )
    wait_until(
        lambda: deleted not in embedded_tasks(lorabel_up, project),
        TIMEOUT_S,
        "the event of the deletion is applied",
    )
    response = search(lorabel_up, project, q="a red star", limit=PICTURES_PER_KIND)
    assert {hit["task_id"] for hit in response["hits"][:3]} == set(red_stars) - {deleted}
    assert (response["indexed"], response["missing"]) == (len(tasks) - 1, 0)


def embedded_tasks(lorabel: Lorabel, project_id: int) -> set[int]:
    store = Store.open(lorabel.settings)
    with store.read() as session:
        task_ids = set(task_embeddings.read_keys(session, project_id, 0, None))
    store.close()
    return task_ids
