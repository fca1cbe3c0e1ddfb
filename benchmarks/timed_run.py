"""Does a training run in a process of its own, as the training worker does, and prints what it took.

python -m benchmarks.timed_run 1      requests and does a run of project 1; the environment has the settings

The output is JSON: {"seconds": 3.2, "cpu_s": 2.9, "memory_mb": 812.0, "due_ms": 1.9, "state": "finished", ...}
"""

import json
import sys
import time
from pathlib import Path

from lorabel.database import training_runs
from lorabel.families.loading import families_named
from workers.finetune import finetune
from workers.services import Services


def main(project_id: int) -> None:
    """`memory_mb` is the highest memory of the process during the run (RSS), base model and libraries included."""
    services = Services.current()
    services.store.migrate()
    for family_type in families_named(services.settings):
        services.family(family_type)  # loaded by the first run, and kept
    began = time.perf_counter()
    training_runs.request_due(services.store, services.settings)
    due_ms = (time.perf_counter() - began) * 1000
    run = training_runs.request(services.store, project_id, "benchmark")
    _forget_highest_memory()
    began, cpu_began = time.perf_counter(), time.process_time()
    finetune(run.id)
    seconds, cpu_s = time.perf_counter() - began, time.process_time() - cpu_began
    with services.store.read() as session:
        run = training_runs.get(session, project_id, run.id)
    figures = {
        "seconds": seconds,
        "cpu_s": cpu_s,
        "memory_mb": _highest_memory_mb(),
        "due_ms": due_ms,
        "state": run.state,
        "error": run.error,
        "learned": len(run.annotation_ids or []),
    }
    print(json.dumps(figures))


def _forget_highest_memory() -> None:
    """Loading the libraries takes more memory for a moment than a small run."""
    Path("/proc/self/clear_refs").write_text("5")


def _highest_memory_mb() -> float:
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["VmHWM"].split()[0]) / 1024


if __name__ == "__main__":
    main(int(sys.argv[1]))
