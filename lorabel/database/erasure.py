"""Makes the database forget the bytes of rows that were deleted: until then they stay in its files.

SQLite leaves them in free pages and in its write-ahead log, PostgreSQL in pages, in its log and on replicas.
"""

from collections.abc import Collection

from sqlalchemy import text

from lorabel.database.store import Store

LEFT_BY_POSTGRES = (
    "PostgreSQL's VACUUM has freed their space, and their bytes stay in its files until the space is used again: "
    "`VACUUM FULL` of these tables, while nobody annotates, writes them anew; its log, replicas and backups keep "
    "theirs as long as you have set"
)


def erase_deleted(store: Store, tables: Collection[str]) -> str | None:
    """Write the database anew without what was deleted.

    Args:
        tables: names of tables that rows were deleted from.

    Returns:
        What is left to do, a sentence; None if nothing is.
    """
    if store.is_sqlite:
        return (
            None
            if store.compact()
            else "other processes use the database, or its disk is full: run the command again"
        )
    with store.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        for table in sorted(tables):
            connection.execute(text(f'VACUUM "{table}"'))
    return LEFT_BY_POSTGRES
