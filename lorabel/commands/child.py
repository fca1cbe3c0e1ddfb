"""A process that the supervisor has started, and when it is started again after it has ended."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from lorabel.commands.keeper import STOP_TIMEOUT_S
from lorabel.commands.part_log import newest_message
from lorabel.commands.processes import SessionLeader, start_time

RESTART_AFTER_S = 0.5
# With this status gunicorn says that its app cannot be loaded (`Arbiter.APP_LOAD_ERROR`): a setting is wrong, or a
# base model is not to be had. It may pass by itself if a file system or the network was away for minutes.
CANNOT_LOAD = 4
RETRY_LOAD_S = 60.0
MOST_FAILED_LOADS = 5


@dataclass
class Child:
    """A part of Lorabel that runs as a process of its own, and how often it was restarted.

    Attributes:
        before_restart: called with the exit status of the process that ended, before it is started again.
        restart_at: time on the monotonic clock at which an ended process is started again; 0 if none is due.
        failed_loads: how often the process has ended with CANNOT_LOAD since it last ended otherwise.
    """

    name: str
    argv: Sequence[str]
    env: Mapping[str, str]
    log_file: Path
    before_restart: Callable[[int], None] | None = None
    process: subprocess.Popen[bytes] | None = None
    restarts: int = 0
    restart_at: float = 0.0
    failed_loads: int = 0

    def start(self) -> None:
        """Start the process in a session of its own.

        Ctrl-C then reaches the supervisor only, which stops the processes in order. Files that the process makes
        are private, also if the mode of DATA_DIR is not ours to set.
        """
        output: IO[bytes] = self.log_file.open("ab")
        with output:
            self.process = subprocess.Popen(
                self.argv,
                env={**os.environ, **self.env},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                umask=0o077,
            )

    @property
    def cannot_load(self) -> bool:
        """Whether the process has ended because its app cannot be loaded."""
        return self.process is not None and self.process.poll() == CANNOT_LOAD

    def fault(self) -> str:
        """What the process has said last, and where it has said it."""
        return f"{self.name}: {newest_message(self.log_file) or 'it does not say why'}; its log is {self.log_file}"

    def schedule_restart(self) -> float:
        """Let the process, which has ended, start again after a pause.

        Returns:
            The pause in seconds.
        """
        self.failed_loads = self.failed_loads + 1 if self.cannot_load else 0
        pause_s = RETRY_LOAD_S if self.cannot_load else RESTART_AFTER_S * min(10, 1 + self.restarts)
        self.restart_at = time.monotonic() + pause_s
        return pause_s

    def session_leader(self) -> SessionLeader | None:
        """By what the process can be recognized later; None if it does not run."""
        started = None if self.process is None else start_time(self.process.pid)
        if self.process is None or started is None:
            return None
        return SessionLeader(self.name, self.process.pid, started, tuple(self.argv))

    def signal(self, number: int) -> None:
        """Send a signal to the process and to those that it started, also if the process itself has ended."""
        if self.process is not None:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self.process.pid, number)


def end(children: Sequence[Child]) -> None:
    """Send SIGTERM, and SIGKILL to what still runs of the processes' groups after STOP_TIMEOUT_S."""
    for child in children:
        child.signal(signal.SIGTERM)
    deadline = time.monotonic() + STOP_TIMEOUT_S
    for child in children:
        if child.process is None:
            continue
        with suppress(subprocess.TimeoutExpired):
            child.process.wait(max(0.1, deadline - time.monotonic()))
        child.signal(signal.SIGKILL)
        child.process.wait()
