"""A Ray cluster of this machine with the model server on it, made by the commands that docs/scaling.md gives."""

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
# What a proxy asks to answer /v1/models, not merged.
ASK_WHAT_EACH_HOLDS = """
import json, sys
import ray
from ray import serve
from model_server.ray_replica import Asked

ray.init(log_to_driver=False)
asked = Asked("GET", "/v1/models", sys.argv[1], b"")
answers = serve.get_deployment_handle("replica", "lorabel").broadcast("answer", asked).results(timeout_s=60)
print(json.dumps({answer.replica: json.loads(answer.body)["adapters"] for answer in answers}))
"""


@dataclass(frozen=True)
class Cluster:
    url: str
    environment: Mapping[str, str]
    head: "subprocess.Popen[bytes]"

    def deploy(self, **changed: str) -> None:
        """Run the command: the first time it starts the application, later it updates it."""
        _run(["-m", "model_server.ray_serve"], {**self.environment, **changed})

    def adapters(self, authorization: str) -> dict[str, list[str]]:
        """Those that each replica holds, by its name."""
        found: dict[str, list[str]] = json.loads(
            _run(["-c", ASK_WHAT_EACH_HOLDS, authorization], self.environment)
        )
        return found

    def replicas(self) -> dict[str, int]:
        """The processes of those that run, by the names that they sign their answers with."""
        pids = [pid for pid in _descendants(self.head.pid) if _title(pid).startswith(REPLICA_TITLE)]
        return {name: pid for pid in pids if (name := _name_in_open_files(pid)) is not None}

    def kill(self, replica: str) -> None:
        os.kill(self.replicas()[replica], signal.SIGKILL)


@contextmanager
def cluster(folder: Path, variables: Mapping[str, str], other: Machine | None = None) -> Iterator[Cluster]:
    """`variables` are put over those of two replicas on this machine's CPU.

    Args:
        other: a second machine of the cluster; then each has room for one replica.
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
    # Ray counts cores, it does not measure them: room for one replica more while one is replaced.
    cores = "--num-cpus=3" if other is None else "--num-cpus=1"
    options = ["--head", f"--port={ray_port}", f"--node-ip-address={host}", "--include-dashboard=false", cores]
    with ExitStack() as stack:
        head = stack.enter_context(_node([], options, environment, folder / "head.log"))
        if other is not None:
            options = [f"--address={host}:{ray_port}", f"--node-ip-address={other.address}", cores]
            stack.enter_context(_node(other.command(), options, environment, folder / "other.log"))
        made = Cluster(environment["MODEL_SERVER_URL"], environment, head)
        made.deploy()
        yield made


def _run(arguments: list[str], environment: Mapping[str, str]) -> bytes:
    command = [sys.executable, *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, timeout=START_TIMEOUT_S)
    if done.returncode:
        raise RuntimeError(f"{command} failed:\n{done.stderr.decode(errors='replace')[-3000:]}")
    return done.stdout


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
        node.terminate()  # and no other: it ends its processes in order
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
    """Ray's processes end when their head does; what does not is killed."""
    deadline = time.monotonic() + 20
    while any(_title(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.2)
    for pid in pids:
        if "ray" in _title(pid):
            os.kill(pid, signal.SIGKILL)


def _descendants(pid: int) -> list[int]:
    found = []
    for child in _children(pid):
        found += [child, *_descendants(child)]
    return found


def _children(pid: int) -> list[int]:
    try:
        tasks = list(Path(f"/proc/{pid}/task").iterdir())
        return [int(child) for task in tasks for child in (task / "children").read_text().split()]
    except OSError:  # it ended
        return []


def _title(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text(errors="replace").replace("\0", " ")
    except OSError:
        return ""


def _name_in_open_files(pid: int) -> str | None:
    """A replica's log bears its name."""
    for file in _listed(Path(f"/proc/{pid}/fd")):
        with suppress(OSError):  # closed meanwhile
            if match := REPLICA_LOG.fullmatch(file.readlink().name):
                return match[1]
    return None


def _listed(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError:  # the process ended
        return []
