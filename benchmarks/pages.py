"""How quickly the pages answer with many projects, versions, runs and annotations.

`python -m benchmarks.pages` fills an SQLite database; with `--database-url` an empty database of PostgreSQL. One
project has half of the annotations, and the others share the rest.
"""

import random
import statistics
import tempfile
import time
from argparse import ArgumentParser
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Any

from flask.testing import FlaskClient
from sqlalchemy import event, insert, text

from backend.app import create_app
from backend.services import EXTENSION
from lorabel.database.store import Store
from lorabel.database.tables import Annotation, ModelVersion, Project, RunState, TrainingRun, VersionState
from lorabel.settings import Settings

LABELS = tuple(f"label {number}" for number in range(20))
CONFIG = (
    '<View><Image name="image" value="$image"/><Choices name="kind" toName="image">'
    + "".join(f'<Choice value="{label}"/>' for label in LABELS)
    + "</Choices></View>"
)
ROWS_PER_TRANSACTION = 5000
REQUESTS = 40
PAGES = {
    "home": "/ui/",
    "home, page 3": "/ui/?page=3",
    "project": "/ui/projects/1",
    "project, page 2": "/ui/projects/1?page=2",
    "cell": "/ui/projects/1/cell?tag=kind&annotated=label+1&predicted=label+1",
    "version": "/ui/projects/1/versions/v40",
    "promote": "/ui/projects/1/versions/v40/promote",
    "runs": "/ui/runs",
    "runs, page 50": "/ui/runs?training=50",
    "runs of a project": "/ui/projects/1/runs",
    "run": "/ui/projects/1/training/40",
    "events": "/ui/events",
}


