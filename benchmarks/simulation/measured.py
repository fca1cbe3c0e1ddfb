"""Measures on this machine what no other benchmark does: PostgreSQL, Redis and the workers, an event at a time.

CPU times are taken, of this process and of the servers' processes, so other work on the machine does not matter
much. PostgreSQL waits for the disk, as by default. The database has `projects` projects with some new annotations
each; the project whose heads are fitted has ANNOTATED tasks. The model server and Label Studio are fakes
(`fake_services.py`).
"""

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from sqlalchemy import insert, text

from backend.event_writer import EventWriter
from backend.live_projects import LiveProjects
from benchmarks.costs import cpu_seconds
from benchmarks.simulation import fake_services, pgbench
from lorabel.database import projects as project_rows
from lorabel.database.jobs import LOOKAHEAD, Jobs
from lorabel.database.project_keys import LabelStudioId, ProjectKey
from lorabel.database.store import Store
from lorabel.database.tables import Annotation, Event, EventState, Project
from lorabel.settings import Settings
from model_server.adapter_order import preferred
from tests.e2e.processes import descendants
from tests.lorabel.fake_label_studio import PERSONAL_TOKEN
from tests.servers import postgres_server, redis_server
from tests.workers.events import annotation, recorded
from workers import collect, lookahead
from workers.head_fitting import HeadFitter
from workers.services import Services
from workers.worker import ThreadWorker, make_worker

CONFIG: str = recorded("image-choices/02-connect-setup.json")["schema"]
LABELS = ("red", "blue")
NEW_ANNOTATIONS = 2
REPLICAS = 100
ANNOTATED = 200
# How often `_fit` looks for what is due.
LOOKS = 4
PGBENCH_S = 5
# Events that are applied at a time.
WAITING = 10


class Spent(NamedTuple):
    """CPU seconds of one action: of this process, of PostgreSQL's and of Redis's; and how long it took."""

    own_s: float
    postgres_s: float
    redis_s: float
    clock_s: float


