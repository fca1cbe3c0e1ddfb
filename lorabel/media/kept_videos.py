"""The decoded frames of short videos, kept for the next question about the same video.

`lorabel.media.kept_frames` decodes them. Frames are kept as the decoder gives them, since any of them may be the
one that is shown at some moment.
"""

import threading
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from lorabel.errors import UnreadableError
from lorabel.media.deadline import check_deadline, seconds_left

MOST_WAIT_S = 60.0

# The digest of the file, and the most megapixels of a frame that is decoded.
Key = tuple[str, int]


@dataclass(frozen=True)
class Frames(ABC):
    """The frames of a video. Not thread-safe.

    Args:
        unit_s: the stream's unit of time, in seconds.
        start, end: moments at which the stream begins and ends, in units of `unit_s`.
        keyframes: sorted moments at which decoding can begin, in units of `unit_s`.
    """

    unit_s: float
    start: int
    end: int
    keyframes: list[int]

    @property
    def length_s(self) -> float:
        """Of the stream, in seconds."""
        return (self.end - self.start) * self.unit_s

    def keyframe(self, moment: float) -> int:
        """The last keyframe that is not after the moment; the first keyframe if all are later."""
        return self.keyframes[max(0, bisect_right(self.keyframes, moment) - 1)]

    @abstractmethod
    def frames(self, keyframe: int) -> Iterator[Any]:
        """Yield the frames from the keyframe on, in the order of time."""


@dataclass(eq=False)
class KeptVideo:
    """What is kept of a video. Only the thread that is in its `KeptVideos.one_at_a_time` may read or change it.

    Args:
        pixels: of a frame.
        nbytes: of all frames, those included that were not decoded yet.
        parts: index of a keyframe -> the frames from it to the next.
    """

    unit_s: float
    start: int
    end: int
    keyframes: list[int]
    pixels: int
    nbytes: int
    parts: dict[int, Sequence[Any]] = field(default_factory=dict)


class KeptVideos:
    """The videos that are kept, those that were used last. Thread-safe.

    Args:
        most_bytes: of all of them.
    """

    def __init__(self, most_bytes: int) -> None:
        self.most_bytes = most_bytes
        self._lock = threading.Lock()
        self._videos: OrderedDict[Key, KeptVideo] = OrderedDict()
        self._turns: dict[Key, tuple[threading.Lock, int]] = {}

    @property
    def nbytes(self) -> int:
        """Bytes of the videos that are kept."""
        with self._lock:
            return self._nbytes()

    def get(self, key: Key) -> KeptVideo | None:
        """Return a video, and count it as used."""
        with self._lock:
            if key in self._videos:
                self._videos.move_to_end(key)
            return self._videos.get(key)

    def keep(self, key: Key, video: KeptVideo) -> None:
        """Keep a video in the place of those that were not used for longest."""
        with self._lock:
            self._videos[key] = video
            while self._nbytes() > self.most_bytes:
                self._videos.popitem(last=False)

    def is_kept(self, key: Key, video: KeptVideo) -> bool:
        """Whether a video still is kept, and so counted in `nbytes`."""
        with self._lock:
            return self._videos.get(key) is video

    def drop(self, key: Key) -> None:
        """Keep a video no longer."""
        with self._lock:
            self._videos.pop(key, None)

    def clear(self) -> None:
        """Keep nothing."""
        with self._lock:
            self._videos.clear()

    @contextmanager
    def one_at_a_time(self, key: Key) -> Iterator[None]:
        """A context that one thread at a time is in for a video; the next one finds what it has decoded.

        Raises:
            UnreadableError: for now; other threads had the video for MOST_WAIT_S, or until the deadline.
        """
        with self._lock:
            turn, users = self._turns.get(key, (threading.Lock(), 0))
            self._turns[key] = turn, users + 1
        try:
            if not turn.acquire(timeout=seconds_left(MOST_WAIT_S)):
                check_deadline()
                reason = f"the video was decoded for other questions for {MOST_WAIT_S:.0f} s"
                raise UnreadableError(reason, is_permanent=False)
            try:
                yield
            finally:
                turn.release()
        finally:
            with self._lock:
                turn, users = self._turns.pop(key)
                if users > 1:
                    self._turns[key] = turn, users - 1

    def _nbytes(self) -> int:
        return sum(video.nbytes for video in self._videos.values())
