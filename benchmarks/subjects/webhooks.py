"""Webhooks, against a bare Flask endpoint that commits one row to the same kind of database.

Eight senders send events without a pause, to the one and to the other in turns: the machine may be faster at one
time than at another. Label Studio waits one second for the answer to an event and never sends the event again.
"""

import itertools
import json
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx

from benchmarks import servers
from benchmarks.costs import read_costs
from benchmarks.plan import Plan
from benchmarks.rates import Request, latencies_ms, tasks_per_second
from benchmarks.rows import Goal, Row, percentile, row_of
from lorabel.demo import MODEL_FOLDER
from tests.e2e.lorabel_processes import Lorabel
from tests.servers import free_port
from tests.workers.events import annotation

SENDERS = 8
OF_BARE = Goal(">=", 0.5)
# Stands for the ids in the template of an event.
PLACEHOLDER = 1234567890
SLOWEST_MS = Goal("<=", 1000.0)
TURNS = 5
# Lorabel is idle if its processes take no more than this share of a core; it is waited for at most so long.
IDLE_SHARE, MOST_WAITED_S = 0.1, 120


@dataclass(frozen=True)
class Turn:
    """Requests to one of the endpoints, and when they were measured, in seconds of one clock."""

    requests: Sequence[Request]
    begin_s: float
    end_s: float

    @property
    def per_second(self) -> float:
        """Answers in the measured time."""
        return statistics.mean(tasks_per_second(self.requests, self.begin_s, self.end_s))

    @property
    def latencies_ms(self) -> list[float]:
        """Of what was answered in the measured time."""
        return [took_ms for window in latencies_ms(self.requests, self.begin_s, self.end_s) for took_ms in window]


def measure(plan: Plan) -> list[Row]:
    turns = 1 if plan.is_quick else TURNS
    numbers = [itertools.count((sender + 1) * 10**6) for sender in range(SENDERS)]
    ours, bare = list[Turn](), list[Turn]()
    with servers.lorabel(plan, {"MODEL_DUAL_ENCODER": f"local-dir:{MODEL_FOLDER}"}) as lorabel, _bare() as url:
        for turn in range(turns):
            # Each second time the bare endpoint comes first: nobody shall always have the machine after the other.
            for is_ours in (turn % 2 == 0, turn % 2 == 1):
                (ours if is_ours else bare).append(_send(lorabel.url if is_ours else url, plan, numbers))
                _wait_until_idle(lorabel)
    slowest_ms = max(request.took_ms for turn in ours for request in turn.requests)
    return [
        *_rows("/webhook", ours),
        *_rows("bare endpoint", bare),
        row_of(
            "events a second, of the bare endpoint's",
            [turn.per_second / bare_turn.per_second for turn, bare_turn in zip(ours, bare, strict=True)],
            "x",
            OF_BARE,
        ),
        Row("/webhook: slowest", slowest_ms, "ms", goal=SLOWEST_MS),
    ]


def _rows(name: str, turns: Sequence[Turn]) -> list[Row]:
    return [
        row_of(f"{name}, {SENDERS} senders", [turn.per_second for turn in turns], "events/s"),
        row_of(f"{name}: p50", [statistics.median(turn.latencies_ms) for turn in turns], "ms"),
        Row(f"{name}: p99", percentile([each for turn in turns for each in turn.latencies_ms], 0.99), "ms"),
    ]


def _send(url: str, plan: Plan, numbers: Sequence[Iterator[int]]) -> Turn:
    """Send events from all senders."""
    begin_s = time.perf_counter() + plan.warm_up_s
    until = begin_s + plan.seconds
    with ThreadPoolExecutor(SENDERS) as senders:
        by_sender = list(senders.map(lambda of_sender: _send_until(url, until, of_sender), numbers))
    return Turn([request for requests in by_sender for request in requests], begin_s, until)


def _wait_until_idle(lorabel: Lorabel) -> None:
    """Until events are applied and heads fitted, which go on after the answers.

    Raises:
        RuntimeError: they take too long.
    """
    for _ in range(MOST_WAITED_S):
        before = read_costs(lorabel)
        time.sleep(1.0)
        spent = read_costs(lorabel) - before
        if sum(spent.cpu_s.values()) <= IDLE_SHARE * spent.clock_s:
            return
    raise RuntimeError(f"Lorabel still computes {MOST_WAITED_S} s after the last event")


def _send_until(url: str, until: float, numbers: Iterator[int]) -> list[Request]:
    """Send events of new annotations."""
    sent: list[Request] = []
    template = json.dumps(annotation(PLACEHOLDER, PLACEHOLDER, "red", 0))
    with httpx.Client(base_url=url, trust_env=False, timeout=30.0) as client:
        while (began := time.perf_counter()) < until:
            client.post(
                "/webhook", content=template.replace(str(PLACEHOLDER), str(next(numbers)))
            ).raise_for_status()
            sent.append(Request(began, time.perf_counter()))
    return sent


@contextmanager
def _bare() -> Iterator[str]:
    """A running `benchmarks.bare_webhook`; yields its address."""
    with TemporaryDirectory(prefix="lorabel-bench-") as folder:
        port = free_port()
        database = f"sqlite:///{Path(folder) / 'bare.db'}"
        command = [sys.executable, "-m", "benchmarks.bare_webhook", database, str(port)]
        with servers.process(command, f"http://127.0.0.1:{port}/") as url:
            yield url.rstrip("/")
