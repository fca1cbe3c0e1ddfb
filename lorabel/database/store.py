"""Access to the database: transactions on SQLite (WAL mode) or PostgreSQL, and migrations of the schema."""

import logging
import re
import sqlite3
import threading
from collections.abc import Collection, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import islice
from pathlib import Path
from time import monotonic, sleep
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, make_url
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import ArgumentError, DBAPIError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.orm import Session

from lorabel.database.claims import CLAIMED, TRY_TO_CLAIM
from lorabel.database.kept_connections import check_before_use
from lorabel.database.tables import Table
from lorabel.errors import DatabaseUnusableError
from lorabel.private_folders import make_private
from lorabel.secret_keys import Keyring
from lorabel.settings import Settings

log = logging.getLogger(__name__)

BUSY_TIMEOUT_S = 15
CHECKPOINT_S = 30.0
CHECKPOINT_PAUSE_S = 0.1
# SQLite's user_version while the bytes of plain tokens are in the file.
HAS_PLAIN_TOKENS = 1
MIGRATION_LOCK = 0x10AABE1
IDS_PER_QUERY = 500
MIGRATIONS = Path(__file__).parent / "migrations"
# How SQLite says that a table or column is missing, and PostgreSQL's codes: undefined_table, undefined_column.
MISSING_IN_SQLITE = re.compile("no such (table|column)|table .* has no column named")
MISSING_STATES = frozenset({"42P01", "42703"})


class Store:
    """The database. Thread-safe.

    Every commit is flushed to the disk: on SQLite by `synchronous = FULL`, on PostgreSQL by default.

    Args:
        url: an SQLAlchemy URL; the folder of an SQLite file is created if it is missing.
        keyring: encrypts the tokens in it; default: a key that no other process has.

    Raises:
        DatabaseUnusableError: the URL is malformed, or the folder cannot be created.
    """

    def __init__(self, url: str, keyring: Keyring | None = None) -> None:
        self.keyring = keyring or Keyring.of_this_process()
        try:
            parsed = make_url(url)
            if parsed.drivername == "postgresql":
                parsed = parsed.set(drivername="postgresql+psycopg")
            self.engine = create_engine(parsed, pool_size=16, max_overflow=48)
        except (ArgumentError, ImportError, ValueError):
            # The reason is not shown, because it may contain the URL with its password.
            message = "DATABASE_URL is no address of a database; expected sqlite:///FILE or postgresql://..."
            raise DatabaseUnusableError(message) from None
        self.is_sqlite = parsed.get_backend_name() == "sqlite"
        if self.is_sqlite and parsed.database:
            _make_folder(Path(parsed.database).parent)
        if self.is_sqlite:
            _prepare_sqlite(self.engine)
            self._by_statement = self.engine
        else:
            check_before_use(self.engine)
            self._by_statement = self.engine.execution_options(isolation_level="AUTOCOMMIT")
        self._writing = self.engine.execution_options(begins_immediately=True)
        # SQLite allows one writer at a time. Waiting writers poll with longer and longer pauses, so that one of
        # many threads may wait for seconds. The threads of this process wait for this lock instead.
        self._write_lock: AbstractContextManager[Any] = threading.Lock() if self.is_sqlite else nullcontext()

    @classmethod
    def open(cls, settings: Settings) -> "Store":
        """The database that the settings name (`DATABASE_URL`). The default is in DATA_DIR, which is made private.

        Raises:
            SettingsError: the database is in DATA_DIR, and DATA_DIR is not a folder or cannot be created; or
                LORABEL_SECRET_KEY has something that is no key.
        """
        if settings.database_url is None:
            make_private(settings.data_dir)
        return cls(settings.database, Keyring.of(settings))

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

    @contextmanager
    def look_up(self) -> Iterator[Session]:
        """A session for a few quick queries; changes that are made in it are discarded.

        On PostgreSQL each query is a transaction by itself, so that it takes one round trip and not three. There
        they see the same as in `read`, whose queries see what was committed before each of them. Large results
        are read in pieces only in `read`.
        """
        with Session(self._by_statement, autoflush=False, expire_on_commit=False) as session:
            yield session

    @contextmanager
    def write_one_statement(self) -> Iterator[Session]:
        """A session for a single statement, committed at once, in one round trip on PostgreSQL."""
        if self.is_sqlite:
            with self.write() as session:
                yield session
        else:
            with self.look_up() as session:
                yield session

    @contextmanager
    def claim(self, namespace: int, number: int) -> Iterator[bool]:
        """Claim what a number stands for until the end of the block, or until this process dies.

        Yields:
            Whether it is ours: False if another process, or another block of this one, has claimed it. On SQLite
            always True, so that what is done twice must do no harm.
        """
        if self.is_sqlite:
            yield True
            return
        with self.engine.begin() as connection:
            yield bool(connection.scalar(TRY_TO_CLAIM, {"namespace": namespace, "number": number}))

    def claimed(self, *namespaces: int) -> frozenset[int]:
        """The numbers that are claimed now in one of the namespaces, by anybody. On SQLite none.

        It takes one query to leave out what others have claimed, in place of an attempt for each.
        """
        if self.is_sqlite:
            return frozenset()
        with self._by_statement.connect() as connection:
            return frozenset(connection.scalars(CLAIMED, {"namespaces": list(namespaces)}))

    def compact(self) -> bool:
        """Write an SQLite file anew, without the bytes of what was deleted, and empty its write-ahead log.

        Other processes that write wait for as long as it takes to copy the file twice, BUSY_TIMEOUT_S at most.

        Returns:
            False if another process has kept the file for BUSY_TIMEOUT_S, or the log for CHECKPOINT_S, or if there
            is no space for the copy.
        """
        with self._write_lock:
            connection = self.engine.raw_connection()
            try:
                return _compact(connection)
            except sqlite3.OperationalError as error:
                log.warning("the database could not be written anew: %s", error)
                return False
            finally:
                connection.close()

    def insert(self, table: type[Table]) -> Any:
        """An INSERT statement in the database's own dialect, which has ON CONFLICT."""
        return sqlite.insert(table) if self.is_sqlite else postgresql.insert(table)

    def migrate(self) -> None:
        """Upgrade the schema to the newest revision. Several processes may do this at the same time.

        Raises:
            DatabaseUnusableError: the database cannot be opened or written, or is not a database of this version
                of Lorabel.
        """
        if self._is_newest():
            self._compact_if_due()
            return
        # Alembic takes a part of a second to import, and most starts find nothing to upgrade.
        from alembic.util import CommandError

        try:
            self._upgrade()
            self._compact_if_due()
        except (DBAPIError, CommandError) as error:
            address = self.engine.url.render_as_string(hide_password=True)
            reason = reason_of(error) if isinstance(error, DBAPIError) else str(error)
            raise DatabaseUnusableError(
                f"the database {address} cannot be used: {reason}; repair it, or restore a copy of it, "
                "or set DATABASE_URL or DATA_DIR to another"
            ) from error

    def _is_newest(self) -> bool:
        """Whether the schema has the revision with which the name of the newest file of migrations begins.

        False for a database that cannot be read, so that the upgrade says why.
        """
        files = (MIGRATIONS / "versions").glob("[0-9]*.py")
        newest = max(path.name.partition("_")[0] for path in files)
        try:
            with self.engine.connect() as connection:
                revisions = connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalars().all()
        except DBAPIError:
            return False
        return revisions == [newest]

    def _compact_if_due(self) -> None:
        """Write an SQLite file anew whose free pages still have plain tokens. At the next start if not now."""
        if not self.is_sqlite:
            return
        with self.engine.connect() as connection:
            is_due = connection.exec_driver_sql("PRAGMA user_version").scalar() == HAS_PLAIN_TOKENS
        if is_due and self.compact():
            with self._writing.connect() as connection, connection.begin():
                connection.exec_driver_sql("PRAGMA user_version = 0")

    def _upgrade(self) -> None:
        from alembic import command
        from alembic.config import Config

        config = Config()
        config.set_main_option("script_location", str(MIGRATIONS))
        with self._writing.connect() as connection, connection.begin():
            if not self.is_sqlite:
                connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({MIGRATION_LOCK})")
            config.attributes["connection"] = connection
            config.attributes["keyring"] = self.keyring
            command.upgrade(config, "head")
            if config.attributes.get("has_sealed") and self.is_sqlite:
                connection.exec_driver_sql(f"PRAGMA user_version = {HAS_PLAIN_TOKENS}")

    def close(self) -> None:
        """Close all connections."""
        self.engine.dispose()


