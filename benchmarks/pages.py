"""How quickly the pages answer with many projects, versions, runs and annotations.

`python -m benchmarks.pages` fills an SQLite database; with `--database-url` an empty database of PostgreSQL. One
project has half of the annotations, and the others share the rest.
"""

import statistics
import tempfile
import time
from argparse import ArgumentParser
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from flask.testing import FlaskClient
from sqlalchemy import event, insert, select, text

from backend.app import create_app
from backend.services import EXTENSION
from lorabel.database.store import Store
from lorabel.database.tables import ModelVersion, Project, RunState, TaskOutcome, TrainingRun, VersionState
from lorabel.settings import Settings

LABELS = tuple(f"label {number}" for number in range(20))
CONFIG = (
    '<View><Image name="image" value="$image"/><Choices name="kind" toName="image">'
    + "".join(f'<Choice value="{label}"/>' for label in LABELS)
    + "</Choices></View>"
)
# Each annotation takes one of the labels by its number; of ten predictions one has another label. An annotation
# arrives every 30 seconds, the last one now. Some tasks of the first project have two. The newest 2000 are new.
ANNOTATIONS = """
WITH RECURSIVE series(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM series WHERE n < :annotations),
drawn AS (
    SELECT n, n / 3 % 20 AS truth, CASE WHEN n % 10 = 0 THEN n / 7 % 20 ELSE n / 3 % 20 END AS guess
    FROM series
)
INSERT INTO annotation (
    project_id, id, task_id, task_data, result, lead_time_s, prediction_id, prediction_version, prediction_result,
    is_accepted, updated_at, received_at, run_id, was_cancelled, ground_truth, is_deleted, tries, times_applied
)
SELECT
    CASE WHEN n % 2 = 1 THEN 1 ELSE n / 2 % :projects + 1 END, n, CASE WHEN n % 100 = 1 THEN n + 2 ELSE n END,
    {json}('{{"image": "http://pictures.test/' || n || '.jpg"}}'{as_json}),
    {json}('[{{"from_name": "kind", "to_name": "image", "type": "choices", "value": {{"choices": ["label '
        || truth || '"]}}}}]'{as_json}),
    5.0, n, 'p1.v' || n % 50 || '.h' || n % 500,
    {json}('[{{"from_name": "kind", "to_name": "image", "type": "choices", "value": {{"choices": ["label '
        || guess || '"]}}}}]'{as_json}),
    truth = guess, {at}, {at}, CASE WHEN n < :annotations - 2000 THEN 1 END, FALSE, FALSE, FALSE, 0, 0
FROM drawn
"""
POSTGRESQL = {
    "json": "CAST",
    "as_json": " AS JSON",
    "at": "now() - (:annotations - n) * interval '30 seconds'",
}
SQLITE = {
    "json": "",
    "as_json": "",
    "at": "strftime('%Y-%m-%d %H:%M:%f000', 'now', (30 * (n - :annotations)) || ' seconds')",
}
REQUESTS = 40
PAGES = {
    "home": "/ui/",
    "home, page 3": "/ui/?page=3",
    "project": "/ui/projects/1",
    "project, page 2": "/ui/projects/1?page=2",
    "cell": "/ui/projects/1/cell?tag=kind&annotated=label+1&predicted=label+1",
    "tasks": "/ui/projects/1/tasks",
    "tasks, corrected": "/ui/projects/1/tasks?show=model",
    "tasks, contradicted": "/ui/projects/1/tasks?show=annotators",
    "accept": "/ui/projects/1/accept",
    "version": "/ui/projects/1/versions/v40",
    "side by side": "/ui/projects/1/versions/v40/compare",
    "side by side, far": "/ui/projects/1/versions/v40/compare?with=v5&show=better",
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
    """Insert the rows. The first project has half of the annotations.

    The rows of the first project are written here; the database copies them, and makes the annotations.
    """
    per_project = versions // projects
    with store.write() as session:
        session.execute(
            insert(Project),
            [{"id": n, "label_config": CONFIG, "live_number": per_project} for n in range(1, projects + 1)],
        )
        numbers = range(1, per_project + 1)
        session.execute(insert(TrainingRun), [_run(number) for number in numbers])
        session.execute(insert(ModelVersion), [_version(number, per_project) for number in numbers])
        for number in numbers:
            session.execute(insert(TaskOutcome), _outcomes(number))
    for table in (TrainingRun, ModelVersion):
        with store.write() as session:
            session.execute(_copy_to_other_projects(table, per_project))
    with store.write() as session:
        session.execute(_outcomes_of_other_projects())
    with store.write() as session:
        rows = ANNOTATIONS.format(**(SQLITE if store.is_sqlite else POSTGRESQL))
        session.execute(text(rows), {"annotations": annotations, "projects": projects})
    with store.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql("ANALYZE" if store.is_sqlite else "VACUUM ANALYZE")


def _copy_to_other_projects(table: type[TrainingRun | ModelVersion], per_project: int) -> Any:
    """Statement that gives every other project the rows of the first, with ids of their own."""
    offset = (Project.id - 1) * per_project
    names = [column.name for column in table.__table__.columns]
    changed: dict[str, Any] = {"id": table.id + offset, "project_id": Project.id}
    if table is ModelVersion:
        changed["run_id"] = ModelVersion.run_id + offset
    rows = select(*(changed.get(name, table.__table__.c[name]) for name in names)).join(Project, Project.id > 1)
    return insert(table).from_select(names, rows.where(table.project_id == 1))


def _outcomes_of_other_projects() -> Any:
    """Statement that gives every other project a tenth of the outcomes of the first."""
    table = TaskOutcome.__table__
    names = [column.name for column in table.columns]
    rows = select(*(Project.id if name == "project_id" else table.c[name] for name in names))
    rows = rows.join(Project, Project.id > 1).where(TaskOutcome.project_id == 1, TaskOutcome.task_id % 20 == 1)
    return insert(TaskOutcome).from_select(names, rows)


def _outcomes(number: int) -> list[dict[str, Any]]:
    """What a version answered to 500 tasks; to each seventh something else than its parent."""
    return [
        {
            "project_id": 1,
            "number": number,
            "from_name": "kind",
            "task_id": 2 * place + 1,
            "value": float((place + number) % 7 != 0),
            "live_value": float((place + number - 1) % 7 != 0),
            "result": _answer(place),
            "live_result": _answer(place + 1),
        }
        for place in range(500)
    ]


def _answer(place: int) -> list[dict[str, Any]]:
    value = {"choices": [LABELS[place % len(LABELS)]]}
    return [{"from_name": "kind", "to_name": "image", "type": "choices", "value": value}]


def _run(number: int) -> dict[str, Any]:
    at = datetime.now(UTC) - timedelta(hours=1000 - number)
    return {
        "id": number,
        "project_id": 1,
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


def _version(number: int, newest: int) -> dict[str, Any]:
    scores = {
        "tasks": 50,
        "accuracy": 0.5 + 0.4 * number / newest,
        "per_class": {label: {"precision": 0.9, "recall": 0.9, "f1": 0.9, "support": 10} for label in LABELS},
        "labels": list(LABELS),
        "confusion": [[1] * len(LABELS) for _ in LABELS],
    }
    return {
        "id": number,
        "project_id": 1,
        "number": number,
        "parent": number - 1,
        "state": VersionState.LIVE if number == newest else VersionState.RETIRED,
        "base_models": {"kind": "hf-hub:base"},
        "adapters": {"kind": "p1.v1/kind"},
        "metrics": {"candidate": {"kind": scores}, "live": {"kind": scores}, "primary": {"kind": "accuracy"}},
        "trained_on": list(range(400)),
        "run_id": number,
    }


if __name__ == "__main__":
    main()
