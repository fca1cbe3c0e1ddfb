"""Values that take long to find out, kept for a while and renewed in the background: no page waits for them."""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Generic, TypeVar

from lorabel.database.tables import now

log = logging.getLogger(__name__)
T = TypeVar("T")


@dataclass(frozen=True)
class Taken(Generic[T]):
    """A value, when it was found, and in how many seconds."""

    value: T
    at: datetime
    took_s: float


class Snapshot(Generic[T]):
    """A value that is renewed in a thread when somebody asks for it and it is old. Thread-safe.

    Args:
        load: finds the value. An exception is logged, and the old value stays.
        lifetime_s: a younger value is not renewed. The argument of a function is `Taken.took_s` of the value.
        name: for the log.
        first: a value that was found just now.
    """

    def __init__(
        self,
        load: Callable[[], T],
        lifetime_s: float | Callable[[float], float],
        name: str,
        first: Taken[T] | None = None,
    ) -> None:
        self._load, self._lifetime_s, self._name = load, lifetime_s, name
        self._taken = first
        self._started_at = None if first is None else time.monotonic()
        self._is_loading = self._is_closed = False
        self._condition = threading.Condition()

    def get(self, wait_s: float = 0.0) -> Taken[T] | None:
        """The newest value; None if there is none yet.

        Args:
            wait_s: how long to wait for the first value.
        """
        with self._condition:
            self._start_if(self._is_old())
            if self._taken is None and wait_s:
                self._condition.wait_for(lambda: not self._is_loading, wait_s)
            return self._taken

    def age(self) -> timedelta:
        """How long ago the newest value was found; the longest time that there is if there is none."""
        with self._condition:
            return timedelta.max if self._taken is None else now() - self._taken.at

    def renew(self) -> None:
        """Find the value anew, however young it is."""
        with self._condition:
            self._start_if(True)

    @property
    def is_loading(self) -> bool:
        """Whether a new value is being found."""
        with self._condition:
            return self._is_loading

    def close(self, timeout_s: float) -> None:
        """Find no value any more, and wait for the one that is being found, at most `timeout_s`."""
        with self._condition:
            self._is_closed = True
            self._condition.wait_for(lambda: not self._is_loading, timeout_s)

    def _is_old(self) -> bool:
        if self._started_at is None:
            return True
        lifetime_s = self._lifetime_s
        if callable(lifetime_s):
            lifetime_s = lifetime_s(self._taken.took_s) if self._taken else 0.0
        return time.monotonic() - self._started_at > lifetime_s

    def _start_if(self, is_wanted: bool) -> None:
        if is_wanted and not self._is_loading and not self._is_closed:
            self._is_loading, self._started_at = True, time.monotonic()
            threading.Thread(target=self._run, name=f"snapshot of {self._name}", daemon=True).start()

    def _run(self) -> None:
        taken = None
        began_at = time.monotonic()
        try:
            value = self._load()
            taken = Taken(value, now(), time.monotonic() - began_at)
        except Exception:
            log.exception("%s cannot be found out", self._name)
        with self._condition:
            self._taken = taken or self._taken
            self._is_loading = False
            self._condition.notify_all()