def is_transient(error: Exception) -> bool:
    """Whether the database could not do what was asked now, but may later: the disk is full, the file is locked,
    the server cannot be reached, another transaction was in the way, the schema is not migrated."""
    is_refused = isinstance(error, OperationalError | PoolTimeoutError)
    return is_refused or is_unreachable(error) or is_schema_missing(error)


def is_unreachable(error: Exception) -> bool:
    """Whether the server cannot be reached, or has closed the connection: it may be restarting."""
    if not isinstance(error, DBAPIError):
        return False
    # Without a statement, no connection could be opened.
    return error.connection_invalidated or (isinstance(error, OperationalError) and error.statement is None)


def is_schema_missing(error: Exception) -> bool:
    """Whether a table or column does not exist: the schema is older than this version of Lorabel."""
    if not isinstance(error, DBAPIError):
        return False
    is_missing_in_sqlite = MISSING_IN_SQLITE.match(str(error.orig)) is not None
    return is_missing_in_sqlite or getattr(error.orig, "sqlstate", None) in MISSING_STATES


def reason_of(error: DBAPIError) -> str:
    """What the database said, in one line, without the statement and its values."""
    lines = str(error.orig).strip().splitlines()
    return lines[0] if lines else type(error.orig).__name__


def id_chunks(ids: Collection[int]) -> Iterator[list[int]]:
    """Pieces of at most IDS_PER_QUERY ids, because databases limit the number of parameters in a statement."""
    remaining = iter(ids)
    while chunk := list(islice(remaining, IDS_PER_QUERY)):
        yield chunk


def _compact(connection: Any) -> bool:
    connection.execute("VACUUM")
    deadline = monotonic() + CHECKPOINT_S
    while connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]:
        if monotonic() > deadline:
            return False
        sleep(CHECKPOINT_PAUSE_S)
    return True


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        is_file = isinstance(error, FileExistsError | NotADirectoryError)
        reason = "a file is in its place" if is_file else error.strerror or type(error).__name__
        raise DatabaseUnusableError(
            f"the database's folder {str(folder)!r} cannot be made: {reason}; set DATA_DIR to a folder that this "
            "user may write"
        ) from error


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
