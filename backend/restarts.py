"""Repeats requests of Label Studio that a restart of PostgreSQL has interrupted.

Label Studio sends an event once, and a restart takes a second or two. What is repeated may have been done already,
which does no harm: predictions and /setup give the same, and an event that is stored twice is applied once. Other
requests fail with 503, so that whoever has sent them sends them again.
"""

import logging
import math
from collections.abc import Callable
from time import monotonic, sleep
from typing import TypeVar

from sqlalchemy.exc import DBAPIError

from lorabel.database.store import Store, is_unreachable, reason_of

log = logging.getLogger(__name__)

# From the first failure. A server that stays away for longer is not waited for: Label Studio would wait with us
# each time that a task is opened.
PATIENCE_S = 10.0
PAUSE_S = 0.1
# After so long without a success or a failure, a failure is that of another restart.
FORGOTTEN_S = 300.0

A = TypeVar("A")


class Restarts:
    """Thread-safe."""

    def __init__(self, store: Store) -> None:
        self._is_sqlite = store.is_sqlite
        self._gone_at = self._failed_at = -math.inf

    def outlive(self, answer: Callable[[], A]) -> A:
        """Return what the function returns, which is called again while PostgreSQL restarts.

        Raises:
            DBAPIError: the server has been away for PATIENCE_S, or this function alone has failed for so long, or
                the database has refused something.
        """
        first_failed_at = math.inf
        while True:
            try:
                value = answer()
            except DBAPIError as error:
                first_failed_at = min(first_failed_at, monotonic())
                if monotonic() - first_failed_at >= PATIENCE_S or not self._is_restarting(error):
                    raise
                log.warning("PostgreSQL is away, and is tried again: %s", reason_of(error))
                sleep(PAUSE_S)
            else:
                self._failed_at = -math.inf
                return value

    def _is_restarting(self, error: DBAPIError) -> bool:
        if self._is_sqlite or not is_unreachable(error):
            return False
        before, self._failed_at = self._failed_at, monotonic()
        if self._failed_at - before > FORGOTTEN_S:
            self._gone_at = self._failed_at
        return monotonic() - self._gone_at < PATIENCE_S
