"""Puts a load on /predict, and measures throughput and latency."""

import itertools
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass

from benchmarks.plan import Plan
from benchmarks.question import LABEL_CONFIG
from benchmarks.rates import Request, median_ms, p99_ms, tasks_per_second

NUMBERS_PER_MEASUREMENT = 10**6
GRACE_S = 120.0


@dataclass(frozen=True)
class Load:
    """So many clients, which send requests of so many tasks."""

    clients: int
    tasks: int = 1

    @property
    def name(self) -> str:
        clients = f"{self.clients} client{'s' if self.clients > 1 else ''}"
        return clients if self.tasks == 1 else f"{clients}, {self.tasks} tasks a request"


@dataclass(frozen=True)
class Measured:
    """The figures of a load.

    Args:
        tasks_per_second: one for each window of the measured time.
        median_ms: the median latency, one for each window.
        p99_ms: of the whole measured time.
        refused: responses with 503.
        tasks: answered tasks, also those of the warm-up.
    """

    tasks_per_second: list[float]
    median_ms: list[float]
    p99_ms: float
    refused: int
    tasks: int


def blocks_of_numbers() -> Iterator[int]:
    """The number of the first photograph of each measurement, so that no photograph comes twice in a run."""
    return itertools.count(0, NUMBERS_PER_MEASUREMENT)


def offer(
    url: str,
    photos: str,
    load: Load,
    plan: Plan,
    first: int,
    repeat: int = 0,
    label_config: str = LABEL_CONFIG,
) -> Measured:
    """Put a load on the backend at `url` for some seconds. The first seconds warm up and do not count.

    Args:
        photos: the photo server's address.
        first: number of the first photograph.
        repeat: if not 0, only so many photographs, again and again.

    Raises:
        RuntimeError: a task was not answered.
    """
    seconds = plan.warm_up_s + plan.seconds
    arguments = {"url": url, "photos": photos, "clients": load.clients, "tasks": load.tasks, "seconds": seconds}
    arguments |= {"first": first, "repeat": repeat, "label-config": label_config}
    command = [sys.executable, "-m", "benchmarks.clients"]
    command += [f"--{name}={value}" for name, value in arguments.items()]
    ended = subprocess.run(command, stdout=subprocess.PIPE, check=True, timeout=seconds + GRACE_S)
    tally = json.loads(ended.stdout)
    if tally["unanswered"]:
        raise RuntimeError(f"{tally['unanswered']} tasks got no prediction from {url}; see its log")
    requests = [Request(*request) for request in tally["requests"]]
    begin_s = min(request.began_s for request in requests) + plan.warm_up_s
    window = begin_s, begin_s + plan.seconds
    return Measured(
        tasks_per_second(requests, *window),
        median_ms(requests, *window),
        p99_ms(requests, *window),
        tally["refused"],
        sum(request.tasks for request in requests),
    )
