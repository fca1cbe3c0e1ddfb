"""Load on a /predict, and what came of it."""

import itertools
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass

from benchmarks.plan import Plan
from benchmarks.rates import Request, median_ms, p99_ms, tasks_per_second

NUMBERS_PER_MEASUREMENT = 10**6
GRACE_S = 120.0


@dataclass(frozen=True)
class Load:
    clients: int
    tasks: int = 1

    @property
    def name(self) -> str:
        clients = f"{self.clients} client{'s' if self.clients > 1 else ''}"
        return clients if self.tasks == 1 else f"{clients}, {self.tasks} tasks a request"


@dataclass(frozen=True)
class Measured:
    """In windows of the measured time: tasks a second and the median latency."""

    tasks_per_second: list[float]
    median_ms: list[float]
    p99_ms: float
    refused: int


def blocks_of_numbers() -> Iterator[int]:
    """The first photograph of each measurement, so that none comes twice in a run."""
    return itertools.count(0, NUMBERS_PER_MEASUREMENT)


def offer(url: str, photos: str, load: Load, plan: Plan, first: int, repeat: int = 0) -> Measured:
    """The first seconds warm up and do not count. Raises RuntimeError if a task was not answered."""
    seconds = plan.warm_up_s + plan.seconds
    arguments = {"url": url, "photos": photos, "clients": load.clients, "tasks": load.tasks, "seconds": seconds}
    arguments |= {"first": first, "repeat": repeat}
    command = [sys.executable, "-m", "benchmarks.clients"]
    command += [f"--{name}={value}" for name, value in arguments.items()]
    ended = subprocess.run(command, stdout=subprocess.PIPE, check=True, timeout=seconds + GRACE_S)
    found = json.loads(ended.stdout)
    if found["unanswered"]:
        raise RuntimeError(f"{found['unanswered']} tasks got no prediction from {url}; see its log")
    requests = [Request(*one) for one in found["requests"]]
    begin_s = min(request.began_s for request in requests) + plan.warm_up_s
    window = begin_s, begin_s + plan.seconds
    return Measured(
        tasks_per_second(requests, *window),
        median_ms(requests, *window),
        p99_ms(requests, *window),
        found["refused"],
    )
