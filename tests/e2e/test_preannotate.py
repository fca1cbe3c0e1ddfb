"""Bulk runs and the look-ahead, with the real Label Studio and every process of Lorabel."""

import subprocess
import time
from base64 import b64decode
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from lorabel.commands.connect import connect
from lorabel.database import bulk_runs
from lorabel.database.store import Store
from lorabel.database.tables import BulkRun, RunState
from lorabel.demo.project import LABEL_CONFIG, create_project
from lorabel.inference.messages import Priority
from lorabel.label_studio.client import LabelStudio
from lorabel.network import tls_context
from tests.e2e.label_studio_server import Server
from tests.e2e.lorabel_processes import PROGRAM, Lorabel, bare_environment
from tests.e2e.processes import kill, wait_until
from tests.serving import serving
from tests.workers.pictures import data_url, pictures, result

pytestmark = pytest.mark.e2e

TASKS = 30
PAGE = 5
LOOKAHEAD = 6
# Rows that the look-ahead sends per task: one for the prediction, one for the embedding.
ROWS_PER_TASK = 2
PREDICT_TIMEOUT_S = 6.0
SLOW_S = 12.0
TIMEOUT_S = 120.0
BROKEN = "data:image/png;base64,AAAA"


@pytest.fixture(scope="module")
def slow_pictures() -> Iterator[str]:
    """Yields the address of a server whose pictures take longer than the time limit of /predict."""
    body = b64decode(data_url(pictures(1)[0]).partition(",")[2])

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            time.sleep(SLOW_S)
            self.send_response(200)
            self.send_header("Content-Type", "image/png")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            """Write no log."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    with serving(server):
        yield f"http://127.0.0.1:{server.server_port}"


@pytest.fixture(scope="module")
def lorabel(start_lorabel: Callable[..., Lorabel], slow_pictures: str) -> Lorabel:
    return start_lorabel(
        {
            "BULK_PAGE": str(PAGE),
            "LABEL_STUDIO_REQUESTS_PER_SECOND": "4",
            "RUN_LEASE_SECONDS": "5",
            "AHEAD_TASKS": str(LOOKAHEAD),
            "PREDICT_TIMEOUT_S": str(PREDICT_TIMEOUT_S),
            "MEDIA_ALLOWED_HOSTS": slow_pictures.removeprefix("http://"),
        }
    )


@pytest.fixture
def store(lorabel: Lorabel) -> Iterator[Store]:
    store = Store.open(lorabel.settings)
    yield store
    store.close()


def connected(lorabel: Lorabel, label_studio: Server, project_id: int) -> int:
    connection = connect(lorabel.settings, label_studio.url, label_studio.token, project_id)
    assert connection.is_complete, connection.steps
    return project_id


def add_tasks(client: LabelStudio, project_id: int, *images: str) -> None:
    client.call("POST", f"/api/projects/{project_id}/import", json=[{"image": image} for image in images])


def versions_of(client: LabelStudio, project_id: int) -> dict[int, list[str]]:
    """Task id -> the model versions of the predictions that Label Studio has stored."""
    versions: dict[int, list[str]] = {task.task_id: [] for task in client.tasks(project_id)}
    for prediction in client.call("GET", "/api/predictions/", params={"project": project_id}):
        versions[prediction["task"]].append(prediction["model_version"])
    return versions


def newest(store: Store, project_id: int) -> BulkRun:
    with store.read() as session:
        return bulk_runs.list_of(session, project_id)[0]


def has_two_pages(store: Store, project_id: int) -> bool:
    """Whether the project's newest bulk run has predicted two pages."""
    with store.read() as session:
        runs = bulk_runs.list_of(session, project_id)
    return bool(runs) and runs[0].done >= 2 * PAGE


def metric(lorabel: Lorabel, name: str, **labels: str) -> float:
    """The sum of a metric of the model server over all lines with these labels."""
    text = httpx.get(f"{lorabel.settings.model_server_url}/metrics", trust_env=False, verify=tls_context()).text
    values = [
        sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    ]
    return sum(values)


def rows(lorabel: Lorabel, priority: Priority) -> float:
    return metric(lorabel, "lorabel_rows_total", priority=priority, outcome="ok")


