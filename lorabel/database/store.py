"""Access to the database: transactions on SQLite (WAL mode) or PostgreSQL, and migrations of the schema."""

import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, make_url
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from lorabel.database.tables import Table
from lorabel.private_folders import make_private
from lorabel.settings import Settings

BUSY_TIMEOUT_S = 15
MIGRATION_LOCK = 0x10AABE1


class Store:
    """The database. Thread-safe.

    Every commit is flushed to the disk: on SQLite by `synchronous = FULL`, on PostgreSQL by default.

    Args:
        url: an SQLAlchemy URL; the folder of an SQLite file is created if it is missing.
    """

    def __init__(self, url: str) -> None:
        parsed = make_url(url)
        self.is_sqlite = parsed.get_backend_name() == "sqlite"
        if self.is_sqlite and parsed.database:
            Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
        if parsed.drivername == "postgresql":
            parsed = parsed.set(drivername="postgresql+psycopg")
        self.engine = create_engine(parsed, pool_size=16, max_overflow=48, pool_pre_ping=not self.is_sqlite)
        if self.is_sqlite:
            _prepare_sqlite(self.engine)
        self._writing = self.engine.execution_options(begins_immediately=True)
        # SQLite allows one writer at a time. Waiting writers poll with longer and longer pauses, so that one of
        # many threads may wait for seconds. The threads of this process wait for this lock instead.
        self._write_lock: AbstractContextManager[Any] = threading.Lock() if self.is_sqlite else nullcontext()

    @classmethod
    def open(cls, settings: Settings) -> "Store":
        """The database that the settings name (`DATABASE_URL`). The default is in DATA_DIR, which is made private.

        Raises:
            SettingsError: the database is in DATA_DIR, and DATA_DIR is not a folder or cannot be created.
        """
        if settings.database_url is None:
            make_private(settings.data_dir)
        return cls(settings.database)

    @contextmanager
    def write(self) -> Iterator[Session]:
        """A transaction: committed at the end of the block, rolled back if the block raises."""
        with self._write_lock, Session(self._writing, expire_on_commit=False) as session, session.begin():
            yield session

    @contextmanager
    def read(self) -> Iterator[Session]:
        """A transaction for reading; changes that are made in it are discarded."""
        with Session(self.engine, expire_on_commit=False) as session:
            yield session

    def insert(self, table: type[Table]) -> Any:
        """An INSERT statement in the database's own dialect, which has ON CONFLICT."""
        return sqlite.insert(table) if self.is_sqlite else postgresql.insert(table)

    def migrate(self) -> None:
        """Upgrade the schema to the newest revision. Several processes may do this at the same time."""
        # Alembic takes a part of a second to import, and only a start migrates.
        from alembic import command
        from alembic.config import Config

        config = Config()
        config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
        with self._writing.connect() as connection, connection.begin():
            if not self.is_sqlite:
                connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({MIGRATION_LOCK})")
            config.attributes["connection"] = connection
            command.upgrade(config, "head")

    def close(self) -> None:
        """Close all connections."""
        self.engine.dispose()


def _prepare_sqlite(engine: Engine) -> None:
    """Configure each connection, and begin transactions ourselves instead of leaving this to the driver.

    A writing transaction takes the write lock at its beginning. If two transactions read first and then both
    wanted to write, one of them would fail.

    https://docs.sqlalchemy.org/en/20/dialects/sqlite.html#serializable-isolation-savepoints-transactional-ddl
    """

    @event.listens_for(engine, "connect")
    def configure(connection: Any, _: Any) -> None:
        connection.isolation_level = None
        connection.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_S * 1000}")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA foreign_keys = ON")

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        immediately = connection.get_execution_options().get("begins_immediately", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if immediately else "BEGIN")
