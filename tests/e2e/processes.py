"""Finds and kills the processes of a running `lorabel up`."""

import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from tests.e2e.lorabel_processes import Lorabel

COMMANDS = {
    "redis": "redis-server",
    "backend": "gunicorn.conf.py",
    "model_server": "-m model_server",
    "worker-light": "-m workers light",
    "worker-train": "-m workers train",
    "worker-bulk": "-m workers bulk",
}


def pid_of(lorabel: Lorabel, part: str) -> int | None:
    """The process that the supervisor started for a part (a key of COMMANDS); None if it does not run."""
    for pid in _children(lorabel.process.pid):
        command = Path(f"/proc/{pid}/cmdline")
        if command.exists() and COMMANDS[part] in command.read_text(errors="replace").replace("\0", " "):
            return pid
    return None


def kill(lorabel: Lorabel, part: str) -> int:
    """Send SIGKILL to the part's process group; returns the pid that the part had."""
    pid = pid_of(lorabel, part)
    assert pid is not None, f"{part} does not run"
    os.killpg(pid, signal.SIGKILL)
    return pid


def kill_alone(lorabel: Lorabel, part: str) -> int:
    """Send SIGKILL to the part's first process only; what it has started goes on. Returns the pid."""
    pid = pid_of(lorabel, part)
    assert pid is not None, f"{part} does not run"
    os.kill(pid, signal.SIGKILL)
    return pid


def descendants(pid: int) -> list[int]:
    """The processes that this process has started, and those that they have started."""
    return [other for child in _children(pid) for other in (child, *descendants(child))]


def wait_until(condition: Callable[[], bool], timeout_s: float, description: str) -> None:
    """Poll until the condition is true; fail with its description after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"not true after {timeout_s:.0f} s: {description}"
        time.sleep(0.1)


def _children(pid: int) -> list[int]:
    children: list[int] = []
    with suppress(FileNotFoundError, ProcessLookupError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            children += [int(child) for child in (task / "children").read_text().split()]
    return children
