"""Training runs of large projects: seconds and memory, by the number of annotations.

The model is the demo model, the database is SQLite, and each run has a process of its own. One run finds 20 new
annotations beside the others, which runs have learned from; another finds all annotations new. The latter is also
measured without the limit, that is, with TRAIN_MAX_ANNOTATIONS as large as the project. Seconds of CPU are those
of all threads; other programs on the machine change them little. The comparison before a run is measured against
the real Label Studio. The quick run leaves out the largest project, the runs without the limit, and Label Studio.
"""

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks import label_studio
from benchmarks.drawn_tasks import PROJECT
from benchmarks.large_projects import fill, import_project
from benchmarks.plan import Plan
from benchmarks.rows import Goal, Row
from lorabel.commands.supervisor import PATIENCE
from lorabel.database import projects
from lorabel.database.project_keys import LabelStudioId
from lorabel.database.store import Store
from lorabel.demo import MODEL_FOLDER
from lorabel.settings import Settings
from tests.e2e.label_studio_server import Server
from tests.e2e.lorabel_processes import bare_environment
from tests.workers.pictures import LABEL_CONFIG, result
from workers.reconcile import OVERLAP, reconcile
from workers.services import Services

SIZES = (1_000, 10_000, 100_000)
UNLIMITED_SIZES = SIZES[:2]
COMPARED_SIZES = SIZES[:2]
NEW = 20
FLAT = Goal("<=", 1.5)


@dataclass(frozen=True)
class Measured:
    seconds: float
    cpu_s: float
    memory_mb: float
    due_ms: float


def measure(plan: Plan) -> list[Row]:
    sizes = SIZES[:2] if plan.is_quick else SIZES
    with_few_new = {size: _run(plan, size, NEW) for size in sizes}
    all_new = {size: _run(plan, size, size) for size in sizes}
    rows = [
        *_rows(f"{NEW} new", with_few_new),
        *_rows("all new", all_new),
        *(
            Row(f"which runs are due, {size:,} annotations, all new", measured.due_ms, "ms")
            for size, measured in all_new.items()
        ),
    ]
    if plan.is_quick:
        return rows
    unlimited = {size: _run(plan, size, size, {"TRAIN_MAX_ANNOTATIONS": str(size)}) for size in UNLIMITED_SIZES}
    rows += _rows("all new, without the limit", unlimited, goal=None)
    with label_studio.running() as server:
        for size in COMPARED_SIZES:
            rows += _comparison_rows(server, size)
    return rows


def _rows(name: str, by_size: dict[int, Measured], goal: Goal | None = FLAT) -> list[Row]:
    first, last = by_size[min(by_size)], by_size[max(by_size)]
    sizes = f"{max(by_size):,} over {min(by_size):,} annotations"
    return [
        *(Row(f"{size:,} annotations, {name}", measured.seconds, "s") for size, measured in by_size.items()),
        *(Row(f"{size:,} annotations, {name}", measured.cpu_s, "s of CPU") for size, measured in by_size.items()),
        *(Row(f"{size:,} annotations, {name}", measured.memory_mb, "MB") for size, measured in by_size.items()),
        Row(f"seconds, {name}: {sizes}", last.seconds / first.seconds, "x", goal=goal),
        Row(f"seconds of CPU, {name}: {sizes}", last.cpu_s / first.cpu_s, "x", goal=goal),
        Row(f"memory, {name}: {sizes}", last.memory_mb / first.memory_mb, "x", goal=goal),
    ]


def _run(plan: Plan, size: int, new: int, variables: dict[str, str] | None = None) -> Measured:
    """Raises RuntimeError if the run does not finish."""
    with TemporaryDirectory(prefix="lorabel-bench-") as folder:
        _fill(Path(folder), size, new)
        environment = {
            **bare_environment(),
            **PATIENCE,
            **plan.variables,
            "DATA_DIR": folder,
            "MODEL_DUAL_ENCODER": f"local-dir:{MODEL_FOLDER}",
            "MODEL_SERVER_URL": "http://127.0.0.1:9",
            "LORA_TOWERS": "text",
            **(variables or {}),
        }
        command = [sys.executable, "-m", "benchmarks.timed_run", str(PROJECT)]
        answer = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True)
    figures: dict[str, Any] = json.loads(answer.stdout.splitlines()[-1])
    if figures["state"] != "finished" or not figures["learned"]:
        raise RuntimeError(f"the run with {size} annotations learned nothing: {figures}")
    return Measured(figures["seconds"], figures["cpu_s"], figures["memory_mb"], figures["due_ms"])


def _fill(folder: Path, size: int, new: int) -> None:
    """Make a database with a large project, and have it written to the disk."""
    store = Store.open(Settings(data_dir=folder))
    store.migrate()
    fill(store, size, new)
    store.close()
    os.sync()


def _comparison_rows(server: Server, size: int) -> list[Row]:
    """Compare a project with Label Studio: first all annotations, then after some were added."""
    with TemporaryDirectory(prefix="lorabel-bench-") as folder, server.client() as client:
        project_id = import_project(client, size)
        services = Services.open(Settings(data_dir=Path(folder)))
        services.store.migrate()
        projects.upsert(
            services.store,
            project_id,
            label_config=LABEL_CONFIG,
            label_studio_url=server.url,
            api_key=server.token,
        )
        full_s = _compare_s(services, project_id, f"{size} annotations were missing")
        _leave_out_the_import(services.store, project_id)
        body = {"result": result("Grade B"), "lead_time": 1.0}
        for task in client.tasks_after(LabelStudioId(project_id), 0, page_size=NEW).tasks:
            client.call("POST", f"/api/tasks/{task.task_id}/annotations/", json=body)
        later_s = _compare_s(services, project_id, f"what has changed in Label Studio: {NEW} annotations")
        services.close()
    return [
        Row(f"comparison of all {size:,} annotations with Label Studio", full_s, "s"),
        Row(f"comparison after {NEW} new of {size:,} annotations", later_s, "s"),
    ]


def _compare_s(services: Services, project_id: int, expected: str) -> float:
    """Raises RuntimeError if the comparison does not find what is expected."""
    began = time.perf_counter()
    sentence = reconcile(services, project_id)
    seconds = time.perf_counter() - began
    if expected not in sentence:
        raise RuntimeError(f"{sentence!r}, expected {expected!r}")
    return seconds


def _leave_out_the_import(store: Store, project_id: int) -> None:
    """Let the next comparison not read the import again. In a project that grew slowly few tasks are so new."""
    with store.write() as session:
        project = projects.get(session, project_id)
        assert project.compared_at is not None
        project.compared_at += OVERLAP
