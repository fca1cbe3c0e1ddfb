"""Bulk runs, end to end against the real Label Studio.

The model is ViT-B-32. `lorabel preannotate`, as a person starts it, reads tasks page by page, fetches their
photographs, predicts, and writes the predictions back. The quick run leaves this out, because starting Label
Studio alone takes longer than the whole quick run.
"""

import subprocess
import time

import httpx

from benchmarks import label_studio, servers
from benchmarks.models import vit_b_32
from benchmarks.plan import Plan
from benchmarks.rows import Row, row_of
from tests.e2e.lorabel_processes import PROGRAM, Lorabel, bare_environment

TASKS = 300
RUNS = 3


def measure(plan: Plan) -> list[Row]:
    if plan.is_quick:
        return []
    with servers.photo_server() as photos, label_studio.running() as server:
        variables = {
            "MODEL_DUAL_ENCODER": vit_b_32(plan.folder),
            "MEDIA_ALLOWED_HOSTS": photos.removeprefix("http://"),
            "AHEAD_TASKS": "0",
        }
        rates, shares = [], []
        with servers.lorabel(plan, variables) as lorabel:
            for run in range(RUNS):
                images = [f"{photos}/{run * TASKS + i}.jpg" for i in range(TASKS)]
                project_id = label_studio.connected_project(server, lorabel, f"bulk {run}", images)
                took_s = _preannotate(lorabel, project_id)
                rates.append(TASKS / took_s)
                shares.append(_label_studio_s(lorabel, project_id) / took_s)
    return [
        row_of(f"bulk runs of {TASKS} tasks", rates, "tasks/s"),
        row_of("share of it spent in Label Studio", shares, "x"),
    ]


def _preannotate(lorabel: Lorabel, project_id: int) -> float:
    """Returns the seconds from the start of the command to its end."""
    command = [str(PROGRAM), "preannotate", str(project_id)]
    began = time.monotonic()
    subprocess.run(
        command, env={**bare_environment(), **lorabel.environment}, stdout=subprocess.DEVNULL, check=True
    )
    return time.monotonic() - began


def _label_studio_s(lorabel: Lorabel, project_id: int) -> float:
    """The seconds of the bulk run that requests to Label Studio took.

    Raises:
        RuntimeError: the run left out a task.
    """
    url = f"{lorabel.url}/api/v1/projects/{project_id}/preannotations"
    run = httpx.get(url, trust_env=False, timeout=30.0).raise_for_status().json()["runs"][0]
    if run["done"] != TASKS:
        raise RuntimeError(f"the bulk run did {run['done']} of {TASKS} tasks: {run}")
    return float(run["label_studio_s"])
