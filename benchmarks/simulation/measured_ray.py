"""Measures what Ray costs a request: `.venv-ray/bin/python -m benchmarks.simulation.measured_ray`.

A cluster on this machine, with two replicas of the demo model on the CPU, answers requests about a picture whose
features are remembered. It prints the CPU time of each kind of process, for a request.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx

from benchmarks.costs import cpu_seconds
from benchmarks.simulation.report import table
from lorabel.demo import MODEL_FOLDER
from lorabel.demo.pictures import COLOURS
from lorabel.inference.messages import PredictRequest
from tests.e2e.processes import descendants
from tests.model_server.ray_cluster import cluster
from tests.questions import about_picture, row
from tests.workers.pictures import data_url, pictures

# How the titles of processes begin, by the names of `Costs`, or of what is no cost.
TITLES = {
    "ray::ProxyActor": "ray_http_s",
    "ray::ServeReplica:lorabel:proxy": "proxy_s",
    "ray::ServeReplica:lorabel:replica": "replica, with the call through Ray",
    "ray::ServeController": "Ray's controller, mostly for health checks",
}
OTHER = "Ray's other processes"
WARM_UP = 200


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--requests", type=int, default=2000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="lorabel-ray-") as folder:
        variables = {"DATA_DIR": folder, "MODEL_DUAL_ENCODER": f"local-dir:{MODEL_FOLDER}"}
        with cluster(Path(folder), variables) as running:
            _send(running.url, 1, WARM_UP)
            _send(running.url, options.clients, WARM_UP)
            before, began_s = _cpu_s(), time.monotonic()
            _send(running.url, options.clients, options.requests)
            after, took_s = _cpu_s(), time.monotonic() - began_s
    names = (*TITLES.values(), OTHER)
    spent_ms = {name: 1000 * (after[name] - before[name]) / options.requests for name in names}
    print(f"{options.requests / took_s:.0f} requests/s of {options.clients} clients\n")
    print(
        table(["process", "ms of CPU time for a request"], [[name, f"{ms:.3f}"] for name, ms in spent_ms.items()])
    )


def _send(url: str, clients: int, count: int) -> None:
    """Requests about the same picture, for the projects of several replicas."""
    question = row(about_picture(data_url(pictures(1)[0]), tuple(COLOURS)))
    bodies = [
        PredictRequest(rows=[question], timeout_s=60, project=project).model_dump_json() for project in range(20)
    ]
    with httpx.Client(base_url=url, timeout=90.0, trust_env=False) as http, ThreadPoolExecutor(clients) as threads:

        def send(number: int) -> None:
            http.post("/v1/predict", content=bodies[number % len(bodies)]).raise_for_status()

        list(threads.map(send, range(count)))


def _cpu_s() -> dict[str, float]:
    """CPU seconds of the cluster's processes up to now."""
    spent = dict.fromkeys((*TITLES.values(), OTHER), 0.0)
    for pid, title in _titles():
        name = next((name for start, name in TITLES.items() if title.startswith(start)), OTHER)
        spent[name] += cpu_seconds(pid)
    return spent


def _titles() -> Iterator[tuple[int, str]]:
    for pid in descendants(os.getpid()):
        path = Path(f"/proc/{pid}/cmdline")
        if path.exists():
            yield pid, path.read_text(errors="replace").replace("\0", " ")


if __name__ == "__main__":
    main()
