"""Looks into a running `lorabel up` from outside, and kills parts of it."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

from tests.e2e.lorabel_processes import Lorabel

COMMANDS = {
    "redis": "redis-server",
    "backend": "gunicorn.conf.py",
    "model_server": "-m model_server",
    "worker-light": "workers.worker light",
    "worker-train": "workers.worker train",
    "worker-bulk": "workers.worker bulk",
}


def pid_of(lorabel: Lorabel, part: str) -> int | None:
    """The process that the supervisor started for the part, if it runs."""
    for pid in _children(lorabel.process.pid):
        command = Path(f"/proc/{pid}/cmdline")
        if command.exists() and COMMANDS[part] in command.read_text(errors="replace").replace("\0", " "):
            return pid
    return None


def kill(lorabel: Lorabel, part: str) -> int:
    """SIGKILL to the part and whatever it started; returns the pid that it had."""
    pid = pid_of(lorabel, part)
    assert pid is not None, f"{part} does not run"
    os.killpg(pid, signal.SIGKILL)
    return pid


def wait_until(is_so: Callable[[], bool], timeout_s: float, what: str) -> None:
    deadline = time.monotonic() + timeout_s
    while not is_so():
        assert time.monotonic() < deadline, f"after {timeout_s:.0f} s still not so: {what}"
        time.sleep(0.1)


def _children(pid: int) -> list[int]:
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        found += [int(child) for child in (task / "children").read_text().split()]
    return found
