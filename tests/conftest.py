"""Settings and a database of its own for each test.

The database is SQLite and Redis is a socket where nobody listens. With DATABASE_URL_FOR_TESTS (PostgreSQL) and
REDIS_URL_FOR_TESTS (see tests/servers.py) quick tests of what uses a database run twice: so, and against these
servers, of which the Redis is emptied for each test.
"""

import gc
import os
import shutil
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from redis import Redis
from sqlalchemy import Engine, create_engine, make_url, text
from xdist.scheduler import LoadFileScheduling

from lorabel.database.store import Store
from lorabel.database.tables import Table
from lorabel.settings import Settings
from tests import skipped
from tests.backend import fake_model_server
from tests.backend.fake_model_server import FakeModelServer

POSTGRES = os.environ.get("DATABASE_URL_FOR_TESTS")
TESTS = Path(__file__).parent
# Whose quick tests, and those marked `servers`, run against real servers, too.
ROOMS = ("database", "label_studio", "inference", "search", "curation", "commands")
STATEFUL = (TESTS / "backend", TESTS / "workers", *(TESTS / "lorabel" / room for room in ROOMS))
WITHOUT_STORE = (TESTS / "backend" / "test_recordings.py", TESTS / "lorabel" / "commands" / "test_model_folder.py")
NOT_QUICK = ("e2e", "slow", "ray", "scale")
# Files that use the same running Lorabel, by the fixture that starts it.
SHARED_LORABELS = {
    "tests/e2e/test_boxes_in_browser.py": "lorabel_up",
    "tests/e2e/test_clicks_in_browser.py": "lorabel_up",
    "tests/e2e/test_heads.py": "lorabel_up",
    "tests/e2e/test_heads_in_browser.py": "lorabel_up",
    "tests/e2e/test_accept.py": "lorabel_up",
    "tests/e2e/test_label_errors.py": "lorabel_up",
    "tests/e2e/test_label_studio_ml.py": "lorabel_up",
    "tests/e2e/test_large_request.py": "lorabel_up",
    "tests/e2e/test_masks_in_browser.py": "lorabel_up",
    "tests/e2e/test_order.py": "lorabel_up",
    "tests/e2e/test_regions_in_browser.py": "lorabel_up",
    "tests/e2e/test_others_like_this_one.py": "lorabel_up",
    "tests/e2e/test_search.py": "lorabel_up",
    "tests/e2e/test_shown_predictions.py": "lorabel_up",
    "tests/e2e/test_text_in_pictures.py": "lorabel_up",
    "tests/e2e/test_browser.py": "guarded_lorabel",
    "tests/e2e/test_connect.py": "guarded_lorabel",
    "tests/e2e/test_webhook_secret.py": "guarded_lorabel",
}
# Files whose tests start a Lorabel for each value of their first parameter, and take minutes one after the other.
SPLIT_BY_PARAMETER = frozenset({"tests/e2e/test_kills.py", "tests/e2e/test_up.py"})
LONGEST_FIRST = tuple(TESTS / "e2e" / name for name in ("test_kills.py", "test_browser.py", "test_up.py"))
LONGEST_FIRST += (TESTS / "e2e", TESTS / "workers", TESTS / "model_server")
LONGEST_FIRST += (TESTS / "test_every_family.py", TESTS / "test_plugins.py", TESTS / "lorabel" / "media", TESTS)
# As `lorabel up` does: torch's threads here and in the processes that tests start must not spin on shared cores.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


class FilesOfOneLorabel(LoadFileScheduling):
    """Gives all tests of a file to one process, and so all files that use the same running Lorabel.

    A Lorabel takes long to start, and each process of pytest-xdist starts its own. (The marker `xdist_group` has
    no effect with pytest 9.2 and pytest-xdist 3.8.) Tests of SPLIT_BY_PARAMETER go by their first parameter.
    """

    def _split_scope(self, nodeid: str) -> str:
        file: str = super()._split_scope(nodeid)
        if file in SPLIT_BY_PARAMETER:
            return f"{file}[{nodeid.partition('[')[2].removesuffix(']').partition('-')[0]}]"
        return SHARED_LORABELS.get(file, file)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> FilesOfOneLorabel:
    return FilesOfOneLorabel(config, log)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Collect without the garbage collector, and keep what was collected out of its sight.

    Thousands of modules are imported, and nothing is thrown away.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.hookimpl(trylast=True)
