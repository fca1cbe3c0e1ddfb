"""A process-wide limit on the memory that pictures and videos take while they are decoded.

A small file can be a large picture: 284 kB of PNG are 10,000 x 10,000 pixels, 400 MB. Decoders say beforehand how
much they will take, and wait until there is room for it.
"""

import ctypes
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from time import monotonic

from lorabel.errors import UnreadableError

MEGABYTE = 1024 * 1024
MOST_WAIT_S = 60.0
# After larger decodings, memory is given back to the system, which takes milliseconds.
LARGE_BYTES = 64 * MEGABYTE


class DecodeMemory:
    """Memory that is shared by all decoders of a process. Thread-safe.

    Who comes first is served first, so that a large picture does not wait for ever behind small pictures.

    Args:
        limit_bytes: most bytes that are reserved at a time.
    """

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.reserved_bytes = 0
        self._turn = threading.Lock()
        self._changed = threading.Condition()

    @contextmanager
    def reserve(self, size_bytes: int) -> Iterator[None]:
        """Wait until there is room for `size_bytes`, and keep it until the context ends.

        Raises:
            UnreadableError: for good, if it is more than the limit; for now, if it waited for `MOST_WAIT_S`.
        """
        if size_bytes > self.limit_bytes:
            raise UnreadableError(
                f"decoding needs {size_bytes / MEGABYTE:.0f} MB, "
                f"more than {self.limit_bytes / MEGABYTE:.0f} (MEDIA_DECODE_MB)",
                is_permanent=True,
            )
        self._take(size_bytes)
        try:
            yield
        finally:
            if size_bytes > LARGE_BYTES:
                _trim()
            with self._changed:
                self.reserved_bytes -= size_bytes
                self._changed.notify_all()

    def _take(self, size_bytes: int) -> None:
        """Wait for the turn, and then for room."""
        ends_at = monotonic() + MOST_WAIT_S
        if self._turn.acquire(timeout=MOST_WAIT_S):
            try:
                with self._changed:
                    if self._changed.wait_for(lambda: self._has_room(size_bytes), ends_at - monotonic()):
                        self.reserved_bytes += size_bytes
                        return
            finally:
                self._turn.release()
        raise UnreadableError(
            f"other pictures and videos had the memory for decoding for {MOST_WAIT_S:.0f} s (MEDIA_DECODE_MB)",
            is_permanent=False,
        )

    def _has_room(self, size_bytes: int) -> bool:
        return self.reserved_bytes + size_bytes <= self.limit_bytes


def _trim() -> None:
    """Give freed memory back to the system; glibc keeps it for each thread, and has this call."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


@lru_cache(maxsize=8)
def decode_memory(limit_mb: int) -> DecodeMemory:
    """The process's `DecodeMemory` with this limit; all families of a process have the same."""
    return DecodeMemory(limit_mb * MEGABYTE)
