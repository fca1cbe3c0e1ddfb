"""Latency of /predict under training, and of /health and /setup while saturated.

The model is the demo model. One client repeats the calls of a labeling stream: /health, /setup, and /predict of
one task with a new photograph. It does so first while the server is idle, then during training runs back to back,
then with requests of 100 tasks beside the runs. On a GPU, the memory is read that each process then holds.
"""

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import httpx

from benchmarks import servers
from benchmarks.costs import gpu_memory_mb
from benchmarks.drawn_tasks import PROJECT, Annotator, project_key
from benchmarks.photos import Photos, data_url
from benchmarks.plan import Plan
from benchmarks.rates import WINDOWS
from benchmarks.rows import Goal, Row, percentile
from lorabel.demo import MODEL_FOLDER
from tests.workers.pictures import LABEL_CONFIG

ANNOTATIONS = 60
BULK_TASKS = 100
PAUSE_S = 0.02
TIMEOUT_S = 120.0
POLL_S = 0.1
IDLE, TRAINING, SATURATED = "idle", "while training", "while training and predicting in bulk"
TIMES_IDLE = Goal("<=", 3.0)
# Label Studio's own limits, for the slowest answer.
LIMITS_MS = {"/health": Goal("<=", 1000.0), "/setup": Goal("<=", 3000.0)}
PREDICT = "/predict, one task"
# On a slow machine a training run takes longer than a measurement, so measurements during training take longer.
TIMES_LONGER = 2
Times = dict[str, list[float]]


def measure(plan: Plan) -> list[Row]:
    stream = Stream()
    with servers.lorabel(plan, {"MODEL_DUAL_ENCODER": f"local-dir:{MODEL_FOLDER}"}) as lorabel:
        with _client(lorabel.url) as client:
            Annotator(client).submit(ANNOTATIONS)
        stream.probe(lorabel.url, plan.warm_up_s)
        idle = stream.probe(lorabel.url, plan.seconds)
        with _repeated(lorabel.url, _train):
            _wait_for_training(lorabel.url)
            training = stream.probe(lorabel.url, plan.seconds * TIMES_LONGER)
            with _repeated(lorabel.url, _Bulk(stream)):
                time.sleep(plan.warm_up_s)
                saturated = stream.probe(lorabel.url, plan.seconds * TIMES_LONGER)
                memory_mb = gpu_memory_mb(lorabel)
            runs = _finished_runs(lorabel.url)
    phases = {IDLE: idle, TRAINING: training, SATURATED: saturated}
    return [
        *(row for name in idle for phase, times in phases.items() for row in _rows(name, phase, times[name])),
        _times_idle(idle[PREDICT], training[PREDICT], runs),
        *(Row(f"GPU memory {SATURATED}: {part}", megabytes, "MB") for part, megabytes in memory_mb.items()),
    ]


class Stream:
    """Makes the calls of a labeling stream in turn; no photograph comes twice."""

    def __init__(self) -> None:
        self.photos, self.numbers, self.project = Photos(), itertools.count(), project_key()

    def probe(self, url: str, seconds: float) -> Times:
        """Call for some seconds. Returns the milliseconds of each call, by its name."""
        setup = {
            "project": self.project,
            "schema": LABEL_CONFIG,
            "hostname": "http://localhost",
            "access_token": "x",
        }
        with _client(url) as client:
            calls: dict[str, Callable[[], httpx.Response]] = {
                "/health": lambda: client.get("/health"),
                "/setup": lambda: client.post("/setup", json=setup),
                PREDICT: lambda: client.post("/predict", json=self.body(1)),
            }
            times: Times = {name: [] for name in calls}
            until = time.monotonic() + seconds
            while time.monotonic() < until:
                for name, call in calls.items():
                    times[name].append(_timed_ms(call))
                time.sleep(PAUSE_S)
        return times

    def body(self, tasks: int) -> dict[str, object]:
        numbers = [next(self.numbers) for _ in range(tasks)]
        sent_tasks = [{"id": number, "data": {"image": data_url(self.photos[number])}} for number in numbers]
        return {"tasks": sent_tasks, "project": self.project, "label_config": LABEL_CONFIG, "params": {}}


class _Bulk:
    """Sends requests of many tasks. They are made beforehand, to take no CPU time during the measurement."""

    def __init__(self, stream: Stream) -> None:
        self._bodies: Iterator[dict[str, object]] = itertools.cycle([stream.body(BULK_TASKS) for _ in range(5)])

    def __call__(self, client: httpx.Client) -> None:
        client.post("/predict", json=next(self._bodies)).raise_for_status()


def _train(client: httpx.Client) -> None:
    """Request a run. Called again and again, so that another run always waits while one trains."""
    client.post(f"/api/v1/projects/{PROJECT}/train").raise_for_status()
    time.sleep(POLL_S)


@contextmanager
def _repeated(url: str, work: Callable[[httpx.Client], None]) -> Iterator[None]:
    """Repeat the work in a thread during the block.

    Raises:
        RuntimeError: a request of the work failed.
    """
    stop = threading.Event()
    failed: list[Exception] = []

    def repeat() -> None:
        try:
            with _client(url) as client:
                while not stop.is_set():
                    work(client)
        except httpx.HTTPError as error:
            failed.append(error)

    thread = threading.Thread(target=repeat)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
    if failed:
        raise RuntimeError("the load broke off while the latency was measured") from failed[0]


def _wait_for_training(url: str) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while not _finished_runs(url):
        if time.monotonic() > deadline:
            raise RuntimeError(f"no training run ended within {TIMEOUT_S:.0f} s")
        time.sleep(POLL_S)


def _finished_runs(url: str) -> int:
    with _client(url) as client:
        runs = client.get(f"/api/v1/projects/{PROJECT}/runs").raise_for_status().json()["runs"]
    return sum(run["state"] == "finished" for run in runs)


def _client(url: str) -> httpx.Client:
    return httpx.Client(base_url=url, trust_env=False, timeout=TIMEOUT_S)


def _timed_ms(call: Callable[[], httpx.Response]) -> float:
    started = time.perf_counter()
    call().raise_for_status()
    return (time.perf_counter() - started) * 1000


def _rows(name: str, phase: str, times_ms: list[float]) -> list[Row]:
    """The median with the fastest and the slowest; p95; and the slowest as a row if Label Studio has a limit."""
    title = f"{name} {phase}"
    rows = [
        Row(f"{title}: p50", percentile(times_ms, 0.5), "ms", min(times_ms), max(times_ms)),
        Row(f"{title}: p95", percentile(times_ms, 0.95), "ms"),
    ]
    if phase == SATURATED and name in LIMITS_MS:
        rows.append(Row(f"{title}: slowest", max(times_ms), "ms", goal=LIMITS_MS[name]))
    return rows


def _times_idle(idle_ms: list[float], busy_ms: list[float], runs: int) -> Row:
    """The p95 while training over the p95 while idle. The spread is that of the p95 in each window."""
    reference = percentile(idle_ms, 0.95)
    length = max(1, len(busy_ms) // WINDOWS)
    starts = range(0, len(busy_ms), length)
    ratios = [percentile(busy_ms[start : start + length], 0.95) / reference for start in starts]
    value = percentile(busy_ms, 0.95) / reference
    note = f"{runs} training runs"
    return Row(f"{PREDICT}: p95 {TRAINING}, times idle", value, "x", min(ratios), max(ratios), TIMES_IDLE, note)
