"""Limits the memory of background rows that are prepared before the device is free for them."""

import threading

from model_server.fair_queue import FairQueue
from model_server.rows import Row


class PreparedMemory:
    """Holds background rows back while the prepared rows of all projects have as many bytes as they may.

    What a row takes is known only once it is prepared, so the limit is exceeded by as many rows as there are
    prepare threads, at most. Rows of people are counted, but never held back. Thread-safe.

    Args:
        most_bytes: of all prepared rows.
    """

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._bytes = 0
        self._held_back: FairQueue[Row] = FairQueue()
        self._lock = threading.Lock()

    def begin(self, row: Row) -> bool:
        """Whether the row may be prepared; False if it is held back, and comes from an `end`."""
        with self._lock:
            if self._bytes < self._most_bytes:
                return True
            self._held_back.put(row)
            return False

    def add(self, nbytes: int) -> None:
        """A row was prepared, and holds so many bytes."""
        with self._lock:
            self._bytes += nbytes

    def end(self, nbytes: int) -> list[Row]:
        """A row that held so many bytes is done. Returns the rows that were held back, if there is room again."""
        with self._lock:
            self._bytes -= nbytes
            if self._bytes >= self._most_bytes:
                return []
            rows = [self._held_back.take_next(lambda _: True) for _ in range(len(self._held_back))]
            return [row for row in rows if row is not None]
