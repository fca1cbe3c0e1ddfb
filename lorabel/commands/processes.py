"""Processes of this machine: how they are recognized later, and how a session of them is ended.

An id is given to another process after its process has ended. So a process is recognized by its id and its start
time together. This module imports only the standard library, since the keeper (`keeper.py`) must start at once.
"""

import os
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
BOOT_ID = PROC / "sys" / "kernel" / "random" / "boot_id"
KILL_TIMEOUT_S = 5.0
POLL_S = 0.05


@dataclass(frozen=True)
class SessionLeader:
    """A process that was started in a session of its own. The processes that it starts belong to the session.

    Attributes:
        started: as `start_time` returns it.
        command: the arguments that it was started with. A process can change what the system shows as its command
            (Redis does), so the leader itself is recognized by its start time.
    """

    name: str
    pid: int
    started: str
    command: tuple[str, ...]


@dataclass(frozen=True)
class _Status:
    """From /proc/PID/stat (https://man7.org/linux/man-pages/man5/proc_pid_stat.5.html)."""

    is_running: bool
    session: int
    start_ticks: int


def start_time(pid: int) -> str | None:
    """Text that no other process with this id has: on Linux `BOOT:TICKS`, elsewhere the date that `ps` prints.

    Returns:
        None if no process with this id runs. A process that has ended but is still listed (a zombie) does not run.
    """
    if not BOOT_ID.exists():
        return _start_time_by_ps(pid)
    status = _status(pid)
    return f"{_boot()}:{status.start_ticks}" if status is not None and status.is_running else None


def running_members(leader: SessionLeader) -> list[int]:
    """The processes of the leader's session that still run. The leader itself may have ended.

    Without /proc, only the leader can be recognized.
    """
    if not BOOT_ID.exists():
        return [leader.pid] if start_time(leader.pid) == leader.started else []
    boot, _, ticks = leader.started.rpartition(":")
    present = _status(leader.pid)
    if boot != _boot() or not ticks.isdecimal() or (present and present.start_ticks != int(ticks)):
        return []
    is_leader_there = present is not None
    return [
        pid
        for pid, status in _processes()
        if status.session == leader.pid
        and status.is_running
        and status.start_ticks >= int(ticks)
        # If the leader is gone, its id may have been given to another leader, which is gone, too.
        and (is_leader_there or leader.command[-1] in _command(pid))
    ]


def end_sessions(leaders: Sequence[SessionLeader], timeout_s: float) -> list[SessionLeader]:
    """Send SIGTERM to the sessions' processes, and SIGKILL to those that still run after `timeout_s`.

    Returns:
        The leaders of sessions that could not be ended.
    """
    for number, patience_s in ((signal.SIGTERM, timeout_s), (signal.SIGKILL, KILL_TIMEOUT_S)):
        for leader in leaders:
            _signal(leader, number)
        deadline = time.monotonic() + patience_s
        while (leaders := _running(leaders)) and time.monotonic() < deadline:
            time.sleep(POLL_S)
    return list(leaders)


def _running(leaders: Sequence[SessionLeader]) -> list[SessionLeader]:
    return [leader for leader in leaders if running_members(leader)]


def _signal(leader: SessionLeader, number: int) -> None:
    for pid in running_members(leader):
        with suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)


def _processes() -> Iterator[tuple[int, _Status]]:
    for folder in PROC.iterdir():
        if folder.name.isdecimal() and (status := _status(int(folder.name))) is not None:
            yield int(folder.name), status


def _status(pid: int) -> _Status | None:
    try:
        text = (PROC / str(pid) / "stat").read_text(errors="replace")
    except OSError:
        return None
    # The second field is the program's name in parentheses. It may contain spaces and parentheses.
    fields = text[text.rindex(")") + 2 :].split()
    return _Status(is_running=fields[0] not in "ZX", session=int(fields[3]), start_ticks=int(fields[19]))


def _command(pid: int) -> list[str]:
    try:
        return (PROC / str(pid) / "cmdline").read_text(errors="replace").split("\0")
    except OSError:
        return []


def _boot() -> str:
    return BOOT_ID.read_text().strip()


def _start_time_by_ps(pid: int) -> str | None:
    try:
        listed = subprocess.run(
            ["ps", "-o", "stat=", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False
        )
    except OSError:
        return None
    state, _, date = listed.stdout.strip().partition(" ")
    return date.strip() if date and not state.startswith("Z") else None
