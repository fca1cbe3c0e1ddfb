"""Webhooks, against a bare Flask endpoint that commits one row to the same kind of database.

Eight senders send events without a pause. Label Studio waits one second for the answer to an event and never sends
the event again.
"""

import itertools
import json
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx

from benchmarks import servers
from benchmarks.plan import Plan
from benchmarks.rates import Request, median_ms, p99_ms, tasks_per_second
from benchmarks.rows import Goal, Row, ratio_of, row_of
from lorabel.demo import MODEL_FOLDER
from tests.servers import free_port
from tests.workers.events import annotation

SENDERS = 8
OF_BARE = Goal(">=", 0.5)
# Stands for the ids in the template of an event.
PLACEHOLDER = 1234567890
SLOWEST_MS = Goal("<=", 1000.0)


def measure(plan: Plan) -> list[Row]:
    with servers.lorabel(plan, {"MODEL_DUAL_ENCODER": f"local-dir:{MODEL_FOLDER}"}) as lorabel:
        ours, window = _send(lorabel.url, plan)
        rates = tasks_per_second(ours, *window)
        rows = _rows("/webhook", ours, window)
    with _bare() as url:
        bare, window = _send(url, plan)
        rows += _rows("bare endpoint", bare, window)
        bare_rates = tasks_per_second(bare, *window)
    return [
        *rows,
        ratio_of("events a second, of the bare endpoint's", rates, bare_rates, OF_BARE),
        Row("/webhook: slowest", max(request.took_ms for request in ours), "ms", goal=SLOWEST_MS),
    ]


def _rows(name: str, requests: list[Request], window: tuple[float, float]) -> list[Row]:
    return [
        row_of(f"{name}, {SENDERS} senders", tasks_per_second(requests, *window), "events/s"),
        row_of(f"{name}: p50", median_ms(requests, *window), "ms"),
        Row(f"{name}: p99", p99_ms(requests, *window), "ms"),
    ]


def _send(url: str, plan: Plan) -> tuple[list[Request], tuple[float, float]]:
    """Send events from all senders. Returns the requests, and the begin and end of the measured time."""
    begin_s = time.perf_counter() + plan.warm_up_s
    until = begin_s + plan.seconds
    with ThreadPoolExecutor(SENDERS) as senders:
        by_sender = list(senders.map(lambda number: _send_until(url, until, number), range(SENDERS)))
    return [request for requests in by_sender for request in requests], (begin_s, until)


def _send_until(url: str, until: float, sender: int) -> list[Request]:
    """Send events of new annotations; each sender has numbers of its own."""
    sent: list[Request] = []
    template = json.dumps(annotation(PLACEHOLDER, PLACEHOLDER, "red", 0))
    numbers = itertools.count((sender + 1) * 10**6)
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
