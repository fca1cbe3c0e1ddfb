"""Runs the commands and health checks of docker-compose.yml without containers, with a real PostgreSQL and Redis.

Names of services are replaced by 127.0.0.1, and ports by free ports.
"""

import os
import re
import subprocess
import sys
import time
from base64 import b64encode
from collections.abc import Iterator
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from PIL import Image

from tests.deploy.compose import COMPOSE, ROOT, interpolate, read
from tests.e2e.label_studio_server import Server, kill_group
from tests.servers import MissingServerError, PostgresServer, free_port, postgres_server, redis_server
from tests.skipped import skip_or_fail

pytestmark = pytest.mark.e2e

PORTS = ("5432", "6379", "8080", "9090", "9191")
AUTH = ("label-studio", "pass:word")
REDIS_PASSWORD = "onlyintests2"
PROJECT = "1.1795324321"
CONFIG = (
    '<View><Image name="image" value="$image"/><Choices name="label" toName="image">'
    '<Choice value="red"/><Choice value="blue"/></Choices></View>'
)
OTHER_CHOICE = {"red": "blue", "blue": "red"}
LONG_RUNNING = ("model-server", "backend", "worker-light", "worker-train", "worker-bulk")
HEALTHY_WITHIN_S = 180.0
TRAINED_WITHIN_S = 180.0


