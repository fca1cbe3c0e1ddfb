"""Limits the memory of background rows that are prepared before the device is free for them."""

import threading
from collections import Counter, defaultdict
from collections.abc import Callable

from lorabel.families.sizes import prepared_bytes
from model_server.fair_queue import FairQueue
from model_server.rows import Row


class PreparedMemory:
    """Holds background rows back while the prepared rows of their family have as many bytes as they may.

    Each family has its own limit, for all projects together: quick rows do not wait for the large pictures of slow
    ones. What a row takes is known only once it is prepared, so the limit is exceeded by as many rows as there are
    prepare threads, at most. Rows of people are counted, but never held back. Thread-safe.

    Args:
        most_bytes: of the prepared rows of a family.
        begin_again: gets the rows that were held back once there is room.
    """

    def __init__(self, most_bytes: int, begin_again: Callable[[Row], None]) -> None:
        self._most_bytes, self._begin_again = most_bytes, begin_again
        self._bytes: Counter[str] = Counter()
        self._held_back: defaultdict[str, FairQueue[Row]] = defaultdict(FairQueue)
        self._lock = threading.Lock()

    def begin(self, row: Row) -> bool:
        """Whether the row may be prepared; False if it is held back until there is room."""
        family = row.loaded_family.family.name
        with self._lock:
            if self._bytes[family] < self._most_bytes:
                return True
            self._held_back[family].put(row)
            return False

    def hold(self, row: Row) -> None:
        """Count the bytes of a row that was prepared until it is answered, has failed or was cancelled."""
        family, held_bytes = row.loaded_family.family.name, prepared_bytes(row.example)
        if held_bytes:
            with self._lock:
                self._bytes[family] += held_bytes
            row.done.add_done_callback(lambda _: self._free(family, held_bytes))

    def _free(self, family: str, held_bytes: int) -> None:
        with self._lock:
            self._bytes[family] -= held_bytes
            has_room = self._bytes[family] < self._most_bytes
            # All of them: some may be held back elsewhere, and no other row would wake those that are left.
            held_back = self._held_back[family]
            rows = [held_back.take_next(lambda _: True) for _ in range(len(held_back) if has_room else 0)]
        for row in rows:
            if row is not None:
                self._begin_again(row)
