"""`lorabel up` itself is killed, started twice, or started with broken data."""

import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from lorabel.commands.processes import start_time
from lorabel.network import tls_context
from tests.e2e import lorabel_processes
from tests.e2e.label_studio_server import kill_group
from tests.e2e.lorabel_processes import PROGRAM, Lorabel, bare_environment
from tests.e2e.processes import descendants, kill_alone, wait_until
from tests.servers import free_port
from tests.workers.pictures import LABEL_CONFIG, data_url, pictures

pytestmark = pytest.mark.e2e

END_TIMEOUT_S = 30.0
RECOVERY_TIMEOUT_S = 30.0


def up_again(lorabel: Lorabel) -> subprocess.CompletedProcess[str]:
    """`lorabel up` with the same settings, which must end by itself."""
    environment = {**bare_environment(), **lorabel.environment}
    return subprocess.run([PROGRAM, "up"], env=environment, capture_output=True, text=True, timeout=60)


@pytest.fixture(scope="module")
def running(start_lorabel: Callable[..., Lorabel]) -> Lorabel:
    return start_lorabel()


def end(lorabel: Lorabel) -> None:
    kill_group(lorabel.process)


def is_healthy(lorabel: Lorabel) -> bool:
    try:
        return httpx.get(f"{lorabel.url}/health", timeout=1.0, trust_env=False, verify=tls_context()).is_success
    except httpx.HTTPError:
        return False


def test_a_second_up_names_the_first_and_does_not_disturb_it(running: Lorabel) -> None:
    second = up_again(running)
    assert second.returncode == 1
    assert f"is in use by process {running.process.pid}" in " ".join(second.stderr.split())
    assert is_healthy(running)


def test_predict_is_back_within_seconds_after_the_kill_of_gunicorns_masters(running: Lorabel) -> None:
    """Their workers live on and hold the ports until the supervisor ends them."""
    assert _answers_predict(running)
    parts = ("backend", "model_server")
    for part in parts:
        kill_alone(running, part)

    def listen_again() -> bool:
        return all(_log(running, part).count("Listening at") == 2 for part in parts)

    wait_until(listen_again, RECOVERY_TIMEOUT_S, "both listen again")
    wait_until(lambda: _answers_predict(running), RECOVERY_TIMEOUT_S, "/predict answers")


def test_a_killed_up_leaves_no_process_and_the_next_gets_ready(running: Lorabel) -> None:
    """The last test of `running`, which it kills."""
    started = descendants(running.process.pid)
    assert len(started) > 6
    os.killpg(running.process.pid, signal.SIGKILL)
    running.process.wait()
    successor = lorabel_processes.start(running.settings.data_dir.parent, running.environment)
    try:
        wait_until(lambda: not any(map(start_time, started)), END_TIMEOUT_S, "nothing of the first is left")
        assert is_healthy(successor)
    finally:
        end(successor)


@pytest.mark.long
@pytest.mark.parametrize(
    ("source", "reason"), [("local-dir:/usr", "cannot be loaded"), ("hf-hub:nobody/nothing", "cannot be loaded")]
)
def test_up_names_a_base_model_that_is_not_to_be_had_and_ends_and_the_doctor_says_the_same(
    tmp_path: Path, source: str, reason: str
) -> None:
    environment = {
        "PORT": str(free_port()),
        "MODEL_SERVER_URL": f"http://127.0.0.1:{free_port()}",
        "DATA_DIR": str(tmp_path / "data"),
        "DEVICE": "cpu",
        "MODEL_DUAL_ENCODER": source,
        "HF_ENDPOINT": "http://127.0.0.1:9",
        "HF_HOME": str(tmp_path / "hub"),
        "COLUMNS": "200",
    }
    variables = {**bare_environment(), **environment}
    up = subprocess.run([PROGRAM, "up"], env=variables, capture_output=True, text=True, timeout=300)
    assert up.returncode == 1
    assert f"model_server: loading dual_encoder from {source} on cpu" in up.stdout
    log = tmp_path / "data" / "logs" / "model_server.log"
    for part in (f"MODEL_DUAL_ENCODER='{source}' {reason}", f"its log is {log}"):
        assert part in " ".join(up.stderr.split())
    assert log.read_text().count(": loading dual_encoder") == 1
    doctor = subprocess.run([PROGRAM, "doctor"], env=variables, capture_output=True, text=True, timeout=60)
    assert f"MODEL_DUAL_ENCODER='{source}' {reason}" in " ".join(doctor.stdout.split())


def _log(lorabel: Lorabel, name: str) -> str:
    return (lorabel.settings.data_dir / "logs" / f"{name}.log").read_text(errors="replace")


def _answers_predict(lorabel: Lorabel) -> bool:
    tasks = [{"id": 1, "data": {"image": data_url(pictures(1)[0])}}]
    body = {"tasks": tasks, "project": "1.1", "label_config": LABEL_CONFIG, "params": {"context": None}}
    try:
        answer = httpx.post(f"{lorabel.url}/predict", json=body, timeout=10.0, trust_env=False)
    except httpx.HTTPError:
        return False
    return answer.is_success and bool(answer.json()["results"][0]["result"])
