"""From submit to a prediction with the new head, in projects of several sizes.

An annotator opens a task, submits its answer, and then opens the next task again and again until the prediction is
by a head that has learned from the answer. Requests are those of Label Studio: /predict, /webhook, /predict. The
demo model answers, on drawn pictures with labels that do not describe them.
"""

import time
from itertools import islice
from typing import Any

import httpx

from benchmarks import servers
from benchmarks.drawn_tasks import SEED, event, project_key
from benchmarks.plan import Plan
from benchmarks.rows import Goal, Row, percentile, row_of
from lorabel.demo import MODEL_FOLDER
from lorabel.demo.pictures import Picture, random_pictures
from tests.workers.pictures import LABEL_CONFIG, data_url

SIZES = (20, 500, 2000)
QUICK_SIZES = (20,)
SUBMITS = 40
QUICK_SUBMITS = 10
TIMEOUT_S = 120.0
# Label Studio asks once for each task that is opened. Asking more often would take the cores that fit the head.
POLL_S = 0.02
MEDIAN_MS, SLOW_MS = Goal("<=", 300.0), Goal("<=", 1000.0)


def measure(plan: Plan) -> list[Row]:
    sizes, submits = (QUICK_SIZES, QUICK_SUBMITS) if plan.is_quick else (SIZES, SUBMITS)
    variables = {"MODEL_DUAL_ENCODER": f"local-dir:{MODEL_FOLDER}"}
    with (
        servers.lorabel(plan, variables) as lorabel,
        httpx.Client(base_url=lorabel.url, trust_env=False, timeout=30.0) as client,
    ):
        annotator = Annotator(client, max(sizes) + len(sizes) * (submits + 1) + 1)
        return [row for size in sizes for row in annotator.measure(size, submits)]


class Annotator:
    """Works through tasks in order. Task n has annotation n.

    Args:
        tasks: how many tasks there are.
    """

    def __init__(self, client: httpx.Client, tasks: int) -> None:
        self._client = client
        self._pictures: list[Picture] = list(islice(random_pictures(SEED), tasks))
        self._next = 0
        self._version = ""

    def measure(self, size: int, submits: int) -> list[Row]:
        """Annotate until so many tasks are annotated, wait for the head, and then measure."""
        while self._next < size:
            self._submit()
        self._wait_until_settled()
        new_head_ms, webhook_ms = [], []
        for _ in range(submits):
            self._predict(self._next)
            began = time.perf_counter()
            self._submit()
            webhook_ms.append(1000 * (time.perf_counter() - began))
            self._wait_for_new_head()
            new_head_ms.append(1000 * (time.perf_counter() - began))
        name = f"submit to a prediction with the new head, {size} annotated tasks"
        return [
            row_of(f"{name}: p50", new_head_ms, "ms", MEDIAN_MS),
            Row(f"{name}: p95", percentile(new_head_ms, 0.95), "ms", goal=SLOW_MS),
            Row(f"/webhook meanwhile, {size} annotated tasks: p95", percentile(webhook_ms, 0.95), "ms"),
        ]

    def _submit(self) -> None:
        picture = self._pictures[self._next]
        self._client.post("/webhook", json=event(self._next + 1, picture)).raise_for_status()
        self._next += 1

    def _predict(self, index: int) -> str:
        """Open a task. Returns the version that predicted it."""
        task = {"id": index + 1, "data": {"image": data_url(self._pictures[index])}, "project": 1}
        body: dict[str, Any] = {
            "project": project_key(),
            "tasks": [task],
            "label_config": LABEL_CONFIG,
            "params": {"context": None},
        }
        answer = self._client.post("/predict", json=body).raise_for_status().json()
        return str(answer["results"][0]["model_version"])

    def _wait_for_new_head(self) -> None:
        deadline = time.monotonic() + TIMEOUT_S
        while time.monotonic() < deadline:
            version = self._predict(self._next)
            if version != self._version:
                self._version = version
                return
            time.sleep(POLL_S)
        raise TimeoutError(f"{version} still answers after {TIMEOUT_S:.0f} s")

    def _wait_until_settled(self) -> None:
        """Wait until heads were fitted on all that was sent: the version stays the same for 3 s."""
        since, deadline = time.monotonic(), time.monotonic() + TIMEOUT_S
        while time.monotonic() < min(since + 3.0, deadline):
            version = self._predict(self._next)
            if version != self._version:
                self._version, since = version, time.monotonic()
            time.sleep(0.1)
