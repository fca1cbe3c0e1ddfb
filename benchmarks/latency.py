"""How fast Label Studio is answered while a training run and a bulk prediction are going on.

    .venv/bin/python -m benchmarks.latency

Label Studio gives /health 1 s, /setup 3 s, an event 1 s and /predict 100 s. Prints a table: idle, then under
load; then events per second with eight senders, next to a bare Flask endpoint that commits one row to a
database of the same kind in the same way.
"""

import itertools
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx

from lorabel.demo import MODEL_FOLDER
from tests.e2e import lorabel_processes
from tests.workers.events import annotation
from tests.workers.pictures import GRADES, LABEL_CONFIG, data_url, pictures, result

PROJECT = 1
SECONDS = 30.0
EVENTS = 2000
SENDERS = 8
BULK_TASKS = 100

BARE = """
import sys
from flask import Flask, request
from lorabel.store import Store
from lorabel.tables import Event
store = Store(sys.argv[1]); store.migrate()
app = Flask(__name__)
@app.post("/webhook")
def webhook():
    with store.write() as session:
        session.add(Event(action="x", project_id=1, payload=request.get_data(as_text=True), state="ignored"))
    return {}
from gunicorn.app.base import BaseApplication
class Server(BaseApplication):
    def load_config(self):
        for key, value in {"bind": sys.argv[2], "threads": 32, "worker_class": "gthread", "loglevel": "error",
                           "control_socket_disable": True}.items():
            self.cfg.set(key, value)
    def load(self):
        return app
Server().run()
"""


def timed(call: Callable[[], httpx.Response]) -> float:
    """Milliseconds."""
    started = time.perf_counter()
    call().raise_for_status()
    return (time.perf_counter() - started) * 1000


def row(name: str, times_ms: list[float]) -> str:
    ordered = sorted(times_ms)
    p99 = ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))]
    return f"{name:<34}{len(ordered):>7}{statistics.median(ordered):>9.1f}{p99:>9.1f}{ordered[-1]:>9.1f}"


def probe(url: str, seconds: float) -> dict[str, list[float]]:
    """/health, /setup, one event and one task in turn, as in a labeling stream."""
    client = httpx.Client(base_url=url, trust_env=False, timeout=120.0)
    setup = {
        "project": f"{PROJECT}.1",
        "schema": LABEL_CONFIG,
        "hostname": "http://localhost",
        "access_token": "x",
    }
    task = {"id": 1, "data": {"image": data_url(pictures(1)[0])}}
    predict = {"tasks": [task], "project": f"{PROJECT}.1", "label_config": LABEL_CONFIG, "params": {}}
    numbers = itertools.count(10**6)
    calls = {
        "/health": lambda: client.get("/health"),
        "/setup": lambda: client.post("/setup", json=setup),
        "/webhook": lambda: client.post("/webhook", json=event(next(numbers))),
        "/predict, one task": lambda: client.post("/predict", json=predict),
    }
    times: dict[str, list[float]] = {name: [] for name in calls}
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        for name, call in calls.items():
            times[name].append(timed(call))
        time.sleep(0.02)
    client.close()
    return times


def event(number: int) -> dict[str, Any]:
    return annotation(number, number, "red", 0)


def load(url: str, stop: threading.Event) -> None:
    """Training runs back to back, and predictions of a hundred tasks in one request."""
    client = httpx.Client(base_url=url, trust_env=False, timeout=120.0)
    drawn = pictures(BULK_TASKS, seed=9)
    for i, picture in enumerate(drawn[:60]):
        body = annotation(i + 1, i + 1, "red", 0)
        body["annotation"]["result"] = result(GRADES[picture.fill])
        body["task"]["data"] = {"image": data_url(picture)}
        body["project"]["label_config"] = LABEL_CONFIG
        client.post("/webhook", json=body).raise_for_status()
    tasks = [{"id": i, "data": {"image": data_url(picture)}} for i, picture in enumerate(drawn)]
    bulk = {"tasks": tasks, "project": f"{PROJECT}.1", "label_config": LABEL_CONFIG, "params": {}}
    while not stop.is_set():
        client.post(f"/api/v1/projects/{PROJECT}/train").raise_for_status()
        client.post("/predict", json=bulk).raise_for_status()
    client.close()


def events_per_second(url: str) -> str:
    client = httpx.Client(
        base_url=url, trust_env=False, timeout=30.0, limits=httpx.Limits(max_connections=SENDERS)
    )
    bodies = [event(2 * 10**6 + i) for i in range(EVENTS)]
    started = time.perf_counter()
    with ThreadPoolExecutor(SENDERS) as threads:
        times = list(threads.map(lambda body: timed(lambda: client.post("/webhook", json=body)), bodies))
    rate = EVENTS / (time.perf_counter() - started)
    client.close()
    return f"{row('', times)}   {rate:.0f} events/s"


def bare_events_per_second(folder: Path) -> str:
    address = f"127.0.0.1:{lorabel_processes.free_port()}"
    command = [sys.executable, "-c", BARE, f"sqlite:///{folder}/bare.db", address]
    server = subprocess.Popen(command, start_new_session=True)
    try:
        for _ in range(300):
            try:
                httpx.get(f"http://{address}/", trust_env=False)
                break
            except httpx.TransportError:
                time.sleep(0.1)
        return events_per_second(f"http://{address}")
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait()


def main() -> None:
    cpu = next(line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name"))
    print(f"machine: {os.cpu_count()} cores of {cpu.split(':')[1].strip()}")
    with tempfile.TemporaryDirectory() as folder:
        variables = {"MODEL_DUAL_ENCODER": f"local-dir:{MODEL_FOLDER}", "TRAIN_AFTER_ANNOTATIONS": "1000000"}
        lorabel = lorabel_processes.start(Path(folder), variables)
        try:
            print(f"{'milliseconds':<34}{'n':>7}{'p50':>9}{'p99':>9}{'max':>9}")
            for name, times in probe(lorabel.url, SECONDS / 3).items():
                print(row(f"{name}, idle", times))
            stop = threading.Event()
            loader = threading.Thread(target=load, args=(lorabel.url, stop))
            loader.start()
            time.sleep(10.0)
            for name, times in probe(lorabel.url, SECONDS).items():
                print(row(f"{name}, under load", times))
            stop.set()
            loader.join()
            print(f"{SENDERS} senders, Lorabel's /webhook:\n{events_per_second(lorabel.url)}")
        finally:
            os.killpg(lorabel.process.pid, signal.SIGTERM)
            lorabel.process.wait()
        print(f"{SENDERS} senders, a bare endpoint that commits one row:\n{bare_events_per_second(Path(folder))}")


if __name__ == "__main__":
    main()
