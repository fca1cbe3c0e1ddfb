"""Makes a real SQLite refuse what it refuses on a full disk, or with too many parameters in a statement."""

import sqlite3
from typing import Any

from sqlalchemy import event, text

from lorabel.database.store import Store


def limit_pages(store: Store, more: int) -> None:
    """Let the database file grow by so many pages and no further: SQLite then reports that the disk is full."""
    with store.read() as session:
        pages = session.scalar(text("PRAGMA page_count")) or 0

    def limit(connection: sqlite3.Connection, _: Any) -> None:
        connection.execute(f"PRAGMA max_page_count = {pages + more}")

    _limit_new_connections(store, limit)


def limit_parameters(store: Store, most: int) -> None:
    """Refuse statements with more parameters."""

    def limit(connection: sqlite3.Connection, _: Any) -> None:
        connection.setlimit(sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER, most)

    _limit_new_connections(store, limit)


def _limit_new_connections(store: Store, limit: Any) -> None:
    event.listen(store.engine, "connect", limit)
    store.engine.dispose()
