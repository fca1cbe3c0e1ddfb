"""`python -m lorabel.commands.keeper RECORD TOKEN`: ends the processes of a `lorabel up` that was killed.

The supervisor starts one keeper and holds the keeper's standard input open, without writing to it. The kernel
closes it when the supervisor ends, also by SIGKILL. Then the keeper ends the processes in the record, unless the
record is no longer this supervisor's: after a normal stop, or if the next `lorabel up` has ended the processes.

Linux's parent-death signal (PR_SET_PDEATHSIG) is not enough. It reaches only the processes that the supervisor
itself started, not those of gunicorn. The kernel sends it as soon as the thread that started them ends, and the
supervisor's watcher, which restarts processes, ends before a normal stop. And Redis could not be ended last.
"""

import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from lorabel.commands.data_dir_claim import DataDirClaim, read_record
from lorabel.commands.processes import SessionLeader, end_sessions

REDIS, KEEPER = "redis", "keeper"
STOP_TIMEOUT_S = 10.0


class Keeper:
    """The keeper's process, as the supervisor sees it. Thread-safe, except `close`."""

    def __init__(self, claim: DataDirClaim) -> None:
        self._command = [sys.executable, "-m", "lorabel.commands.keeper", str(claim.record), claim.token]
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()

    @property
    def pid(self) -> int | None:
        """None if it was not started, or was closed."""
        return None if self._process is None else self._process.pid

    def ensure_running(self) -> None:
        """Start the keeper if it does not run."""
        with self._lock:
            if self._process is None or self._process.poll() is not None:
                self.close()
                self._process = subprocess.Popen(self._command, stdin=subprocess.PIPE, start_new_session=True)

    def close(self) -> None:
        """Close the keeper's input and wait for its end. It ends the processes that the record names."""
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.close()
            self._process.wait()
        self._process = None


def end_redis_last(leaders: Sequence[SessionLeader]) -> list[SessionLeader]:
    """End the sessions, Redis last, because a worker that loses Redis during a job counts the job as failed.

    Returns:
        The leaders of sessions that could not be ended.
    """
    others = [leader for leader in leaders if leader.name != REDIS]
    redis = [leader for leader in leaders if leader.name == REDIS]
    return end_sessions(others, STOP_TIMEOUT_S) + end_sessions(redis, STOP_TIMEOUT_S)


def main(record: str, token: str) -> None:
    """Wait for the end of the supervisor, then end the processes in its record."""
    # Whoever ends all processes by a signal must not end this process first.
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    sys.stdin.buffer.read()
    end_redis_last(read_record(Path(record), token))


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: python -m lorabel.commands.keeper RECORD TOKEN")
    main(*sys.argv[1:])
