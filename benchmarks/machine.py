"""Describes the machine that the figures were measured on."""

import os
import platform
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import torch

from lorabel.families.device import choose_device
from lorabel.families.served import served_precision
from lorabel.settings import Settings

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Machine:
    """`load_average`: processes that wanted a core in the minute before the run, also those of other people."""

    cpu: str
    cores: int
    memory_gb: int
    gpu: str | None
    device: str
    precision: str
    torch: str
    python: str
    commit: str
    load_average: float

    @property
    def line(self) -> str:
        gpu = f", {self.gpu}" if self.gpu else ", no GPU"
        return (
            f"{self.cores} cores of {self.cpu}, {self.memory_gb} GB{gpu}; {self.device} in {self.precision}, "
            f"torch {self.torch}, Python {self.python}; commit {self.commit}; "
            f"load average before the run {self.load_average:.1f}"
        )


def describe(settings: Settings) -> Machine:
    device = choose_device(settings)
    return Machine(
        cpu=_cpu(),
        cores=len(os.sched_getaffinity(0)),
        memory_gb=round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        gpu=torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        device=device.type,
        precision=served_precision(settings),
        torch=torch.__version__,
        python=platform.python_version(),
        commit=_commit(),
        load_average=os.getloadavg()[0],
    )


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _commit() -> str:
    """`unknown` where there is no git or no repository, as in a source archive."""
    if shutil.which("git") is None:
        return "unknown"
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=10"]
    return subprocess.run(command, capture_output=True, text=True).stdout.strip() or "unknown"
