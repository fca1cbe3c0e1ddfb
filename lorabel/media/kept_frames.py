"""Opens a video for its frames; those of a short one are decoded once, however many questions are about it.

A task may ask what a video shows as a whole, when something happens in it, and how things move, window by window.
Each question looks at frames of its own. So where several are asked together (`shared_frames`), all frames from a
keyframe to the next are decoded together and kept, until the memory for decoding is needed. Keeping takes time,
and a question alone does not need all frames; so for one question, and of long videos, nothing is kept.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from math import inf
from typing import Any

from lorabel.media.container import FrameLimits, Track, opened
from lorabel.media.fetching import digest
from lorabel.media.kept_videos import Frames, KeptVideo

# Frames of a video with one keyframe are decoded all at once. One with more frames is not kept.
MOST_KEPT = 5000


_are_shared: ContextVar[bool] = ContextVar("shared_frames", default=False)


@contextmanager
def shared_frames(are_shared: bool = True) -> Iterator[None]:
    """A context in which the frames of videos are kept, since other questions are about the same videos.

    It is a context variable and not a parameter, so that the families of other packages need not pass it on.
    """
    token = _are_shared.set(are_shared)
    try:
        yield
    finally:
        _are_shared.reset(token)


@contextmanager
def opened_frames(data: bytes, limits: FrameLimits) -> Iterator[Frames]:
    """Open a video as `opened` does. In `shared_frames`, frames that were decoded before come from memory.

    Raises:
        UnreadableError: see `opened` and `KeptVideos.one_at_a_time`.
    """
    if limits.memory is None or not _are_shared.get():
        with opened(data, "video", limits) as unshared:
            yield unshared
        return
    memory, key = limits.memory, (digest(data), limits.most_megapixels)
    with ExitStack() as stack:
        turn = stack.enter_context(ExitStack())
        turn.enter_context(memory.kept.one_at_a_time(key))

        def open_track() -> Track:
            return stack.enter_context(opened(data, "video", limits))

        video = memory.kept.get(key)
        track: Track | None = None
        if video is None:
            track = open_track()
            video = _to_keep(track)
            if video is None or not memory.keep(key, video):
                turn.close()  # others need not wait
                yield track
                return
        parts = _Parts(
            video, track, open_track, lambda: memory.kept.drop(key), lambda: memory.kept.is_kept(key, video)
        )
        yield _KeptFrames(video.unit_s, video.start, video.end, video.keyframes, parts)


def _to_keep(track: Track) -> KeptVideo | None:
    """The video whose frames may be kept; None if it is long."""
    if track.packets > MOST_KEPT:
        return None
    pixels, frame_bytes = track.frame_size
    nbytes = int(track.packets * frame_bytes)
    return KeptVideo(track.unit_s, track.start, track.end, track.keyframes, pixels, nbytes)


@dataclass(frozen=True)
class _KeptFrames(Frames):
    parts: "_Parts"

    def frames(self, keyframe: int) -> Iterator[Any]:
        """Yield the frames from the keyframe on; see `Frames.frames`."""
        for index in range(self.keyframes.index(keyframe), len(self.keyframes)):
            yield from self.parts.part(index)


class _Parts:
    """The frames from each keyframe to the next, which are decoded where they are not kept. Not thread-safe.

    Args:
        track: the open video; None if it need not be open so far.
        open_track: opens it.
        drop: is called if frames are larger than was expected, so that the video is not to be kept.
        is_kept: whether the memory is not needed for something else in the meantime.
    """

    def __init__(
        self,
        video: KeptVideo,
        track: Track | None,
        open_track: Callable[[], Track],
        drop: Callable[[], None],
        is_kept: Callable[[], bool],
    ) -> None:
        self._video, self._track, self._open_track = video, track, open_track
        self._drop, self._is_kept = drop, is_kept
        # What the decoder gives next, the part that it belongs to, and the frame that came after the part before.
        self._decoding: Iterator[Any] = iter(())
        self._next_part, self._ahead = -1, None

    def part(self, index: int) -> Sequence[Any]:
        """Return the frames from a keyframe on, and before the next.

        Raises:
            UnreadableError: see `Track.frames`.
        """
        part = self._video.parts.get(index)
        if part is None:
            part = list(self._decoded(index))
            if any(frame.width * frame.height > self._video.pixels for frame in part):
                self._drop()
            if self._is_kept():
                self._video.parts[index] = part
            else:
                self._video.parts.clear()
        return part

    def _decoded(self, index: int) -> Iterator[Any]:
        keyframes = self._video.keyframes
        # Some files have frames before their first keyframe.
        first = keyframes[index] if index else -inf
        after = keyframes[index + 1] if index + 1 < len(keyframes) else inf
        if self._next_part != index:
            if self._track is None:
                self._track = self._open_track()
            self._decoding, self._ahead = self._track.frames(keyframes[index]), None
        self._next_part = -1  # if decoding fails, it begins anew
        frame = self._ahead or next(self._decoding, None)
        while frame is not None and frame.pts < after:
            if frame.pts >= first:
                yield frame
            frame = next(self._decoding, None)
        self._ahead, self._next_part = frame, index + 1