def measure(projects: int, times: int = 1000) -> tuple[dict[str, float], dict[str, float]]:
    """Seconds by the names of `Costs`; and other figures: of a choice of a replica, and rates of PostgreSQL.

    Args:
        projects: rows in the database.
        times: how often quick actions are measured; long ones fewer times.
    """
    with _services(projects) as services:
        store, settings = services.store, services.settings
        others = {"a choice of a replica, s": _decision_s(times)}
        costs = _lookups(store, settings, times) | _events(services, times) | _due_runs(services, times)
        costs |= _heads(services, times // 20) | _ahead(services, times // 20) | _redis(settings, times)
        rates = pgbench.rates(settings.database, projects, PGBENCH_S)
        others |= {f"{name}, a second": rate for name, rate in rates.items()}
    return costs, others


@contextmanager
def _services(projects: int) -> Iterator[Services]:
    """With servers, and a database that is filled. Jobs find them by the environment."""
    with postgres_server(is_durable=True) as postgres, redis_server() as redis, fake_services.running() as fakes:
        model_server, label_studio = fakes
        addresses = {
            "DATABASE_URL": postgres.url(),
            "REDIS_URL": redis.url(),
            "MODEL_SERVER_URL": model_server,
            "LABEL_STUDIO_REQUESTS_PER_SECOND": "1000000",
        }
        os.environ.update(addresses)
        services = Services.current()
        services.store.migrate()
        _fill(services.store, projects)
        project_rows.upsert(services.store, 1, label_studio_url=label_studio, api_key=PERSONAL_TOKEN)
        yield services
        services.close()


def _fill(store: Store, projects: int) -> None:
    at = datetime.now(UTC)
    ids = range(1, projects + 1)
    configs = {"label_config": CONFIG, "head_config": CONFIG}
    rows = [{"id": i, "label_studio_id": i, "updated_at": at, **configs} for i in ids]
    annotations = [
        {"project_id": i, "id": 10**6 + n, "task_id": n, "result": [], "updated_at": at, "received_at": at}
        for i in ids
        for n in range(NEW_ANNOTATIONS)
    ]
    with store.write() as session:
        session.execute(insert(Project), rows)
        session.execute(insert(Annotation), annotations)
    with store.write() as session:
        session.execute(text("ANALYZE"))


def _lookups(store: Store, settings: Settings, times: int) -> dict[str, float]:
    live, key = LiveProjects(store, settings), ProjectKey(LabelStudioId(1))
    live.get(key, CONFIG)
    kept = _spent(lambda: live.get(key, CONFIG), times)
    loaded = _spent(lambda: LiveProjects(store, settings).get(key, CONFIG), times // 4)

    def set_up() -> None:
        project = project_rows.resolve(store, key)
        project_rows.upsert(store, project.id, label_config=CONFIG, is_deleted=False)

    return {
        "postgres_lookup_s": kept.postgres_s,
        "postgres_load_s": max(0.0, loaded.postgres_s - kept.postgres_s),
        "backend_load_s": max(0.0, loaded.own_s - kept.own_s),
        "postgres_setup_s": _spent(set_up, times).postgres_s,
    }


def _events(services: Services, times: int) -> dict[str, float]:
    """Each event is of another project, so that each is applied in a transaction of its own.

    Few wait at a time: to find the events of a project among thousands takes longer.
    """
    store, numbers = services.store, iter(range(2, 10**9))
    hasty = Store(f"{services.settings.database}?options=-csynchronous_commit%3Doff")

    def put(into: Store, writer: EventWriter) -> None:
        number = next(numbers)
        with into.look_up() as session:
            project_rows.find(session, ProjectKey(LabelStudioId(number)))
        writer.put(_event(number, number, LABELS[number % 2]))

    written = _spent(partial(put, store, EventWriter(store)), times)
    unsafe = _spent(partial(put, hasty, EventWriter(hasty)), times)
    hasty.close()
    collect.apply_pending(store)
    applied = []
    for _ in range(times // WAITING):
        for _ in range(WAITING):
            put(store, EventWriter(store))
        applied.append(_spent(lambda: collect.apply_pending(store), 1))
    count = WAITING * len(applied)
    return {
        "postgres_event_s": written.postgres_s,
        "flush_s": max(0.0, written.clock_s - unsafe.clock_s),
        "apply_s": sum(each.own_s for each in applied) / count,
        "postgres_apply_s": sum(each.postgres_s for each in applied) / count,
    }


def _event(project_id: int, number: int, label: str) -> Event:
    body = annotation(number, number, label, number)
    body["task"]["data"] = {"image": f"http://pictures.test/{label}{number}.png"}
    columns = {"action": body["action"], "project_id": project_id, "state": EventState.PENDING}
    return Event(payload=json.dumps(body), **columns)


def _due_runs(services: Services, times: int) -> dict[str, float]:
    ids = iter(range(2, 10**9))
    spent = _spent(lambda: collect.start_due_runs(services, {next(ids)}), times // 4)
    return {"due_runs_s": spent.own_s, "postgres_due_s": spent.postgres_s}


def _heads(services: Services, times: int) -> dict[str, float]:
    """After each annotation of project 1, which has ANNOTATED before."""
    store, fitter, numbers = services.store, HeadFitter(services), iter(range(1, 10**9))
    writer = EventWriter(store)

    def annotate(count: int) -> None:
        for _ in range(count):
            number = next(numbers)
            writer.put(_event(1, number, LABELS[number % 2]))
        collect.apply_pending(store)

    with store.write() as session:  # heads of the other projects are not due
        session.execute(text("UPDATE project SET head_revision = annotation_revision, head_config = label_config"))
    annotate(ANNOTATED)
    _fit(fitter)
    spent = [_spent_on(lambda: annotate(1), lambda: _fit(fitter)) for _ in range(times)]
    looked = _spent(fitter.fit_due, 10 * times)
    return {
        "fit_s": sum(each.own_s for each in spent) / times,
        # What is due is looked for meanwhile, which is a cost of its own.
        "postgres_fit_s": max(0.0, sum(each.postgres_s for each in spent) / times - LOOKS * looked.postgres_s),
        "postgres_look_s": looked.postgres_s,
    }


def _fit(fitter: HeadFitter) -> None:
    wanted = fitter.services.heads_wanted
    wanted.set()
    while wanted.is_set():
        wanted.clear()
        if fitter.fit_due():
            fitter.requests.join()


def _ahead(services: Services, times: int) -> dict[str, float]:
    """A job that predicts, and what RQ needs for it: jobs of unknown projects do nothing else."""
    after = iter(range(0, 10**9, services.settings.ahead_tasks))
    predicted = _spent(lambda: lookahead.predict_ahead(services, 1, next(after), None), times)
    jobs = Jobs(services.settings)
    for number in range(times):
        jobs.look_ahead(10**8 + number)
    worker = make_worker(LOOKAHEAD, jobs.redis, ThreadWorker)
    done = _spent(lambda: worker.work(burst=True, logging_level="WARNING"), 1)
    jobs.redis.close()
    return {
        "lookahead_s": predicted.own_s + done.own_s / times,
        "postgres_ahead_s": predicted.postgres_s,
    }


def _redis(settings: Settings, times: int) -> dict[str, float]:
    jobs, numbers = Jobs(settings), iter(range(1, 10**9))
    spent = _spent(lambda: jobs.look_ahead(next(numbers)), times)
    jobs.redis.close()
    return {"redis_enqueue_s": spent.redis_s}


def _decision_s(times: int) -> float:
    ongoing = {f"{number:08x}": 3 for number in range(REPLICAS)}
    keys = iter(f"p{number % 50}.v1/label" for number in range(10**9))
    return _spent(lambda: preferred(next(keys), ongoing), times).own_s


def _spent_on(prepare: Callable[[], Any], action: Callable[[], Any]) -> Spent:
    prepare()
    return _spent(action, 1)


def _spent(action: Callable[[], Any], times: int) -> Spent:
    """What one of so many actions takes."""
    before, own_before_s, began_s = _of_servers(), time.process_time(), time.monotonic()
    for _ in range(times):
        action()
    clock_s, own_s, after = time.monotonic() - began_s, time.process_time() - own_before_s, _of_servers()
    servers = [(after[name] - before[name]) / times for name in ("postgres", "redis-server")]
    return Spent(own_s / times, servers[0], servers[1], clock_s / times)


def _of_servers() -> dict[str, float]:
    """Of all that serve clients. Vacuuming follows at its own time, and is left out."""
    spent = {"postgres": 0.0, "redis-server": 0.0}
    for pid in descendants(os.getpid()):
        with suppress(FileNotFoundError, ProcessLookupError):  # it has ended
            command = Path(f"/proc/{pid}/cmdline").read_text(errors="replace")
            for name in spent:
                if name in command and "autovacuum" not in command:
                    spent[name] += cpu_seconds(pid)
                    break
    return spent
