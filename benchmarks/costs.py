"""Reads what serving costs: CPU time of each process of a running Lorabel, time in forward passes, GPU memory.

CPU times are from Linux' /proc (man proc_pid_stat), forward passes from the model server's metrics, and GPU memory
from `nvidia-smi`.
"""

import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import httpx
from prometheus_client.parser import text_string_to_metric_families

from tests.e2e.lorabel_processes import Lorabel
from tests.e2e.processes import COMMANDS, descendants, pid_of

TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
# Of the fields after the program's name: user and system time of the process, and of its children that have ended.
TIMES = slice(11, 15)
FORWARD, BATCHES = "lorabel_forward_seconds", "lorabel_batch_rows"
DEVICE, DEVICE_CPU = "lorabel_device_seconds_total", "lorabel_device_cpu_seconds_total"
# In the command of the model server's decoders, and of the process that they are forked from.
DECODER = "multiprocessing.forkserver"
COMPUTE_APPS = ("nvidia-smi", "--query-compute-apps=pid,used_memory", "--format=csv,noheader,nounits")


@dataclass(frozen=True)
class Costs:
    """What was spent since the processes began, or between two readings.

    Args:
        cpu_s: CPU seconds by part (a key of COMMANDS, or `decoders`), children included.
        forward_s: seconds that the model server's device thread was in forward passes.
        batches: forward passes.
        rows: rows in these passes.
        clock_s: the time of the reading, or between two readings.
        device_s: seconds that the device's thread had batches, forward passes included.
        device_cpu_s: seconds of them in which it ran on a core.
    """

    cpu_s: Mapping[str, float]
    forward_s: float
    batches: float
    rows: float
    clock_s: float
    device_s: float = 0.0
    device_cpu_s: float = 0.0

    def __sub__(self, earlier: "Costs") -> "Costs":
        return Costs(
            {part: seconds - earlier.cpu_s.get(part, 0.0) for part, seconds in self.cpu_s.items()},
            self.forward_s - earlier.forward_s,
            self.batches - earlier.batches,
            self.rows - earlier.rows,
            self.clock_s - earlier.clock_s,
            self.device_s - earlier.device_s,
            self.device_cpu_s - earlier.device_cpu_s,
        )


def read_costs(lorabel: Lorabel) -> Costs:
    """Costs up to now. Take the difference of two readings."""
    cpu_s = {part: sum(map(cpu_seconds, pids)) for part, pids in _processes(lorabel)}
    sums = _metrics(lorabel)
    return Costs(
        cpu_s,
        sums.get(f"{FORWARD}_sum", 0.0),
        sums.get(f"{BATCHES}_count", 0.0),
        sums.get(f"{BATCHES}_sum", 0.0),
        time.monotonic(),
        sums.get(DEVICE, 0.0),
        sums.get(DEVICE_CPU, 0.0),
    )


def cpu_seconds(pid: int) -> float:
    """CPU seconds of all threads of a process, and of its children that have ended; 0 if it has ended itself."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    # The second field is the program's name in parentheses. It may contain spaces and parentheses.
    fields = text[text.rindex(")") + 2 :].split()
    return sum(map(int, fields[TIMES])) / TICKS_PER_SECOND


def gpu_memory_mb(lorabel: Lorabel) -> dict[str, float]:
    """Memory of the GPU by part; empty where `nvidia-smi` is missing or does not see the processes."""
    if shutil.which(COMPUTE_APPS[0]) is None:
        return {}
    listed = subprocess.run(COMPUTE_APPS, capture_output=True, text=True).stdout
    by_pid = dict(_memory_lines(listed))
    shares = {part: sum(by_pid.get(pid, 0.0) for pid in pids) for part, pids in _processes(lorabel)}
    return {part: megabytes for part, megabytes in shares.items() if megabytes}


def _memory_lines(listed: str) -> Iterator[tuple[int, float]]:
    """A sample: `4711, 1538`. `nvidia-smi` prints `[N/A]` where it may not see the memory."""
    for line in listed.splitlines():
        pid, _, megabytes = line.partition(",")
        if pid.strip().isdecimal() and megabytes.strip().isdecimal():
            yield int(pid), float(megabytes)


def _processes(lorabel: Lorabel) -> Iterator[tuple[str, list[int]]]:
    for part in COMMANDS:
        pid = pid_of(lorabel, part)
        if pid is not None:
            pids = [pid, *descendants(pid)]
            decoders = [pid for pid in pids if DECODER in _command(pid)]
            yield part, [pid for pid in pids if pid not in decoders]
            if decoders:
                yield "decoders", decoders


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return ""


def _metrics(lorabel: Lorabel) -> dict[str, float]:
    """The model server's metrics without labels, by name."""
    answer = httpx.get(f"{lorabel.settings.model_server_url}/metrics", trust_env=False).raise_for_status()
    samples = [sample for family in text_string_to_metric_families(answer.text) for sample in family.samples]
    return {sample.name: sample.value for sample in samples if not sample.labels}
