"""Runs the model server on a Ray cluster of this machine, by the commands that docs/scaling.md gives."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from tests.e2e.lorabel_processes import bare_environment
from tests.machines import Machine
from tests.servers import free_port

START_TIMEOUT_S = 180.0
REPLICA_TITLE = "ray::ServeReplica:lorabel:replica"
REPLICA_LOG = re.compile(r"replica_lorabel_replica_(\w+)\.log")
# Prints the adapters of each replica: the call by which our proxy answers /v1/models, without merging the answers.
PRINT_ADAPTERS_OF_EACH_REPLICA = """
import json, sys
import ray
from ray import serve
from model_server.ray_replica import ReplicaRequest

ray.init(log_to_driver=False)
request = ReplicaRequest("GET", "/v1/models", sys.argv[1], b"")
answers = serve.get_deployment_handle("replica", "lorabel").broadcast("answer", request).results(timeout_s=60)
print(json.dumps({answer.replica: json.loads(answer.body)["adapters"] for answer in answers}))
"""


@dataclass(frozen=True)
class Cluster:
    """A running cluster. `url`: where it serves; `environment`: of its processes; `head`: `ray start --head`."""

    url: str
    environment: Mapping[str, str]
    head: "subprocess.Popen[bytes]"

    def deploy(self, **variables: str) -> None:
        """Run the command that starts the application, or updates it if it runs.

        Args:
            variables: are put over the cluster's environment.
        """
        _run(["-m", "model_server.ray_serve"], {**self.environment, **variables})

    def adapters(self, authorization: str) -> dict[str, list[str]]:
        """Replica name -> the adapters that it has loaded."""
        adapters: dict[str, list[str]] = json.loads(
            _run(["-c", PRINT_ADAPTERS_OF_EACH_REPLICA, authorization], self.environment)
        )
        return adapters

    def replicas(self) -> dict[str, int]:
        """Name of each running replica, as in X-Replica -> its process id."""
        pids = [pid for pid in _descendants(self.head.pid) if _title(pid).startswith(REPLICA_TITLE)]
        return {name: pid for pid in pids if (name := _name_in_open_files(pid)) is not None}

    def kill(self, replica: str) -> None:
        os.kill(self.replicas()[replica], signal.SIGKILL)


@contextmanager
def cluster(
    folder: Path, variables: Mapping[str, str], other: Machine | None = None, *, gpus: int = 0
) -> Iterator[Cluster]:
    """Start a cluster with two replicas on this machine's CPU, and stop it at the end.

    Args:
        folder: for logs.
        variables: are put over the environment of the cluster.
        other: a second machine of the cluster; then each machine has room for one replica.
        gpus: how many GPUs Ray believes that this machine has. Ray only counts them, too.
    """
    ray_port, http_port = free_port(), free_port()
    host = "127.0.0.1" if other is None else other.host
    environment = {
        **bare_environment(),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": "0123456789abcdef" * 4,
        "RAY_ADDRESS": f"{host}:{ray_port}",
        "MODEL_SERVER_URL": f"http://{host}:{http_port}",
        "MODEL_SERVER_HOST": host if other is None else "0.0.0.0",
        "DEVICE": "cpu",
        "PRECISION": "float32",
        "REPLICAS_MIN": "2",
        "REPLICAS_MAX": "2",
        **variables,
    }
    # Ray only counts cores. Three leave room for one more replica while another is replaced.
    cores = "--num-cpus=3" if other is None else "--num-cpus=1"
    options = ["--head", f"--port={ray_port}", f"--node-ip-address={host}", "--include-dashboard=false", cores]
    options += [f"--num-gpus={gpus}"]
    with ExitStack() as stack:
        head = stack.enter_context(_node([], options, environment, folder / "head.log"))
        if other is not None:
            options = [f"--address={host}:{ray_port}", f"--node-ip-address={other.address}", cores]
            stack.enter_context(_node(other.command(), options, environment, folder / "other.log"))
        running = Cluster(environment["MODEL_SERVER_URL"], environment, head)
        running.deploy()
        yield running


def _run(arguments: list[str], environment: Mapping[str, str]) -> bytes:
    command = [sys.executable, *arguments]
    completed = subprocess.run(command, env=environment, capture_output=True, timeout=START_TIMEOUT_S)
    if completed.returncode:
        raise RuntimeError(f"{command} failed:\n{completed.stderr.decode(errors='replace')[-3000:]}")
    return completed.stdout


@contextmanager
def _node(
    prefix: list[str], options: list[str], environment: Mapping[str, str], log: Path
) -> Iterator["subprocess.Popen[bytes]"]:
    command = [*prefix, str(Path(sys.prefix) / "bin" / "ray"), "start", "--block", *options]
    with log.open("wb") as out:
        node = subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True
        )
    try:
        _wait_until_started(node, log)
        yield node
    finally:
        started = _descendants(node.pid)
        node.terminate()  # it ends its own processes, in the right order
        try:
            node.wait(30)
        except subprocess.TimeoutExpired:
            node.kill()
            node.wait()
        _wait_until_ended(started)


def _wait_until_started(node: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while "Ray runtime started" not in log.read_text(errors="replace"):
        if node.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"Ray did not start:\n{log.read_text(errors='replace')[-3000:]}")
        time.sleep(0.3)


def _wait_until_ended(pids: list[int]) -> None:
    """Wait for Ray's processes, which end with their head, and kill those that do not end."""
    deadline = time.monotonic() + 20
    while any(_title(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.2)
    for pid in pids:
        if "ray" in _title(pid):
            os.kill(pid, signal.SIGKILL)


def _descendants(pid: int) -> list[int]:
    descendants = []
    for child in _children(pid):
        descendants += [child, *_descendants(child)]
    return descendants


def _children(pid: int) -> list[int]:
    try:
        tasks = list(Path(f"/proc/{pid}/task").iterdir())
        return [int(child) for task in tasks for child in (task / "children").read_text().split()]
    except OSError:  # the process ended
        return []


def _title(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text(errors="replace").replace("\0", " ")
    except OSError:
        return ""


def _name_in_open_files(pid: int) -> str | None:
    """The replica's name, which is part of the name of the log file that the process has open."""
    for file in _list(Path(f"/proc/{pid}/fd")):
        with suppress(OSError):  # the file was closed meanwhile
            if match := REPLICA_LOG.fullmatch(file.readlink().name):
                return match[1]
    return None


def _list(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError:  # the process ended
        return []
