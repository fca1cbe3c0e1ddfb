"""Annotators while a thousand connections are half open, with our worker and with gunicorn's gthread.

Eight annotators each call /setup and /predict for one task, and send the event of its annotation. They do so in
turns without and beside 1,000 connections to the backend: a quarter each is silent, has sent half a header, has
sent half a body, and sends a header byte by byte. gunicorn's gthread is the usual server with threads. The model
is the demo model.
"""

import itertools
import resource
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import httpx

from benchmarks import servers
from benchmarks.drawn_tasks import PROJECT, event
from benchmarks.plan import Plan
from benchmarks.rows import Goal, Row, percentile
from lorabel.demo import MODEL_FOLDER
from lorabel.demo.pictures import random_pictures
from tests.half_open import KINDS, half_open
from tests.workers.pictures import LABEL_CONFIG, data_url

ANNOTATORS = 8
HALF_OPEN = 1000
HELD = ("silence", "half a header", "half a body", "a header byte by byte")
ROUNDS = 3
# Label Studio waits 100 s for /predict. Nobody waits so long, and a turn must end before the server closes what is
# half open.
TIMEOUT_S = 5.0
AS_WITHOUT = Goal("<=", 1.2)
NONE = Goal("<=", 0)
SETUP, PREDICT, WEBHOOK = "/setup", "/predict", "/webhook"
SERVERS: dict[str, dict[str, str]] = {"our worker": {}, "gthread": {"GUNICORN_CMD_ARGS": "--worker-class gthread"}}


@dataclass
class Answers:
    """Milliseconds of the answered requests by path, and how many requests got no answer."""

    times: dict[str, list[float]] = field(default_factory=lambda: {SETUP: [], PREDICT: [], WEBHOOK: []})
    failed: int = 0


def measure(plan: Plan) -> list[Row]:
    _allow_files(2 * HALF_OPEN)
    return [row for name in SERVERS for row in _measure_server(name, plan)]


def _measure_server(name: str, plan: Plan) -> list[Row]:
    variables = {"MODEL_DUAL_ENCODER": f"local-dir:{MODEL_FOLDER}", **SERVERS[name]}
    numbers = itertools.count(1)
    without, beside = Answers(), Answers()
    with servers.lorabel(plan, variables) as lorabel:
        _annotate(lorabel.url, numbers, plan.warm_up_s, Answers())
        for _ in range(ROUNDS):
            _annotate(lorabel.url, numbers, plan.seconds / ROUNDS, without)
            with _held(lorabel.url):
                _annotate(lorabel.url, numbers, plan.seconds / ROUNDS, beside)
    rows = [row for path in (PREDICT, WEBHOOK) for row in _rows(name, path, without, beside)]
    goal = NONE if name == next(iter(SERVERS)) else None
    return [*rows, Row(f"{name}: requests without an answer beside them", float(beside.failed), "", goal=goal)]


def _rows(name: str, path: str, without: Answers, beside: Answers) -> Iterator[Row]:
    phases = {"without": without.times[path], f"beside {HALF_OPEN:,}": beside.times[path]}
    for phase, times in phases.items():
        # A server that is silenced answers nothing.
        if times:
            yield Row(f"{name}: {path}, {phase}: p50", percentile(times, 0.5), "ms")
            yield Row(f"{name}: {path}, {phase}: p95", percentile(times, 0.95), "ms")
    if all(phases.values()):
        p95_without, p95_beside = (percentile(times, 0.95) for times in phases.values())
        name = f"{name}: {path}: p95 beside them, of that without"
        yield Row(name, p95_beside / p95_without, "x", goal=AS_WITHOUT)


@contextmanager
def _held(url: str) -> Iterator[None]:
    port = urlsplit(url).port or 80
    with ExitStack() as stack:
        for kind in HELD:
            stack.enter_context(half_open(port, KINDS[kind], HALF_OPEN // len(HELD), byte_every_s=1.0))
        yield


def _annotate(url: str, numbers: Iterator[int], seconds: float, answers: Answers) -> None:
    until = time.monotonic() + seconds
    with ThreadPoolExecutor(ANNOTATORS) as annotators:
        for done in [annotators.submit(_label_until, until, url, numbers, answers) for _ in range(ANNOTATORS)]:
            done.result()


def _label_until(until: float, url: str, numbers: Iterator[int], answers: Answers) -> None:
    """One annotator; opens a connection for each request, as Label Studio does."""
    pictures = random_pictures(next(numbers))
    with httpx.Client(base_url=url, trust_env=False, timeout=TIMEOUT_S, headers={"Connection": "close"}) as client:
        while time.monotonic() < until:
            number, picture = next(numbers), next(pictures)
            task = {"id": number, "data": {"image": data_url(picture)}}
            setup = {"project": f"{PROJECT}.1", "schema": LABEL_CONFIG, "hostname": "http://localhost"}
            prediction = {"tasks": [task], "project": f"{PROJECT}.1", "label_config": LABEL_CONFIG, "params": {}}
            _post(client, SETUP, setup, answers)
            _post(client, PREDICT, prediction, answers)
            _post(client, WEBHOOK, event(number, picture), answers)


def _post(client: httpx.Client, path: str, body: dict[str, Any], answers: Answers) -> None:
    began = time.perf_counter()
    try:
        client.post(path, json=body).raise_for_status()
    except httpx.HTTPError:
        answers.failed += 1
    else:
        answers.times[path].append((time.perf_counter() - began) * 1000)


def _allow_files(count: int) -> None:
    """Let this process, which is the client of all connections, have so many files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < count:
        resource.setrlimit(resource.RLIMIT_NOFILE, (count, hard))
