"""Measures on this machine what no other benchmark does: PostgreSQL and Redis, a request and an event at a time.

CPU times are taken, of this process's thread and of the servers' processes, so other work on the machine does not
matter much. The database has `projects` projects with some new annotations each.
"""

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import insert

from backend.event_writer import EventWriter
from backend.live_projects import LiveProjects
from benchmarks.costs import cpu_seconds
from lorabel.database import training_runs
from lorabel.database.jobs import Jobs
from lorabel.database.project_keys import LabelStudioId, ProjectKey
from lorabel.database.store import Store
from lorabel.database.tables import Annotation, Event, EventState, Project
from lorabel.settings import Settings
from model_server.adapter_order import preferred
from tests.e2e.processes import descendants
from tests.servers import postgres_server, redis_server
from tests.workers.events import annotation, recorded
from workers.collect import apply_pending

CONFIG: str = recorded("image-choices/02-connect-setup.json")["schema"]
NEW_ANNOTATIONS = 2
REPLICAS = 100


def measure(projects: int, times: int = 300) -> dict[str, float]:
    """Seconds by the names of `Costs`.

    And `due_runs_of_all_s`, a look for due runs in all projects, and `decision_s`, a choice of a replica.
    """
    with _servers() as settings:
        store = Store.open(settings)
        store.migrate()
        _fill(store, projects)
        measured = {"decision_s": _decision_s(times)}
        measured |= _lookups(store, settings, times)
        measured |= _events(store, times)
        ids = {1}
        measured["due_runs_s"], _ = _cpu_s(lambda: training_runs.request_due(store, settings, ids), 20)
        measured["due_runs_of_all_s"], _ = _cpu_s(lambda: training_runs.request_due(store, settings), 1)
        jobs, numbers = Jobs(settings), iter(range(1, 10**9))
        _, spent = _cpu_s(lambda: jobs.look_ahead(next(numbers)), times)
        measured["redis_enqueue_s"] = spent["redis-server"]
        store.close()
    return measured


@contextmanager
def _servers() -> Iterator[Settings]:
    with postgres_server() as postgres, redis_server() as redis:
        yield Settings(database_url=postgres.url(), redis_url=redis.url())


def _fill(store: Store, projects: int) -> None:
    at = datetime.now(UTC)
    rows = [{"id": i, "label_studio_id": i, "label_config": CONFIG} for i in range(1, projects + 1)]
    annotations = [
        {"project_id": i, "id": 10**6 + n, "task_id": n, "result": [], "updated_at": at, "received_at": at}
        for i in range(1, projects + 1)
        for n in range(NEW_ANNOTATIONS)
    ]
    with store.write() as session:
        session.execute(insert(Project), rows)
        session.execute(insert(Annotation), annotations)


def _lookups(store: Store, settings: Settings, times: int) -> dict[str, float]:
    live, key = LiveProjects(store, settings), ProjectKey(LabelStudioId(1))
    live.get(key, CONFIG)
    kept_s, kept = _cpu_s(lambda: live.get(key, CONFIG), times)
    new_s, new = _cpu_s(lambda: LiveProjects(store, settings).get(key, CONFIG), times)
    return {
        "postgres_lookup_s": kept["postgres"],
        "postgres_load_s": max(0.0, new["postgres"] - kept["postgres"]),
        "backend_load_s": max(0.0, new_s - kept_s),
    }


def _events(store: Store, times: int) -> dict[str, float]:
    writer, numbers = EventWriter(store), iter(range(1, 10**9))

    def put() -> None:
        number = next(numbers)
        payload = json.dumps(annotation(number, number, "red", number))
        writer.put(
            Event(
                action="ANNOTATION_CREATED", project_id=number % 50 + 1, payload=payload, state=EventState.PENDING
            )
        )

    _, written = _cpu_s(put, times)
    apply_s, applied = _cpu_s(lambda: apply_pending(store), 1)
    return {
        "postgres_event_s": written["postgres"],
        "apply_s": apply_s / times,
        "postgres_apply_s": applied["postgres"] / times,
    }


def _decision_s(times: int) -> float:
    ongoing = {f"{number:08x}": 3 for number in range(REPLICAS)}
    keys = iter(f"p{number % 50}.v1/label" for number in range(10**9))
    return _cpu_s(lambda: preferred(next(keys), ongoing), times)[0]


def _cpu_s(action: Callable[[], Any], times: int) -> tuple[float, dict[str, float]]:
    """CPU seconds of one of so many actions: of this thread, and of the servers by program."""
    before, began_s = _of_servers(), time.thread_time()
    for _ in range(times):
        action()
    own_s, after = time.thread_time() - began_s, _of_servers()
    return own_s / times, {name: (after[name] - before.get(name, 0.0)) / times for name in after}


def _of_servers() -> dict[str, float]:
    spent = {"postgres": 0.0, "redis-server": 0.0}
    for pid in descendants(os.getpid()):
        command = Path(f"/proc/{pid}/cmdline").read_text(errors="replace")
        for name in spent:
            if name in command:
                spent[name] += cpu_seconds(pid)
                break
    return spent
