"""Makes the database forget the bytes of rows that were deleted: until then they stay in its files.

SQLite leaves them in free pages and in its write-ahead log, PostgreSQL in pages, in its log and on replicas.
"""

import time
from collections.abc import Collection

from sqlalchemy import text

from lorabel.database.store import Store

CHECKPOINT_S = 30.0
PAUSE_S = 0.1
LEFT_BY_POSTGRES = (
    "PostgreSQL's VACUUM has freed their space, and their bytes stay in its files until the space is used again: "
    "`VACUUM FULL` of these tables, while nobody annotates, writes them anew; its log, replicas and backups keep "
    "theirs as long as you have set"
)


def erase_deleted(store: Store, tables: Collection[str]) -> str | None:
    """Write the database anew without what was deleted.

    On SQLite, webhooks wait meanwhile, 15 s at most: it takes about as long as to copy the file twice.

    Args:
        tables: names of tables that rows were deleted from.

    Returns:
        What is left to do, a sentence; None if nothing is.
    """
    if store.is_sqlite:
        return None if _rewrite_sqlite(store) else "other processes read the database: run the command again"
    with store.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        for table in sorted(tables):
            connection.execute(text(f'VACUUM "{table}"'))
    return LEFT_BY_POSTGRES


def _rewrite_sqlite(store: Store) -> bool:
    """VACUUM writes every page anew; the checkpoint then takes the old ones out of the write-ahead log.

    Returns:
        False if a reader has held the log open for CHECKPOINT_S.
    """
    with store.exclusive_connection() as connection:
        connection.execute("VACUUM")
        deadline = time.monotonic() + CHECKPOINT_S
        while True:
            is_busy, _, _ = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            if not is_busy:
                return True
            if time.monotonic() > deadline:
                return False
            time.sleep(PAUSE_S)
