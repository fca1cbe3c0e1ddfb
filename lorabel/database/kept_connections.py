"""Finds out whether a kept connection to PostgreSQL is still open, without a query before each use.

A server that ends, or that ends a connection, sends a last message and closes the socket. So there is something
to read from a connection that is no longer good, and nothing from one that waits for its next query. A connection
that was idle for long is asked nevertheless: a firewall may have forgotten it, and tells nobody.
"""

import select
from time import monotonic
from typing import Any

from sqlalchemy import Engine, event
from sqlalchemy.exc import InvalidatePoolError

PING_AFTER_S = 60.0
_KEPT_SINCE = "lorabel_kept_since"


def check_before_use(engine: Engine) -> None:
    """Have the pool check each connection that it gives away.

    If one is found to be closed, the pool opens new connections in place of all that it keeps, since a server that
    has ended has closed them all.

    Args:
        engine: of PostgreSQL, with psycopg.
    """
    driver_error = engine.dialect.loaded_dbapi.Error

    @event.listens_for(engine, "checkin")
    def note(_connection: Any, record: Any) -> None:
        record.info[_KEPT_SINCE] = monotonic()

    @event.listens_for(engine, "checkout")
    def check(connection: Any, record: Any, _proxy: Any) -> None:
        kept_since = record.info.get(_KEPT_SINCE)  # of this connection: a new one has none
        if kept_since is None:
            return
        try:
            if connection.closed or monotonic() - kept_since > PING_AFTER_S or _has_something_to_read(connection):
                engine.dialect.do_ping(connection)
        except driver_error as error:
            raise InvalidatePoolError from error


def _has_something_to_read(connection: Any) -> bool:
    poll = select.poll()
    poll.register(connection.fileno(), select.POLLIN)
    return bool(poll.poll(0))
