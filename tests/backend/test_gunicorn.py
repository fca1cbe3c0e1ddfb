"""The backend as it is deployed: gunicorn with backend/gunicorn.conf.py."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

import backend
from lorabel.settings import Settings
from tests.backend import requests
from tests.backend.fake_model_server import FakeModelServer
from tests.e2e.processes import wait_until
from tests.servers import free_port

NEW = {"Connection": "close"}
TIMEOUT_S = 60.0
CONFIG = Path(backend.__file__).parent / "gunicorn.conf.py"


@contextmanager
def gunicorn(settings: Settings, **variables: Any) -> Iterator[httpx.Client]:
    port = free_port()
    environment = {
        "DATA_DIR": str(settings.data_dir),
        "DATABASE_URL": settings.database,
        "REDIS_URL": settings.redis,
        "MODEL_SERVER_URL": settings.model_server_url,
        "PORT": str(port),
        "LOG_LEVEL": "INFO",
    }
    command = [sys.executable, "-m", "gunicorn", "--config", str(CONFIG)]
    process = subprocess.Popen(command, env=os.environ | environment | variables)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=10) as client:
            wait_for(client)
            yield client
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=20)
    assert process.returncode == 0


def wait_for(client: httpx.Client) -> None:
    for _ in range(200):
        try:
            client.get("/livez").raise_for_status()
            return
        except httpx.HTTPError:
            time.sleep(0.1)
    pytest.fail("the backend does not answer")


@pytest.mark.slow
def test_gunicorn_serves_the_requests_of_label_studio(settings: Settings, model_server: FakeModelServer) -> None:
    with gunicorn(settings) as client:
        assert client.get("/health").json()["status"] == "UP"
        assert client.post("/setup", json=requests.setup()).json() == {"model_version": "p1.v0"}
        [entry] = client.post("/predict", json=requests.predict(requests.task(1))).json()["results"]
        assert entry["result"][0]["value"] == {"choices": ["red"]}
        assert client.post("/webhook", json=requests.event("START_TRAINING")).json()["job"]
        assert client.post("/predict", content=b"x" * (65 * 2**20)).status_code == 413


@pytest.mark.slow
def test_the_first_setup_imports_nothing_of_ours_or_of_the_sdk(settings: Settings) -> None:
    """In a new installation, imports take longer than Label Studio waits for /setup."""
    program = (
        "import json, sys; from backend.wsgi import app; client = app().test_client(); before = set(sys.modules)\n"
        "print(client.post('/setup', json=json.loads(sys.argv[1])).status_code)\n"
        "new = set(sys.modules) - before\n"
        "print([name for name in new if name.startswith(('lorabel', 'label_studio_sdk'))])"
    )
    environment = os.environ | {"DATA_DIR": str(settings.data_dir), "REDIS_URL": settings.redis}
    command = [sys.executable, "-c", program, json.dumps(requests.setup())]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert ended.stdout.splitlines() == ["200", "[]"]


@pytest.mark.slow
def test_the_model_server_learns_that_label_studio_has_disconnected(
    settings: Settings, model_server: FakeModelServer
) -> None:
    """The backend then closes its connection to the model server."""
    model_server.wait_s = 2.0
    with gunicorn(settings) as client:
        with pytest.raises(httpx.ReadTimeout):
            client.post("/predict", json=requests.predict(requests.task(1)), timeout=0.5)
        time.sleep(2.5)
    assert model_server.disconnected == 1


@pytest.mark.slow
def test_a_body_in_chunks_is_limited_too(settings: Settings) -> None:
    with gunicorn(settings, MAX_REQUEST_MB="1") as client:
        chunks = (b"x" * 2**16 for _ in range(32))
        assert client.post("/webhook", content=chunks, headers=NEW).status_code == 413
        chunks = (piece for piece in (b'{"action": ', b'"PING"}'))
        assert client.post("/webhook", content=chunks).status_code == 200


@pytest.mark.slow
def test_metrics_of_several_processes_are_summed(settings: Settings) -> None:
    with gunicorn(settings, WORKERS="3") as client:
        with ThreadPoolExecutor(16) as pool:
            list(pool.map(lambda _: client.get("/health", headers=NEW), range(96)))
        for _ in range(5):
            text = client.get("/metrics", headers=NEW).text
            assert 'lorabel_requests_total{endpoint="/health",status="200"} 96.0' in text


@pytest.mark.slow
def test_health_and_setup_are_answered_while_predictions_take_every_thread(
    settings: Settings, model_server: FakeModelServer
) -> None:
    model_server.held = "red"
    with gunicorn(settings, THREADS="8") as client, ThreadPoolExecutor(12) as pool:
        body = requests.predict(requests.task(1))
        predictions = [pool.submit(client.post, "/predict", json=body) for _ in range(12)]
        try:
            wait_until(lambda: sum(map(Future.done, predictions)) == 8, TIMEOUT_S, "the others are refused")
            for _ in range(20):
                assert client.get("/health").status_code == 200
                assert client.post("/setup", json=requests.setup()).status_code == 200
            assert sum(map(Future.done, predictions)) == 8
        finally:
            model_server.released.set()
        codes = sorted(prediction.result().status_code for prediction in predictions)
    assert codes == [200] * 4 + [503] * 8


@pytest.mark.slow
def test_a_path_cannot_forge_a_log_line(settings: Settings, capfd: pytest.CaptureFixture[str]) -> None:
    forged = "2026-11-26 15:00:00,000 INFO backend.app: forged"
    with gunicorn(settings) as client:
        client.get(f"/x%0a{forged}%0d%1b[31m")
        client.post(f"/api/v1/projects/1/promote?x=%0a{forged}", content=b"{")
        client.get(f"/api/v1/projects/1/versions/%0a{forged}")
    errors = capfd.readouterr().err
    assert "forged" in errors
    assert not [line for line in errors.splitlines() if line.startswith(forged)]
