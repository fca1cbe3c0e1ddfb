"""A task of the real Label Studio is forgotten while people annotate others, and then the whole project.

All processes run. Nothing of what is forgotten is in any file of DATA_DIR: database, adapters, Redis, logs.
"""

import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from lorabel.commands.connect import connect
from lorabel.label_studio.client import LabelStudio
from lorabel.labeling.regions import choices
from tests.e2e.label_studio_server import Server
from tests.e2e.lorabel_processes import PROGRAM, Lorabel, bare_environment
from tests.e2e.processes import wait_until
from tests.workers.pictures import data_url, pictures

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.long]

COLOURS = ("red", "blue")
TASKS, BEFORE = 24, 12
MARKER = "Zyxomarker-4711"
SECRET = "anna.zyxo@mail.example.com"
TIMEOUT_S = 120.0
CONFIG = (
    '<View><Image name="image" value="$image"/><Choices name="colour" toName="image">'
    '<Choice value="red"/><Choice value="blue"/></Choices></View>'
)


def test_nothing_is_left_of_a_task_and_then_of_its_project(
    start_lorabel: Callable[..., Lorabel], label_studio: Server, client: LabelStudio
) -> None:
    lorabel = start_lorabel({"TRAIN_AFTER_ANNOTATIONS": "1000000", "REDACT": "email"})
    drawn = [picture for picture in pictures(300) if picture.colour in COLOURS][:TASKS]
    created = client.call("POST", "/api/projects/", json={"title": "private", "label_config": CONFIG})
    project_id = int(created["id"])
    connect(lorabel.settings, label_studio.url, label_studio.token, project_id)
    tasks = [{"image": data_url(picture), "note": f"{SECRET} wrote"} for picture in drawn]
    tasks[0]["note"] = f"{MARKER} wrote, {SECRET} answered"
    client.call("POST", f"/api/projects/{project_id}/import", json=tasks, timeout_s=TIMEOUT_S)
    ids = [task.task_id for task in client.tasks(project_id)]

    def annotate(numbers: range) -> None:
        with label_studio.client() as own_client:
            for number in numbers:
                body = {"result": [choices("colour", "image", [drawn[number].colour])]}
                own_client.call("POST", f"/api/tasks/{ids[number]}/annotations/", json=body)

    annotate(range(BEFORE))
    url = f"{lorabel.url}/api/v1/projects/{project_id}"
    data_dir = lorabel.settings.data_dir
    with httpx.Client(base_url=url, trust_env=False, timeout=TIMEOUT_S) as api:

        def annotations() -> int:
            return int(api.get("/annotations").json()["total"])

        wait_until(lambda: annotations() == BEFORE, TIMEOUT_S, "events are applied")
        wait_until(lambda: has_heads(data_dir), TIMEOUT_S, "a head answers")
        run(lorabel, "index", str(project_id))
        assert files_with(data_dir, MARKER), "the test must have something to find"
        assert not files_with(data_dir, SECRET)
        client.call("DELETE", f"/api/tasks/{ids[0]}/")
        others = threading.Thread(target=annotate, args=(range(BEFORE, TASKS),))
        others.start()
        said = run(lorabel, "forget", str(project_id), "--task", str(ids[0]), "--yes")
        others.join()
        assert "table annotation" in said and "table event" in said
        wait_until(lambda: annotations() == TASKS - 1, TIMEOUT_S, "no event of the others is lost")
        assert files_with(data_dir, MARKER) == []
        assert files_with(data_dir, label_studio.token) == []
        wait_until(lambda: has_heads(data_dir), TIMEOUT_S, "a head is fitted without the task")
    run(lorabel, "forget", str(project_id), "--yes")
    assert files_with(data_dir, " wrote", MARKER, SECRET) == []
    assert not has_heads(data_dir)
    assert not any(
        word in lorabel.log.read_text(errors="replace") for word in (MARKER, SECRET, label_studio.token)
    )


def has_heads(data_dir: Path) -> bool:
    return any((data_dir / "adapters").glob("*/*/head.safetensors"))


def files_with(folder: Path, *words: str) -> list[Path]:
    return [
        path
        for path in folder.rglob("*")
        if path.is_file() and any(word.encode() in path.read_bytes() for word in words)
    ]


def run(lorabel: Lorabel, *arguments: str) -> str:
    completed = subprocess.run(
        [str(PROGRAM), *arguments],
        env={**bare_environment(), **lorabel.environment, "COLUMNS": "160"},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )
    assert completed.returncode == 0, completed.stdout + completed.stderr
    return completed.stdout
