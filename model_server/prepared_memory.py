"""Limits the memory of background rows that are prepared before the device is free for them."""

import threading
from collections.abc import Callable

from lorabel.families.sizes import prepared_bytes
from model_server.fair_queue import FairQueue
from model_server.rows import Row


class PreparedMemory:
    """Holds background rows back while the prepared rows of all projects have as many bytes as they may.

    What a row takes is known only once it is prepared, so the limit is exceeded by as many rows as there are
    prepare threads, at most. Rows of people are counted, but never held back. Thread-safe.

    Args:
        most_bytes: of all prepared rows.
        begin_again: gets the rows that were held back once there is room.
    """

    def __init__(self, most_bytes: int, begin_again: Callable[[Row], None]) -> None:
        self._most_bytes, self._begin_again = most_bytes, begin_again
        self._bytes = 0
        self._held_back: FairQueue[Row] = FairQueue()
        self._lock = threading.Lock()

    def begin(self, row: Row) -> bool:
        """Whether the row may be prepared; False if it is held back until there is room."""
        with self._lock:
            if self._bytes < self._most_bytes:
                return True
            self._held_back.put(row)
            return False

    def hold(self, row: Row) -> None:
        """Count the bytes of a row that was prepared until it is answered, has failed or was cancelled."""
        held_bytes = prepared_bytes(row.example)
        if held_bytes:
            with self._lock:
                self._bytes += held_bytes
            row.done.add_done_callback(lambda _: self._free(held_bytes))

    def _free(self, held_bytes: int) -> None:
        with self._lock:
            self._bytes -= held_bytes
            has_room = self._bytes < self._most_bytes
            # All of them: some may be held back elsewhere, and no other row would wake those that are left.
            count = len(self._held_back) if has_room else 0
            rows = [self._held_back.take_next(lambda _: True) for _ in range(count)]
        for row in rows:
            if row is not None:
                self._begin_again(row)