def test_every_task_is_predicted_once_although_the_worker_is_killed_during_the_run(
    lorabel: Lorabel, label_studio: Server, client: LabelStudio, store: Store
) -> None:
    project_id = connected(lorabel, label_studio, create_project(client, TASKS))
    add_tasks(client, project_id, BROKEN, f"/data/upload/{project_id}/not-there.jpg")
    command = subprocess.Popen(
        [str(PROGRAM), "preannotate", str(project_id)],
        env={**bare_environment(), **lorabel.environment, "COLUMNS": "200"},
        stdout=subprocess.PIPE,
        text=True,
    )
    wait_until(lambda: has_two_pages(store, project_id), TIMEOUT_S, "the run has predicted two pages")
    kill(lorabel, "worker-bulk")
    assert newest(store, project_id).state == RunState.RUNNING
    output, _ = command.communicate(timeout=TIMEOUT_S)
    run = newest(store, project_id)
    assert (run.state, run.attempt) == (RunState.FINISHED, 2), run.error
    assert (run.done + run.skipped, run.failed, run.total) == (TASKS, 2, TASKS + 2)
    assert run.skipped <= PAGE, "at most the last page was written before the kill"
    *readable, broken, missing = (versions for _, versions in sorted(versions_of(client, project_id).items()))
    assert readable == [[f"p{project_id}.v0"]] * TASKS
    assert (broken, missing) == ([f"p{project_id}.v0"], []), (
        "a file that can never be read gets an empty prediction, a missing file gets none"
    )
    assert command.returncode == 0
    assert f"bulk run {run.id} finished: {run.done} tasks predicted" in output
    assert len([line for line in output.splitlines() if line.startswith("task ")]) == 2


def test_tasks_that_retrieve_predictions_cannot_finish_in_time_become_a_bulk_run(
    lorabel: Lorabel, label_studio: Server, client: LabelStudio, store: Store, slow_pictures: str
) -> None:
    project_id = connected(lorabel, label_studio, create_project(client, 4))
    quick = list(versions_of(client, project_id))
    add_tasks(client, project_id, *(f"{slow_pictures}/{i}.png" for i in range(3)))
    client.call(
        "POST",
        f"/api/dm/actions?id=retrieve_tasks_predictions&project={project_id}",
        json={"selectedItems": {"all": True, "excluded": []}},
        timeout_s=TIMEOUT_S,
    )
    versions = versions_of(client, project_id)
    slow = sorted(versions.keys() - set(quick))
    assert [versions[task_id] for task_id in quick] == [[f"p{project_id}.v0"]] * 4
    assert [versions[task_id] for task_id in slow] == [[]] * 3
    assert newest(store, project_id).task_ids == slow
    wait_until(lambda: newest(store, project_id).state == RunState.FINISHED, TIMEOUT_S, "the bulk run is finished")
    assert set(map(tuple, versions_of(client, project_id).values())) == {(f"p{project_id}.v0",)}


def test_the_next_tasks_are_predicted_before_an_annotator_opens_them(
    lorabel: Lorabel, label_studio: Server, client: LabelStudio
) -> None:
    created = client.call("POST", "/api/projects/", json={"title": "ahead", "label_config": LABEL_CONFIG})
    project_id = connected(lorabel, label_studio, int(created["id"]))
    before = rows(lorabel, Priority.LOOKAHEAD)
    drawn = pictures(3 * LOOKAHEAD)
    add_tasks(client, project_id, *map(data_url, drawn))
    expected_rows = before + ROWS_PER_TASK * LOOKAHEAD
    wait_until(
        lambda: rows(lorabel, Priority.LOOKAHEAD) == expected_rows, TIMEOUT_S, "the first new tasks are predicted"
    )
    assert set(map(tuple, versions_of(client, project_id).values())) == {()}, "no prediction is stored"
    misses = metric(lorabel, "lorabel_memo_misses_total", kind="features")
    for picture in drawn[:LOOKAHEAD]:
        task = client.call("GET", f"/api/projects/{project_id}/next", timeout_s=TIMEOUT_S)
        assert task["data"]["image"] == data_url(picture), "Label Studio gives tasks in the order of their ids"
        body = {"result": result("Grade A"), "lead_time": 1.0}
        client.call("POST", f"/api/tasks/{task['id']}/annotations/", json=body)
    first = sorted(versions_of(client, project_id).items())[:LOOKAHEAD]
    assert [versions for _, versions in first] == [[f"p{project_id}.v0"]] * LOOKAHEAD
    wait_until(
        lambda: rows(lorabel, Priority.LOOKAHEAD) > expected_rows,
        TIMEOUT_S,
        "the tasks after the one on the screen are predicted",
    )

    def computed() -> float:
        return metric(lorabel, "lorabel_memo_misses_total", kind="features") - misses

    wait_until(
        lambda: ROWS_PER_TASK * computed() == rows(lorabel, Priority.LOOKAHEAD) - expected_rows,
        TIMEOUT_S,
        "only pictures of the look-ahead were computed, each once",
    )
