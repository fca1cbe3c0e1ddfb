"""How quickly the pages answer with many projects, versions, runs and annotations, and which queries they ask.

`python -m benchmarks.pages` fills an SQLite database; with `--database-url` an empty database of PostgreSQL. One
project has half of the annotations, and the others share the rest. There is no model server: the page of a task
shows all but the explanation. `--queries` lists the statements of each page, too.
"""

import re
import statistics
import tempfile
import threading
import time
from argparse import ArgumentParser
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import event

from backend.app import create_app
from backend.services import EXTENSION
from benchmarks.page_rows import fill
from lorabel.database.store import Store
from lorabel.settings import Settings
from lorabel.startup import garbage_collector_paused

REQUESTS = 40
LONGEST_STATEMENT = 220
P1 = "/ui/projects/1"
PAGES: Mapping[str, str] = MappingProxyType(
    {
        "home": "/ui/",
        "home, page 3": "/ui/?page=3",
        "project": P1,
        "project, page 2": f"{P1}?page=2",
        "project, groups": f"{P1}?group=country",
        "cell": f"{P1}/cell?tag=kind&annotated=label+1&predicted=label+1",
        "tasks": f"{P1}/tasks",
        "tasks, alike": f"{P1}/tasks?like=1",
        "tasks, corrected": f"{P1}/tasks?show=model",
        "tasks, contradicted": f"{P1}/tasks?show=annotators",
        "tasks, label errors": f"{P1}/tasks?show=errors",
        "task": f"{P1}/tasks/5",
        "accept": f"{P1}/accept",
        "accept, question": f"{P1}/accept/write?precision=0.98",
        "accept, undo": f"{P1}/accept/1/undo",
        "rules": f"{P1}/rules",
        "forget": f"{P1}/forget",
        "forget, a task": f"{P1}/forget?kind=task&id=5",
        "forget, an annotator": f"{P1}/forget?kind=annotator&id=1",
        "forget, the project": f"{P1}/forget?kind=project",
        "version": f"{P1}/versions/v40",
        "base models": f"{P1}/versions/v0",
        "side by side": f"{P1}/versions/v40/compare",
        "side by side, far": f"{P1}/versions/v40/compare?with=v5&show=better",
        "promote": f"{P1}/versions/v40/promote",
        "roll back": f"{P1}/rollback",
        "train": f"{P1}/train",
        "runs": "/ui/runs",
        "runs, page 50": "/ui/runs?training=50&bulk=50",
        "runs of a project": f"{P1}/runs",
        "training run": f"{P1}/training/40",
        "bulk run": f"{P1}/bulk/40",
        "events": "/ui/events",
        "connect": "/ui/connect",
        "label config": "/ui/label-config",
    }
)
# Which of the routes of pages need something that is not there.
UNASKED: Mapping[str, str] = MappingProxyType(
    {
        "pages.static": "a file",
        "pages.refuse": "no page",
        "pages.stream_forget_plan": "waits until the plan is there, so that one process makes it",
        "pages.show_thumbnail": "fetches a picture",
        "pages.show_picture": "fetches a picture",
        "pages.cancel_training": "needs a run that goes on",
        "pages.cancel_bulk": "needs a run that goes on",
        "pages.connect.stream_findings": "needs a Label Studio",
        "pages.connect.show_connecting": "needs a Label Studio",
    }
)


@dataclass(frozen=True)
class Query:
    """A statement of a page, shortened, and how long the database took for it in the last request."""

    statement: str
    seconds: float


@dataclass(frozen=True)
class Measurement:
    """Of each request the seconds, and the CPU seconds of its thread; the queries of the last.

    The CPU time has what SQLite does, and not what a server of PostgreSQL does.
    """

    seconds: Sequence[float]
    cpu_seconds: Sequence[float]
    queries: Sequence[Query]

    @property
    def row(self) -> str:
        """The figures of a line of the table."""
        p50, p95 = statistics.median(self.seconds), statistics.quantiles(self.seconds, n=20)[-1]
        times = (self.seconds[0], p50, p95, min(self.cpu_seconds))
        return " ".join(f"{1000 * value:8.0f}" for value in times) + f" {len(self.queries):8}"


