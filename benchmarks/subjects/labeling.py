"""A labeling stream of the real Label Studio, with and without predicting ahead.

The model is ViT-B-32. An annotator opens a task, looks at it for a moment, submits, and opens the next task. Label
Studio calls /predict when a task is opened, and shows the task when it has the answer; the times of /predict are
from the backend's log. The quick run leaves this out, because starting Label Studio alone takes longer than the
whole quick run.
"""

import re
import time

from benchmarks import label_studio, servers
from benchmarks.label_studio import connected_project
from benchmarks.models import vit_b_32
from benchmarks.plan import Plan
from benchmarks.question import LABELS
from benchmarks.rows import Row, percentile, ratio_of, row_of
from lorabel.label_studio.client import LabelStudio
from tests.e2e.label_studio_server import Server
from tests.e2e.lorabel_processes import Lorabel

TASKS = 40
LOOK_S = 1.0
WITHOUT, WITH = "0", "8"
PREDICT = re.compile(r"POST /predict 200 (\d+) ms")


def measure(plan: Plan) -> list[Row]:
    if plan.is_quick:
        return []
    answers: dict[str, list[float]] = {}
    opened: dict[str, list[float]] = {}
    with servers.photo_server() as photos, label_studio.running() as server:
        for turn, ahead in enumerate((WITHOUT, WITH)):
            variables = {
                "MODEL_DUAL_ENCODER": vit_b_32(plan.folder),
                "MEDIA_ALLOWED_HOSTS": photos.removeprefix("http://"),
                "AHEAD_TASKS": ahead,
            }
            images = [f"{photos}/{turn * TASKS + i}.jpg" for i in range(TASKS)]
            with servers.lorabel(plan, variables) as lorabel:
                project_id = connected_project(server, lorabel, f"ahead {ahead}", images)
                opened[ahead] = _label(server, project_id)
                answers[ahead] = _predict_ms(lorabel)
    return [
        *_rows("/predict", answers),
        *_rows("a task opened in Label Studio", opened),
        ratio_of("/predict ahead, of its time without", answers[WITH], answers[WITHOUT]),
    ]


def _rows(name: str, times: dict[str, list[float]]) -> list[Row]:
    named = ((f"{name}, not ahead", times[WITHOUT]), (f"{name}, {WITH} tasks ahead", times[WITH]))
    return [
        row
        for title, times_ms in named
        for row in (
            row_of(f"{title}: p50", times_ms, "ms"),
            Row(f"{title}: p95", percentile(times_ms, 0.95), "ms"),
        )
    ]


def _label(server: Server, project_id: int) -> list[float]:
    """Label every task. Returns the milliseconds until each task was open."""
    times = []
    region: dict[str, object] = {
        "from_name": "label",
        "to_name": "image",
        "type": "choices",
        "value": {"choices": [LABELS[0]]},
    }
    with server.client() as client:
        for _ in range(TASKS):
            began = time.perf_counter()
            task = client.call("GET", f"/api/projects/{project_id}/next", timeout_s=60.0)
            times.append((time.perf_counter() - began) * 1000)
            time.sleep(LOOK_S)
            _submit(client, task["id"], region)
    return times


def _submit(client: LabelStudio, task_id: int, region: dict[str, object]) -> None:
    client.call("POST", f"/api/tasks/{task_id}/annotations/", json={"result": [region], "lead_time": LOOK_S})


def _predict_ms(lorabel: Lorabel) -> list[float]:
    """The milliseconds of each /predict, from the backend's log.

    Raises:
        RuntimeError: Label Studio did not call /predict for every task.
    """
    log = (lorabel.settings.data_dir / "logs" / "backend.log").read_text(errors="replace")
    times_ms = [float(milliseconds) for milliseconds in PREDICT.findall(log)][-TASKS:]
    if len(times_ms) < TASKS:
        raise RuntimeError(f"Label Studio asked for {len(times_ms)} of {TASKS} predictions")
    return times_ms
