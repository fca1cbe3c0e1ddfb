"""A process-wide limit on the memory that pictures and videos take while they are decoded.

A small file can be a large picture: 284 kB of PNG are 10,000 x 10,000 pixels, 400 MB. Decoders say beforehand how
much they will take, and wait until there is room for it. An eighth of the memory is kept for small files, so that
they need not wait for large ones.
"""

import ctypes
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from time import monotonic

from lorabel.errors import UnreadableError
from lorabel.media.deadline import check_deadline, seconds_left
from lorabel.media.kept_videos import KeptVideo, KeptVideos, Key

MEGABYTE = 1024 * 1024
MOST_WAIT_S = 60.0
# After larger decodings, memory is given back to the system, which takes milliseconds.
TRIM_BYTES = 64 * MEGABYTE
# The part of the memory that is kept for small files. What needs more than this part is large.
SMALL_PART = 8
# The part of the memory that decoded frames of videos may take that are kept for further questions.
KEPT_PART = 8


class DecodeMemory:
    """Memory that is shared by all decoders of a process. Thread-safe.

    Among large files, and among small files, who comes first is served first. Large files leave room for small
    ones. While a large file waits, small files take no more than this room, so that it gets its turn.

    Args:
        limit_bytes: most bytes that are reserved at a time.

    Attributes:
        kept: videos whose frames are kept while nobody needs the memory.
    """

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.kept = KeptVideos(limit_bytes // KEPT_PART)
        self._small, self._large = _Sizes(), _Sizes()
        self._small_part_bytes = limit_bytes // SMALL_PART
        self._changed = threading.Condition()

    @property
    def reserved_bytes(self) -> int:
        return self._small.reserved_bytes + self._large.reserved_bytes

    @property
    def most_bytes(self) -> int:
        """Most bytes of one reservation."""
        return self.limit_bytes - self._small_part_bytes

    def keep(self, key: Key, video: KeptVideo) -> bool:
        """Keep the frames of a video, until the memory is needed. False if there is no room for them now."""
        with self._changed:
            if video.nbytes > self.kept.most_bytes or self.reserved_bytes + video.nbytes > self.limit_bytes:
                return False
            self.kept.keep(key, video)
            return True

    @contextmanager
    def reserve(self, size_bytes: int) -> Iterator[None]:
        """Wait until there is room for `size_bytes`, and keep it until the context ends.

        Raises:
            UnreadableError: for good, if it is more than `most_bytes`; for now, if it waited for `MOST_WAIT_S` or
                until the deadline of `lorabel.media.deadline`.
        """
        if size_bytes > self.most_bytes:
            raise UnreadableError(
                f"decoding needs {size_bytes / MEGABYTE:.0f} MB, more than {self.most_bytes / MEGABYTE:.0f}, "
                f"{SMALL_PART - 1}/{SMALL_PART} of MEDIA_DECODE_MB",
                is_permanent=True,
            )
        sizes = self._small if size_bytes <= self._small_part_bytes else self._large
        self._take(size_bytes, sizes)
        try:
            yield
        finally:
            if size_bytes > TRIM_BYTES:
                _trim()
            with self._changed:
                sizes.reserved_bytes -= size_bytes
                self._changed.notify_all()

    def _take(self, size_bytes: int, sizes: "_Sizes") -> None:
        """Wait for the turn, and then for room."""
        wait_s = seconds_left(MOST_WAIT_S)
        ends_at = monotonic() + wait_s
        if sizes.turn.acquire(timeout=wait_s):
            try:
                with self._changed:
                    sizes.is_waiting = True
                    has_room = self._changed.wait_for(
                        lambda: self._has_room(size_bytes, sizes), ends_at - monotonic()
                    )
                    sizes.is_waiting = False
                    sizes.reserved_bytes += size_bytes if has_room else 0
                    self._changed.notify_all()
                if has_room:
                    return
            finally:
                sizes.turn.release()
        check_deadline()
        raise UnreadableError(
            f"other pictures and videos had the memory for decoding for {MOST_WAIT_S:.0f} s (MEDIA_DECODE_MB)",
            is_permanent=False,
        )

    def _has_room(self, size_bytes: int, sizes: "_Sizes") -> bool:
        """Whether there is room; frames of videos that are kept make it."""
        if self._fits(size_bytes + self.kept.nbytes, sizes):
            return True
        if not self._fits(size_bytes, sizes):
            return False
        self.kept.clear()
        return True

    def _fits(self, size_bytes: int, sizes: "_Sizes") -> bool:
        if sizes is self._large:
            for_small_bytes = max(self._small.reserved_bytes, self._small_part_bytes)
            return self._large.reserved_bytes + size_bytes + for_small_bytes <= self.limit_bytes
        if self._large.is_waiting and self._small.reserved_bytes + size_bytes > self._small_part_bytes:
            return False
        return self.reserved_bytes + size_bytes <= self.limit_bytes


@dataclass(eq=False)
class _Sizes:
    """The reservations of small or of large files.

    Args:
        turn: is held by the one that waits for room; all others wait for it.
        is_waiting: whether somebody waits for room.
    """

    reserved_bytes: int = 0
    is_waiting: bool = False
    turn: threading.Lock = field(default_factory=threading.Lock)


def _trim() -> None:
    """Give freed memory back to the system; glibc keeps it for each thread, and has this call."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


@lru_cache(maxsize=8)
def decode_memory(limit_mb: int) -> DecodeMemory:
    """The process's `DecodeMemory` with this limit; all families of a process have the same."""
    return DecodeMemory(limit_mb * MEGABYTE)