@dataclass
class Deployment:
    """The services of the file, run as processes.

    Args:
        services: as in the file, by name.
        ports: port in the file -> port here.
        data: the folder in place of /data.
        running: the processes that were started, by service.
    """

    services: dict[str, Any]
    ports: dict[str, int]
    data: Path
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.ports['9090']}"

    def environment(self, service: str) -> dict[str, str]:
        """The variables of the container, and what is needed to find our programs."""
        path = f"{Path(sys.prefix) / 'bin'}:{os.environ['PATH']}"
        variables = {name: self._localize(value) for name, value in self.services[service]["environment"].items()}
        return {"PATH": path, "HOME": str(self.data), "PYTHONWARNINGS": "default", **variables}

    def command(self, service: str) -> list[str]:
        return [self._localize(word) for word in self.services[service]["command"]]

    def start(self, service: str) -> None:
        with (self.data / f"{service}.log").open("wb") as log:
            self.running[service] = subprocess.Popen(
                self.command(service),
                cwd=ROOT,
                env=self.environment(service),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def check(self, service: str) -> subprocess.CompletedProcess[str]:
        """Run the health check of a service as Docker does; exit status 0 means healthy."""
        kind, *test = self.services[service]["healthcheck"]["test"]
        assert kind == "CMD"
        is_ours = service in LONG_RUNNING
        environment = self.environment(service) if is_ours else os.environ | self.services[service]["environment"]
        return subprocess.run(
            [self._localize(word) for word in test],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
        )

    def wait_until_healthy(self, service: str) -> None:
        deadline = time.monotonic() + HEALTHY_WITHIN_S
        while (check := self.check(service)).returncode != 0:
            assert self.running[service].poll() is None, f"{service} ended:\n{self.log(service)}"
            assert time.monotonic() < deadline, f"{service}: {check.stderr}\n{self.log(service)}"
            time.sleep(1.0)

    def log(self, service: str) -> str:
        return (self.data / f"{service}.log").read_text(errors="replace")[-3000:]

    def _localize(self, text: str) -> str:
        """Replace host names, ports and /data by those of this machine."""
        text = re.sub(rf"\b({'|'.join(self.services)})(?=:\d)", "127.0.0.1", text)
        text = re.sub(rf"\b({'|'.join(self.ports)})\b", lambda match: str(self.ports[match[0]]), text)
        return re.sub(r"^/data$", str(self.data), text)


@pytest.fixture(scope="module")
def postgres() -> Iterator[PostgresServer]:
    """A server prepared as by the image: the database `lorabel`, and Label Studio's by our script."""
    script = ROOT / "docker" / "create-label-studio-database.sql"
    try:
        with postgres_server() as server:
            with psycopg.connect(server.url(), autocommit=True) as connection:
                connection.execute("CREATE DATABASE lorabel")
                connection.execute(script.read_bytes())
            yield server
    except MissingServerError as error:
        skip_or_fail(str(error))


@pytest.fixture(scope="module")
def deployment(postgres: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """All services of the file except Label Studio, once they are healthy."""
    data = tmp_path_factory.mktemp("compose")
    variables = {
        "POSTGRES_PASSWORD": "not checked: the server trusts this machine",
        "REDIS_PASSWORD": REDIS_PASSWORD,
        "LABEL_STUDIO_USERNAME": "someone@example.com",
        "LABEL_STUDIO_PASSWORD": "only-in-tests-1",
        "BASIC_AUTH_USER": AUTH[0],
        "BASIC_AUTH_PASS": AUTH[1],
        "LORA_TOWERS": "text",
        "MODEL_DUAL_ENCODER": _tiny_model(data / "model"),
    }
    services = interpolate(read(COMPOSE)["services"], variables)
    try:
        with redis_server(services["redis"]["command"], password=REDIS_PASSWORD) as redis:
            ports = {port: free_port() for port in PORTS} | {"5432": postgres.port, "6379": redis.port}
            deployment = Deployment(services, ports, data)
            migrated = subprocess.run(
                deployment.command("migrate"), cwd=ROOT, env=deployment.environment("migrate"), capture_output=True
            )
            assert migrated.returncode == 0, migrated.stderr.decode()
            try:
                for service in LONG_RUNNING:
                    deployment.start(service)
                for service in LONG_RUNNING:
                    deployment.wait_until_healthy(service)
                yield deployment
            finally:
                for process in deployment.running.values():
                    kill_group(process)
    except MissingServerError as error:
        skip_or_fail(str(error))


@pytest.fixture
def label_studio_calls(deployment: Deployment) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=deployment.url, auth=AUTH, timeout=100.0, trust_env=False) as client:
        yield client


def test_a_prediction_passes_backend_and_model_server(label_studio_calls: httpx.Client) -> None:
    setup = {"project": PROJECT, "schema": CONFIG, "hostname": "", "access_token": "", "extra_params": None}
    assert label_studio_calls.post("/setup", json=setup).json() == {"model_version": "p1.v0"}
    entries = _predict(label_studio_calls)
    assert [entry["model_version"] for entry in entries] == ["p1.v0", "p1.v0"]
    assert all(entry["result"][0]["value"]["choices"][0] in OTHER_CHOICE for entry in entries)


def test_events_are_applied_and_lead_to_a_trained_version(label_studio_calls: httpx.Client) -> None:
    """By the light and the training worker, with Redis, PostgreSQL and the adapters in the shared folder.

    The base model has random weights. Each answer is what it does not predict, so that the candidate is better.
    """
    predicted = [entry["result"][0]["value"]["choices"][0] for entry in _predict(label_studio_calls)]
    for number in range(1, 9):
        event = _submitted(number, OTHER_CHOICE[predicted[number % 2]])
        assert label_studio_calls.post("/webhook", json=event).json()["status"] == "ok"
    start = {"action": "START_TRAINING", "project": {"id": 1, "label_config": CONFIG}}
    answer = label_studio_calls.post("/webhook", json=start)
    assert "job" in answer.json(), answer.text
    deadline = time.monotonic() + TRAINED_WITHIN_S
    states: set[str] = set()
    while "finished" not in states:
        assert time.monotonic() < deadline and "failed" not in states, label_studio_calls.get(
            "/api/v1/projects/1/runs"
        ).text
        time.sleep(0.5)
        states = {run["state"] for run in label_studio_calls.get("/api/v1/projects/1/runs").json()["runs"]}
    assert label_studio_calls.get("/api/v1/projects/1/annotations").json()["total"] == 8
    assert "p1.v1" in label_studio_calls.get("/api/v1/projects/1/versions").text


@pytest.mark.parametrize("service", ["postgres", "redis", *LONG_RUNNING])
def test_the_health_check_passes(deployment: Deployment, service: str) -> None:
    check = deployment.check(service)
    assert check.returncode == 0, check.stderr


def test_everything_but_livez_needs_the_password(deployment: Deployment) -> None:
    statuses = {
        path: httpx.get(f"{deployment.url}{path}", trust_env=False).status_code for path in ("/livez", "/health")
    }
    assert statuses == {"/livez": 200, "/health": 401}


def test_the_health_check_of_a_killed_worker_fails(deployment: Deployment) -> None:
    process = deployment.running.pop("worker-light")
    process.kill()
    process.wait()
    check = deployment.check("worker-light")
    assert check.returncode == 1
    assert "no worker of queue light" in check.stderr
    deployment.start("worker-light")
    deployment.wait_until_healthy("worker-light")


def test_the_health_check_of_label_studio_passes(label_studio: Server) -> None:
    services = read(COMPOSE)["services"]
    deployment = Deployment(services, {"8080": label_studio.port}, Path())
    check = deployment.check("label-studio")
    assert check.returncode == 0, check.stderr


def _predict(label_studio_calls: httpx.Client) -> list[dict[str, Any]]:
    """The predictions for the blue and the red picture."""
    tasks = [{"id": number, "data": {"image": _picture(number)}} for number in (8, 7)]
    body = {"tasks": tasks, "project": PROJECT, "label_config": CONFIG, "params": {"context": None}}
    return list(label_studio_calls.post("/predict", json=body).json()["results"])


def _submitted(number: int, choice_name: str) -> dict[str, Any]:
    choice = {"choices": [choice_name]}
    region = {"from_name": "label", "to_name": "image", "type": "choices", "value": choice}
    return {
        "action": "ANNOTATION_CREATED",
        "annotation": {
            "id": number,
            "task": number,
            "result": [region],
            "was_cancelled": False,
            "ground_truth": False,
            "created_at": "2026-01-01T00:00:00Z",
            "updated_at": "2026-01-01T00:00:00Z",
            "completed_by": 1,
        },
        "task": {"id": number, "data": {"image": _picture(number)}},
        "project": {"id": 1, "label_config": CONFIG},
    }


def _picture(number: int) -> str:
    file = BytesIO()
    Image.new("RGB", (32, 32), "red" if number % 2 else "blue").save(file, "PNG")
    return f"data:image/png;base64,{b64encode(file.getvalue()).decode()}"


def _tiny_model(folder: Path) -> str:
    """Source of the smallest open_clip model, with random weights."""
    from lorabel.families.dual_encoder import DualEncoder

    return DualEncoder.tiny(folder)
