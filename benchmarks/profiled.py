"""Runs a module with a profiler in each thread that it starts, to get the CPU time of its functions.

    python -m benchmarks.profiled FILE MODULE [ARGUMENT ...]

When a process of the module ends, it writes FILE.<process id> for `python -m pstats`. The clock is each thread's
own CPU time, so waiting for the device, a socket, a lock or a core does not count. The work of torch's own threads
is not profiled. Needs Python 3.11: from 3.12 on a process can have one profiler only.
"""

import atexit
import cProfile
import os
import pstats
import runpy
import sys
import threading
import time
from types import FrameType
from typing import Any

NEEDED = (3, 11)


class _ThreadProfile(cProfile.Profile):
    """A profile that another thread can read.

    `Profile.create_stats` disables the profile first, which would take the time of running functions by the clock
    of the thread that reads.
    """

    def create_stats(self) -> None:
        self.snapshot_stats()


class Profiler:
    """Profiles the threads that this process starts after `start`, and writes the result when the process ends."""

    def __init__(self, file: str) -> None:
        self._file = file
        self._profiles: list[_ThreadProfile] = []

    def start(self) -> None:
        threading.setprofile(self._enter_thread)
        atexit.register(self.write)

    def write(self) -> None:
        """Write the profiles of this process alone: a process that gunicorn forks writes its own file."""
        if self._profiles:
            first, *others = list(self._profiles)
            pstats.Stats(first, *others).dump_stats(f"{self._file}.{os.getpid()}")

    def _enter_thread(self, frame: FrameType, event: str, argument: Any) -> None:
        """Called at each new thread's first event, in that thread; `enable` then replaces this function."""
        profile = _ThreadProfile(time.thread_time)
        self._profiles.append(profile)
        profile.enable()


def main() -> None:
    if len(sys.argv) < 3:
        sys.exit("usage: python -m benchmarks.profiled FILE MODULE [ARGUMENT ...]")
    if sys.version_info[:2] != NEEDED:
        sys.exit(f"Python {sys.version_info[0]}.{sys.version_info[1]} can have one profiler only; use 3.11")
    _, file, module, *arguments = sys.argv
    sys.argv = [module, *arguments]
    Profiler(file).start()
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
