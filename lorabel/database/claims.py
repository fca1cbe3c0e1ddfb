"""SQL of claims: advisory locks of PostgreSQL, which end with a transaction, also where its process dies.

A claim has two numbers: a namespace, which says what is claimed, and the id of what is claimed. Advisory locks
belong to a database; Lorabels in other schemas of it have the same ids, so the schema's name is part of the first
key.
https://www.postgresql.org/docs/current/explicit-locking.html#ADVISORY-LOCKS
"""

from sqlalchemy import text

TRY_TO_CLAIM = text(
    "SELECT pg_try_advisory_xact_lock("
    "hashtext(concat(current_schema(), ':', CAST(:namespace AS integer))), CAST(:number AS integer))"
)
# `pg_locks` shows the two keys as numbers without sign, and `objsubid` is 2 for locks with two keys.
# https://www.postgresql.org/docs/current/view-pg-locks.html
CLAIMED = text(
    """
    SELECT CAST(objid AS bigint) FROM pg_locks
    WHERE locktype = 'advisory' AND objsubid = 2
    AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
    AND CAST(classid AS bigint) IN (
        SELECT CAST(hashtext(concat(current_schema(), ':', namespace)) AS bigint) & 4294967295
        FROM unnest(CAST(:namespaces AS integer[])) AS namespace
    )
    """
)