def main() -> None:
    """Fill a database, ask for each page, and print how long it took and how many queries it needed."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--database-url", help="an empty PostgreSQL database; default: SQLite")
    parser.add_argument("--projects", type=int, default=200)
    parser.add_argument("--versions", type=int, default=10_000)
    parser.add_argument("--annotations", type=int, default=100_000)
    parser.add_argument("--queries", action="store_true", help="list the statements of each page, too")
    parser.add_argument("--only", nargs="*", choices=PAGES, help="pages to ask for; default: all")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        # Nobody listens there, and the system says so at once.
        settings = Settings(
            data_dir=Path(folder), database_url=options.database_url, model_server_url="http://127.0.0.1:9"
        )
        with garbage_collector_paused():  # as backend/wsgi.py does, else a full collection delays pages by 0.2 s
            app = create_app(settings)
        services = app.extensions[EXTENSION]
        if left_out := unasked(app):
            raise SystemExit(f"no page asks for {', '.join(sorted(left_out))}")
        began_at = time.perf_counter()
        fill(services.store, options.projects, options.versions, options.annotations)
        took_s = time.perf_counter() - began_at
        print(
            f"{options.projects} projects, {options.versions} versions and runs, {options.annotations} annotations"
        )
        print(f"in {services.store.engine.dialect.name}, filled in {took_s:.0f} s")
        services.vitals.checks.get(wait_s=600)
        print(f"{'page':20} {'first ms':>8} {'p50 ms':>8} {'p95 ms':>8} {'CPU ms':>8} {'queries':>8}")
        measurements = {}
        for name in options.only or PAGES:
            measurements[name] = measure(services.store, app.test_client(), PAGES[name])
            print(f"{name:20} {measurements[name].row}", flush=True)
        if options.queries:
            print_queries(measurements)
        services.close()


def unasked(app: Flask) -> set[str]:
    """The routes of pages that PAGES does not ask for, and UNASKED has no reason for."""
    rules = [rule for rule in app.url_map.iter_rules() if rule.rule.startswith("/ui")]
    pages = {rule.endpoint for rule in rules if "GET" in (rule.methods or ())}
    adapter = app.url_map.bind("localhost")
    return pages - UNASKED.keys() - {adapter.match(path.partition("?")[0])[0] for path in PAGES.values()}


def measure(store: Store, client: FlaskClient, path: str) -> Measurement:
    """Ask for a page REQUESTS times. Raises SystemExit if it does not answer."""
    queries: list[Query] = []
    began: list[float] = []

    asking = threading.get_ident()

    def before(*_: Any) -> None:
        if threading.get_ident() == asking:  # what is counted in the background is no part of a page
            began.append(time.perf_counter())

    def after(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if threading.get_ident() == asking:
            queries.append(Query(shortened(statement), time.perf_counter() - began.pop()))

    event.listen(store.engine, "before_cursor_execute", before)
    event.listen(store.engine, "after_cursor_execute", after)
    seconds, cpu_seconds = [], []
    for _ in range(REQUESTS):
        queries.clear()
        began_at, cpu_at = time.perf_counter(), time.thread_time()
        status = client.get(path).status_code
        cpu_seconds.append(time.thread_time() - cpu_at)
        seconds.append(time.perf_counter() - began_at)
        if status != 200:
            raise SystemExit(f"{path} answers {status}")
    event.remove(store.engine, "before_cursor_execute", before)
    event.remove(store.engine, "after_cursor_execute", after)
    return Measurement(seconds, cpu_seconds, list(queries))


def shortened(statement: str) -> str:
    """A statement without its lists of columns and parameters."""
    short = " ".join(re.sub(r"SELECT\s.*?\sFROM\s", "SELECT … FROM ", statement, flags=re.DOTALL).split())
    short = re.sub(r"%\(\w+\)s(::[A-Z]+( WITH TIME ZONE)?)?", "?", short)
    short = re.sub(r"\(\?(, \?)+\)", "(?, …)", short)
    return short if len(short) <= LONGEST_STATEMENT else f"{short[: LONGEST_STATEMENT - 1]}…"


def print_queries(measurements: Mapping[str, Measurement]) -> None:
    """Print each statement once with a number, and for each page the numbers and how long each took."""
    numbers: dict[str, int] = {}
    print()
    for name, measured in measurements.items():
        listed = []
        for query in measured.queries:
            number = numbers.setdefault(query.statement, len(numbers) + 1)
            listed.append(f"{number} ({1000 * query.seconds:.1f} ms)")
        print(f"{name}: {', '.join(listed) or 'none'}")
    print()
    for statement, number in numbers.items():
        print(f"{number}. {statement}")


if __name__ == "__main__":
    main()