def main() -> None:
    """Fill a database, ask for each page, and print how long it took and how many queries it needed."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--database-url", help="an empty PostgreSQL database; default: SQLite")
    parser.add_argument("--projects", type=int, default=200)
    parser.add_argument("--versions", type=int, default=10_000)
    parser.add_argument("--annotations", type=int, default=100_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        app = create_app(Settings(data_dir=Path(folder), database_url=options.database_url))
        services = app.extensions[EXTENSION]
        began_at = time.perf_counter()
        fill(services.store, options.projects, options.versions, options.annotations)
        took_s = time.perf_counter() - began_at
        print(
            f"{options.projects} projects, {options.versions} versions and runs, {options.annotations} annotations"
        )
        print(f"in {services.store.engine.dialect.name}, filled in {took_s:.0f} s")
        services.vitals.checks.get(wait_s=600)
        print(f"{'page':20} {'p50 ms':>8} {'p95 ms':>8} {'CPU ms':>8} {'queries':>8}")
        for name, path in PAGES.items():
            seconds, cpu_seconds, queries = measure(services.store, app.test_client(), path)
            p50, p95, cpu = statistics.median(seconds), statistics.quantiles(seconds, n=20)[-1], min(cpu_seconds)
            print(f"{name:20} {1000 * p50:8.0f} {1000 * p95:8.0f} {1000 * cpu:8.0f} {queries:8}", flush=True)
        services.close()


def measure(store: Store, client: FlaskClient, path: str) -> tuple[list[float], list[float], int]:
    """The seconds of each request, the CPU seconds of its thread, and the number of queries of the last.

    The CPU time has what SQLite does, and not what a server of PostgreSQL does.
    """
    count = 0

    def on_query(*_: Any) -> None:
        nonlocal count
        count += 1

    event.listen(store.engine, "before_cursor_execute", on_query)
    seconds, cpu_seconds = [], []
    for _ in range(REQUESTS):
        count, began_at, cpu_at = 0, time.perf_counter(), time.thread_time()
        status = client.get(path).status_code
        cpu_seconds.append(time.thread_time() - cpu_at)
        seconds.append(time.perf_counter() - began_at)
        if status != 200:
            raise SystemExit(f"{path} answers {status}")
    event.remove(store.engine, "before_cursor_execute", on_query)
    return seconds, cpu_seconds, count


def fill(store: Store, projects: int, versions: int, annotations: int) -> None:
    """Insert the rows. The first project has half of the annotations."""
    live = versions // projects
    with store.write() as session:
        session.execute(
            insert(Project),
            [{"id": n, "label_config": CONFIG, "live_number": live} for n in range(1, projects + 1)],
        )
        session.execute(insert(TrainingRun), list(_runs(projects, versions)))
        session.execute(insert(ModelVersion), list(_versions(projects, versions)))
    rows = _annotations(projects, annotations)
    for _ in range(0, annotations, ROWS_PER_TRANSACTION):
        with store.write() as session:
            session.execute(insert(Annotation), list(islice(rows, ROWS_PER_TRANSACTION)))
    with store.write() as session:
        session.execute(text("ANALYZE"))


def _runs(projects: int, versions: int) -> Iterator[dict[str, Any]]:
    begun = datetime.now(UTC) - timedelta(minutes=versions)
    for number in range(versions):
        at = begun + timedelta(minutes=number)
        # The first runs of all are those of project 1, so that the benchmark knows the ids.
        yield {
            "id": number + 1,
            "project_id": number // (versions // projects) + 1,
            "state": RunState.FINISHED,
            "reason": "40 new annotations",
            "decision": "kind: accuracy 0.900 is better than live's 0.880 on 50 held-out tasks",
            "metrics": {"skipped": {}, "left_out": {}},
            "annotation_ids": list(range(400)),
            "losses": {"kind": [[step, 1 / (step + 1)] for step in range(200)]},
            "created_at": at,
            "started_at": at,
            "finished_at": at,
        }


def _versions(projects: int, versions: int) -> Iterator[dict[str, Any]]:
    for number in range(versions):
        of_project = number % (versions // projects) + 1
        scores = {
            "tasks": 50,
            "accuracy": 0.5 + 0.4 * of_project * projects / versions,
            "per_class": {label: {"precision": 0.9, "recall": 0.9, "f1": 0.9, "support": 10} for label in LABELS},
            "labels": list(LABELS),
            "confusion": [[1] * len(LABELS) for _ in LABELS],
        }
        yield {
            "project_id": number // (versions // projects) + 1,
            "number": of_project,
            "parent": of_project - 1,
            "state": VersionState.LIVE if of_project == versions // projects else VersionState.RETIRED,
            "base_models": {"kind": "hf-hub:base"},
            "adapters": {"kind": "p1.v1/kind"},
            "metrics": {"candidate": {"kind": scores}, "live": {"kind": scores}, "primary": {"kind": "accuracy"}},
            "trained_on": list(range(400)),
            "run_id": number + 1,
        }


def _annotations(projects: int, annotations: int) -> Iterator[dict[str, Any]]:
    draw = random.Random(0)
    begun = datetime.now(UTC) - timedelta(seconds=30 * annotations)
    for number in range(annotations):
        truth, guess = draw.choice(LABELS), draw.choice(LABELS)
        guess = truth if draw.random() < 0.9 else guess
        at = begun + timedelta(seconds=30 * number)
        yield {
            "project_id": 1 if number % 2 else number // 2 % projects + 1,
            "id": number + 1,
            "task_id": number + 1,
            "task_data": {"image": f"http://pictures.test/{number}.jpg"},
            "result": _result(truth),
            "lead_time_s": 5.0,
            "prediction_id": number,
            "prediction_version": f"p1.v{number % 50}.h{number % 500}",
            "prediction_result": _result(guess),
            "is_accepted": truth == guess,
            "updated_at": at,
            "received_at": at,
            "run_id": 1 if number < annotations - 2000 else None,
        }


def _result(label: str) -> list[dict[str, Any]]:
    return [{"from_name": "kind", "to_name": "image", "type": "choices", "value": {"choices": [label]}}]


if __name__ == "__main__":
    main()
