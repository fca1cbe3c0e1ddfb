import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from lorabel.commands.processes import SessionLeader, end_sessions, running_members, start_time

SLEEP = "import time; time.sleep(600)"
# Starts a process of its own, prints its id and waits.
FORK = "import os, time\npid = os.fork()\nif pid: print(pid, flush=True)\ntime.sleep(600)  # in both"
Start = Callable[[str], tuple[SessionLeader, "subprocess.Popen[str]"]]


@pytest.fixture
def start() -> Iterator[Start]:
    """A function that starts a Python program in a session of its own."""
    processes: list[subprocess.Popen[str]] = []

    def start(program: str) -> tuple[SessionLeader, "subprocess.Popen[str]"]:
        argv = (sys.executable, "-c", program)
        process = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, start_new_session=True)
        processes.append(process)
        started = start_time(process.pid)
        assert started is not None
        return SessionLeader("program", process.pid, started, argv), process

    yield start
    for process in processes:
        os.killpg(process.pid, signal.SIGKILL) if process.poll() is None else None
        process.communicate()


def test_a_process_that_has_ended_has_no_start_time(start: Start) -> None:
    leader, process = start("")
    os.waitid(os.P_PID, leader.pid, os.WEXITED | os.WNOWAIT)
    assert start_time(leader.pid) is None, "it is still listed, as a zombie"
    process.wait()
    assert start_time(leader.pid) is None


def test_another_process_with_the_same_id_is_not_taken_for_the_leader(start: Start) -> None:
    leader, _ = start(SLEEP)
    boot, _, ticks = leader.started.rpartition(":")
    assert running_members(leader) == [leader.pid]
    assert running_members(replace(leader, started=f"{boot}:{int(ticks) - 1}")) == []
    assert running_members(replace(leader, started=f"another-boot:{ticks}")) == []


def test_what_a_killed_leader_has_started_is_ended(start: Start) -> None:
    leader, process = start(FORK)
    assert process.stdout is not None
    orphan = int(process.stdout.readline())
    process.kill()
    process.wait()
    assert running_members(leader) == [orphan]
    assert running_members(replace(leader, command=("another program",))) == []
    assert end_sessions([leader], 5.0) == []
    assert start_time(orphan) is None


def test_a_process_that_ignores_sigterm_is_killed(start: Start) -> None:
    leader, process = start(f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(); {SLEEP}")
    assert process.stdout is not None
    began = time.monotonic()
    process.stdout.readline()
    assert end_sessions([leader], 0.5) == []
    assert process.wait() == -signal.SIGKILL
    assert time.monotonic() - began >= 0.5