def pytest_unconfigure() -> None:
    """End a process of pytest-xdist at once: its results are sent, and to free all modules takes 10 s."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        os._exit(0)
    gc.unfreeze()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Start with the files and folders of the longest tests, so that all processes end at about the same time."""
    items.sort(key=lambda item: _place_in_order(item.path))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run tests of what uses a database against real servers, too, where there are some: see STATEFUL."""
    path = metafunc.definition.path
    if (
        POSTGRES is not None
        and "is_on_servers" in metafunc.fixturenames
        and any(folder in path.parents for folder in STATEFUL)
        and path not in WITHOUT_STORE
        and (
            metafunc.definition.get_closest_marker("servers")
            or not any(metafunc.definition.get_closest_marker(name) for name in NOT_QUICK)
        )
    ):
        metafunc.parametrize("is_on_servers", [False, True], ids=["SQLite", "servers"], indirect=True)


@cache
def _place_in_order(file: Path) -> int:
    """Index of the first entry of LONGEST_FIRST that is the file or a folder around it."""
    return next(i for i, path in enumerate(LONGEST_FIRST) if path in (file, *file.parents))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Note what was skipped, for the end of `make test`."""
    reports = terminalreporter.stats.get("skipped", [])
    skipped.append(report.longrepr[2].removeprefix("Skipped: ") for report in reports)


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite file that nobody writes to: to migrate takes many times as long as to copy."""
    folder = tmp_path_factory.mktemp("migrated")
    store = Store.open(Settings(data_dir=folder))
    store.migrate()
    store.close()
    return folder / "lorabel.db"


@pytest.fixture(scope="session")
def empty_postgres_schema() -> Iterator[Callable[[], str]]:
    """A function that empties a migrated schema and returns its URL: to migrate takes many times as long.

    It keeps a connection, and deletes rows: a new connection and TRUNCATE take four times as long.
    """
    with _migrated_schema() as url:
        engine = _engine(url)
        names = [table.name for table in reversed(Table.metadata.sorted_tables)]
        with engine.connect() as connection:
            sequences = connection.scalars(
                text("SELECT sequencename FROM pg_sequences WHERE schemaname = current_schema()")
            ).all()
        statements = [f"DELETE FROM {name}" for name in names]
        statements += [f"ALTER SEQUENCE {name} RESTART" for name in sequences]

        def empty() -> str:
            with engine.connect() as connection:
                connection.execute(text("; ".join(statements)))
            return url

        yield empty
        engine.dispose()


@pytest.fixture
def postgres_schema_of_test() -> Iterator[str]:
    """The URL of a migrated schema that a test with the marker `changes_schema` has for itself."""
    with _migrated_schema() as url:
        yield url


@pytest.fixture
def is_on_servers(request: pytest.FixtureRequest) -> bool:
    """Whether the test uses PostgreSQL and a Redis that runs (see `pytest_generate_tests`)."""
    return bool(getattr(request, "param", False))


@pytest.fixture
def settings(
    request: pytest.FixtureRequest,
    is_on_servers: bool,
    tmp_path: Path,
    migrated: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Settings:
    """As in a fresh installation, whatever the developer's environment says."""
    for name in list(os.environ):
        if name.lower() in Settings.model_fields or name.startswith("MODEL_"):
            monkeypatch.delenv(name)
    if not is_on_servers:
        shutil.copy(migrated, tmp_path)
        return Settings(data_dir=tmp_path, redis_url=f"unix://{tmp_path}/no-redis.sock")
    # Each process of pytest-xdist (gw0, gw1, ...) empties a database of its own.
    number = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    redis_url = f"{os.environ['REDIS_URL_FOR_TESTS'].rpartition('/')[0]}/{number}"
    with Redis.from_url(redis_url) as redis:
        redis.flushdb()
    if request.node.get_closest_marker("changes_schema"):
        url = request.getfixturevalue("postgres_schema_of_test")
    else:
        url = request.getfixturevalue("empty_postgres_schema")()
    return Settings(data_dir=tmp_path, redis_url=redis_url, database_url=url)


@pytest.fixture
def store(settings: Settings) -> Iterator[Store]:
    """Migrated to the newest revision."""
    store = Store.open(settings)
    yield store
    store.close()


@pytest.fixture(scope="session")
def shared_model_server() -> Iterator[FakeModelServer]:
    with fake_model_server.running() as server:
        yield server


@pytest.fixture
def model_server(shared_model_server: FakeModelServer) -> FakeModelServer:
    """As new: what an earlier test asked for or changed is forgotten."""
    shared_model_server.__init__(shared_model_server.url)  # type: ignore[misc]
    return shared_model_server


@contextmanager
def _migrated_schema() -> Iterator[str]:
    assert POSTGRES is not None
    schema = f"test_{uuid4().hex}"
    _execute(POSTGRES, f"CREATE SCHEMA {schema}")
    url = make_url(POSTGRES).update_query_dict({"options": f"-csearch_path={schema}"})
    store = Store(url.render_as_string(hide_password=False))
    store.migrate()
    store.close()
    yield url.render_as_string(hide_password=False)
    _execute(POSTGRES, f"DROP SCHEMA {schema} CASCADE")


def _engine(url: str) -> Engine:
    parsed = make_url(url)
    if parsed.drivername == "postgresql":
        parsed = parsed.set(drivername="postgresql+psycopg")
    return create_engine(parsed, isolation_level="AUTOCOMMIT")


def _execute(url: str, statement: str) -> None:
    engine = _engine(url)
    with engine.connect() as connection:
        connection.execute(text(statement))
    engine.dispose()
