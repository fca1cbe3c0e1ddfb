"""Starts the processes that are measured, as a person starts them, and always ends them."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx

from benchmarks.plan import Plan
from lorabel.commands.supervisor import PATIENCE
from tests.e2e import lorabel_processes
from tests.e2e.lorabel_processes import Lorabel
from tests.servers import free_port

START_TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 30.0
# The processes settle before measurements start.
SETTLE_S = 3.0


@dataclass(frozen=True)
class ModelServer:
    """`pid` is the id of the process that decodes and computes."""

    url: str
    pid: int


@contextmanager
def lorabel(plan: Plan, variables: Mapping[str, str] | None = None) -> Iterator[Lorabel]:
    """`lorabel up` with an empty data folder, on the plan's device."""
    with TemporaryDirectory(prefix="lorabel-bench-") as folder:
        started = lorabel_processes.start(Path(folder), {**plan.variables, **(variables or {})})
        try:
            time.sleep(SETTLE_S)
            yield started
        finally:
            _end(started.process)


@contextmanager
def photo_server() -> Iterator[str]:
    """A running `benchmarks.photos`; yields its address."""
    port = free_port()
    with process([sys.executable, "-m", "benchmarks.photos", str(port)], f"http://127.0.0.1:{port}/0.jpg") as url:
        yield url.removesuffix("/0.jpg")


@contextmanager
def usual_way(model: str, device: str, precision: str) -> Iterator[str]:
    """A running `benchmarks.usual_way`, with torch's threads set as Lorabel sets them; yields its address."""
    port = free_port()
    options = ["--model", model, "--device", device, "--precision", precision, "--port", str(port)]
    command = [sys.executable, "-m", "benchmarks.usual_way", *options]
    with process(command, f"http://127.0.0.1:{port}/health", PATIENCE) as url:
        yield url.removesuffix("/health")


@contextmanager
def process(argv: Sequence[str], probe: str, variables: Mapping[str, str] | None = None) -> Iterator[str]:
    """Start a process, wait until it answers at the address `probe`, and end it after the block."""
    with _started(argv, probe, variables or {}):
        yield probe


@contextmanager
def model_server(variables: Mapping[str, str], cores: int) -> Iterator[ModelServer]:
    """A model server that prepares inputs in as many threads as on a machine with this many cores."""
    url = f"http://127.0.0.1:{free_port()}"
    program = f"import os; os.cpu_count = lambda: {cores}; from model_server.__main__ import main; main()"
    with TemporaryDirectory(prefix="lorabel-bench-") as folder:
        environment = {"DATA_DIR": folder, "MODEL_SERVER_URL": url, **PATIENCE, **variables}
        command = [sys.executable, "-c", program]
        with _started(command, f"{url}/livez", environment) as master:
            # Gunicorn's only worker computes.
            (worker,) = Path(f"/proc/{master.pid}/task/{master.pid}/children").read_text().split()
            yield ModelServer(url, int(worker))


@contextmanager
def _started(argv: Sequence[str], probe: str, variables: Mapping[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    environment = {**lorabel_processes.bare_environment(), **variables}
    started = subprocess.Popen(argv, env=environment, stdin=subprocess.DEVNULL, start_new_session=True)
    try:
        _wait_for(probe, started)
        yield started
    finally:
        _end(started)


def _wait_for(url: str, started: subprocess.Popen[bytes]) -> None:
    """Wait for an answer of any status."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline and started.poll() is None:
        try:
            httpx.get(url, trust_env=False, timeout=2.0)
            return
        except httpx.TransportError:
            time.sleep(0.2)
    raise RuntimeError(f"{started.args!r} does not answer at {url} within {START_TIMEOUT_S:.0f} s")


def _end(started: subprocess.Popen[bytes]) -> None:
    """End a process; if it does not end in time, kill it with the processes that it started."""
    if started.poll() is None:
        started.send_signal(signal.SIGTERM)
    try:
        started.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        os.killpg(started.pid, signal.SIGKILL)
        started.wait()
