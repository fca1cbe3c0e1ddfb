"""`label-studio-ml start` (1.0.9) runs `backend/label_studio_ml.py`, in a virtual environment of its own."""

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import select

from lorabel.database import projects, webhook_secrets
from lorabel.database.store import Store
from lorabel.database.tables import Event, Project, TrainingRun
from lorabel.labeling.label_config import parse
from lorabel.settings import Settings
from tests.e2e.lorabel_processes import Lorabel
from tests.servers import free_port
from tests.workers.pictures import data_url, pictures

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).parents[2]
OVERRIDES = ROOT / "docs" / "label-studio-ml-overrides.txt"
RECORDINGS = ROOT / "tests" / "data" / "recordings" / "image-choices"
SCRIPT = "from backend.label_studio_ml import LorabelModel\n"
LEFT_OUT = ("accelerate", "open_clip_torch", "peft", "scikit-learn", "torch", "torchvision", "transformers")
"""Packages that the backend does not need (2 GB)."""


@dataclass(frozen=True)
class Environment:
    folder: Path

    @property
    def variables(self) -> dict[str, str]:
        """The environment is first on the PATH, since label-studio-ml starts the first `python` there."""
        path = f"{self.folder / 'bin'}{os.pathsep}{os.environ['PATH']}"
        return os.environ | {"VIRTUAL_ENV": str(self.folder), "PATH": path}

    def run(self, *command: str, **variables: str) -> None:
        completed = subprocess.run(command, env=self.variables | variables, capture_output=True, text=True)
        assert completed.returncode == 0, f"{' '.join(command)}\n{completed.stdout}\n{completed.stderr}"


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    uv = shutil.which("uv") or str(ROOT / ".venv-uv" / "bin" / "uv")
    folder = tmp_path_factory.mktemp("label-studio-ml")
    left_out = folder / "left-out.txt"
    left_out.write_text("".join(f'{name} ; python_version < "3"\n' for name in LEFT_OUT))
    new_environment = Environment(folder / "venv")
    new_environment.run(uv, "venv", "--quiet", str(new_environment.folder))
    overrides = ("--override", str(OVERRIDES), "--override", str(left_out))
    new_environment.run(
        uv, "pip", "install", "--quiet", "label-studio-ml==1.0.9", "--editable", str(ROOT), *overrides
    )
    return new_environment


@pytest.fixture
def started(
    environment: Environment, settings: Settings, store: Store, lorabel_up: Lorabel, tmp_path: Path
) -> Iterator[httpx.Client]:
    """Do what a user does: a script of one line, `init`, `start`. Yields a client of the server."""
    script = tmp_path / "model.py"
    script.write_text(SCRIPT)
    project = tmp_path / "hosted"
    environment.run("label-studio-ml", "init", str(project), "--script", f"{script}:LorabelModel")
    port = free_port()
    variables = {
        "DATA_DIR": str(settings.data_dir),
        "DATABASE_URL": settings.database,
        "REDIS_URL": settings.redis,
        "MODEL_SERVER_URL": lorabel_up.settings.model_server_url,
    }
    command = ["label-studio-ml", "start", str(project), "--host", "127.0.0.1", "--port", str(port)]
    process = subprocess.Popen(command, env=environment.variables | variables, start_new_session=True)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=30) as client:
            wait_for(client, process)
            yield client
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(timeout=20)


def wait_for(client: httpx.Client, process: subprocess.Popen[bytes]) -> None:
    for _ in range(600):
        assert process.poll() is None, "label-studio-ml start ended"
        try:
            client.get("/health").raise_for_status()
            return
        except httpx.HTTPError:
            time.sleep(0.1)
    pytest.fail("label-studio-ml start does not answer")


def recorded(name: str) -> Any:
    [path] = RECORDINGS.glob(f"*-{name}.json")
    return json.loads(path.read_text())["body"]


def test_tasks_are_predicted_right_by_the_real_model_server(started: httpx.Client) -> None:
    setup = started.post("/setup", json=recorded("connect-setup"))
    assert isinstance(setup.json()["model_version"], str)
    drawn = [picture for picture in pictures(200) if picture.colour in ("red", "blue")][:10]
    body = recorded("stream-predict")
    task = body["tasks"][0]
    body["tasks"] = [task | {"id": i, "data": {"image": data_url(picture)}} for i, picture in enumerate(drawn)]
    answer = started.post("/predict", json=body)
    assert answer.status_code == 200, answer.text
    for picture, entry in zip(drawn, answer.json()["results"], strict=True):
        [region] = entry["result"]
        assert parse(body["label_config"]).find_region_errors(region) == []
        assert region["value"]["choices"] == [picture.colour]
        assert 0 < entry["score"] <= 1
        assert "model_version" not in entry


def test_events_are_stored_for_the_workers_and_a_new_live_version_gets_a_new_name(
    started: httpx.Client, store: Store
) -> None:
    started.post("/setup", json=recorded("connect-setup"))
    started.post("/webhook", json=recorded("accept-webhook-annotation_created"))
    wait_until(lambda: actions(store) == ["ANNOTATION_CREATED"])
    assert started.post("/setup", json=recorded("connect-setup")).json() == {"model_version": "INITIAL"}
    with store.write() as session:
        session.get_one(Project, 1).live_number = 1
    time.sleep(1.1)  # label-studio-ml 1.0.9 names its jobs by the second
    started.post("/webhook", json=recorded("train-webhook-start_training"))
    wait_until(lambda: runs(store) == [1])
    assert actions(store) == ["ANNOTATION_CREATED", "START_TRAINING"]
    wait_until(lambda: version(started).isdigit())


def test_events_without_the_secret_of_their_project_are_not_stored(started: httpx.Client, store: Store) -> None:
    """1.0.9 answers every event with 200 before we see it, in another process."""
    projects.upsert(store, 1, label_config="<View/>")
    webhook_secrets.announce(store, 1, "our-secret")
    webhook_secrets.enforce(store, 1, timedelta())
    started.post("/setup", json=recorded("connect-setup"))
    started.post("/webhook", json=recorded("accept-webhook-annotation_created"))
    time.sleep(1.1)  # label-studio-ml 1.0.9 names its jobs by the second
    headers = {webhook_secrets.HEADER: "our-secret"}
    started.post("/webhook", json=recorded("ground-truth-webhook-annotation_updated"), headers=headers)
    wait_until(lambda: actions(store) == ["ANNOTATION_UPDATED"])


def actions(store: Store) -> list[str]:
    with store.read() as session:
        return list(session.scalars(select(Event.action).order_by(Event.id)))


def runs(store: Store) -> list[int]:
    with store.read() as session:
        return list(session.scalars(select(TrainingRun.project_id)))


def version(client: httpx.Client) -> str:
    return str(client.post("/setup", json=recorded("connect-setup")).json()["model_version"])


def wait_until(condition: Any, seconds: float = 20) -> None:
    ends_at = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < ends_at, "waited too long"
        time.sleep(0.1)
