"""The bytes of a video file -> some of its frames. Fetching is in `lorabel.media.fetching`."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import floor
from typing import Generic, TypeVar

from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from PIL import Image

from lorabel.errors import UnreadableError
from lorabel.media.container import FrameLimits
from lorabel.media.decode_memory import DecodeMemory
from lorabel.media.image import LARGE_PX
from lorabel.media.kept_frames import opened_frames
from lorabel.media.kept_videos import Frames

# Frames between a keyframe and the frame that is shown must be decoded, too. At hundreds of frames a second, this
# limit is about half a minute. Videos with a keyframe every ten seconds stay far below it, however long they are.
MOST_DECODED = 10_000
# Megapixels of all these frames together: 4,800 frames of 1920 x 1080, or 300 of 7680 x 4320, which take 6 s.
MOST_DECODED_MEGAPIXELS = 10_000
# Bytes for each pixel of a frame that is not shrunk: FFmpeg's picture, Pillow's, and Pillow's that is turned.
PICTURE_BYTES = 11.0
# What a float may be off by.
TINY_S = 1e-6

T = TypeVar("T")


class TooManyFramesError(UnreadableError):
    """More frames would have to be decoded than the limits allow."""


@dataclass(frozen=True)
class Beginning(Generic[T]):
    """Frames from the beginning of a video.

    Args:
        frames: what was made of the frames that are shown at 0, 1, 2, ... steps; at least one.
        read_s: the time in which they are shown, in seconds.
        length_s: of the whole video, in seconds.
    """

    frames: Sequence[T]
    read_s: float
    length_s: float


# What Label Studio 1.23.2 rounds a frame's moment to, and then adds to it.
SEEK_PRECISION_S = 0.002


def decode_video(
    data: bytes,
    frames: int,
    clip_s: float,
    most_megapixels: int,
    enough_px: int | None = None,
    memory: DecodeMemory | None = None,
) -> Iterator[Image.Image]:
    """Decode frames that are spread evenly over a video, as upright RGB pictures in the order of time.

    The video is divided into `frames` parts of equal length, and the frame on the screen in the middle of each
    part is taken. A short video gives some frames more than once. A video that breaks off gives its last readable
    frame for the parts that are missing.

    Args:
        clip_s: only this many seconds in the middle of the video are used; 0 for all of it.
        enough_px: frames of more than `image.LARGE_PX` are shrunk to sides that are at least this long.
        memory: where memory is reserved until the iterator ends or is closed; None for no limit.

    Raises:
        UnreadableError: for good; the file is broken, too many frames would have to be decoded, or the frames are
            beyond the limits.
    """
    with opened_frames(data, FrameLimits(most_megapixels, memory, PICTURE_BYTES)) as track:
        for frame in _shown(track, _moments(track, frames, clip_s)):
            yield _picture(frame, enough_px)


def decode_beginning(
    data: bytes,
    step_s: float,
    most_s: float,
    convert: Callable[[Image.Image], T],
    most_megapixels: int,
    enough_px: int | None = None,
    memory: DecodeMemory | None = None,
) -> Beginning[T]:
    """Decode the frame that is shown at every step, from the first moment of a video to its last.

    The length is that of the frames in the file, whatever its header says. Where too many frames would have to be
    decoded, the video counts as read until there.

    Args:
        step_s: seconds from step to step.
        most_s: what comes after so many seconds is not read.
        convert: is called with each picture, upright and RGB.
        most_megapixels: see `decode_video`, also for the other arguments and what is raised.
    """
    with opened_frames(data, FrameLimits(most_megapixels, memory, PICTURE_BYTES)) as track:
        length_s = track.length_s
        read_s = min(length_s, most_s)
        count = int((read_s + TINY_S) / step_s) + 1
        frames: list[T] = []
        try:
            for frame in _shown(track, [track.start + i * step_s / track.unit_s for i in range(count)]):
                frames.append(convert(_picture(frame, enough_px)))
        except TooManyFramesError:
            if not frames:
                raise
            read_s = (len(frames) - 1) * step_s
        return Beginning(frames, read_s, length_s)


@dataclass(frozen=True)
class NumberedFrames:
    """A video that is open, and whose frames are counted as Label Studio counts them. Not thread-safe.

    Args:
        count: frames of the video at the frame rate of the label config; at least 1.
        length_s: of the video, in seconds.
    """

    count: int
    length_s: float
    _track: Frames
    _frames_per_s: float
    _enough_px: int | None

    def pictures(self, numbers: Sequence[int]) -> Iterator[Image.Image]:
        """Decode frames as upright RGB pictures.

        Args:
            numbers: ascending, from 1. Those after the last show the last.

        Raises:
            UnreadableError: see `decode_video`.
        """
        moments = [
            self._track.start + moment_s(number, self._frames_per_s) / self._track.unit_s for number in numbers
        ]
        for frame in _shown(self._track, moments):
            yield _picture(frame, self._enough_px)


@contextmanager
def numbered_frames(
    data: bytes,
    frames_per_s: float,
    most_megapixels: int,
    enough_px: int | None = None,
    memory: DecodeMemory | None = None,
) -> Iterator[NumberedFrames]:
    """Open a video whose frames are asked for by their numbers, see `decode_video`.

    Args:
        frames_per_s: of the label config, which may differ from the file's.
    """
    with opened_frames(data, FrameLimits(most_megapixels, memory, PICTURE_BYTES)) as track:
        count = max(1, floor(track.length_s * frames_per_s + 0.5))
        yield NumberedFrames(count, track.length_s, track, frames_per_s, enough_px)


def moment_s(number: int, frames_per_s: float) -> float:
    """Return the moment at which Label Studio 1.23.2 shows a frame.

    Args:
        number: of the frame, from 1.
    """
    exact = (number - 1) / frames_per_s
    return (floor(exact / SEEK_PRECISION_S + 0.5) + 1) * SEEK_PRECISION_S


def _picture(frame: VideoFrame, enough_px: int | None) -> Image.Image:
    is_large = enough_px is not None and frame.width * frame.height > LARGE_PX
    shrinking = max(1, min(frame.width, frame.height) // (enough_px or 1)) if is_large else 1
    size = {} if shrinking == 1 else {"width": frame.width // shrinking, "height": frame.height // shrinking}
    # A frame that is kept would keep the reformatter of its own `to_image`, too.
    converted = VideoReformatter().reformat(frame, format="rgb24", **size)
    image: Image.Image = converted.to_image()  # type: ignore[no-untyped-call]
    # PyAV and Pillow both count angles counterclockwise.
    return image.rotate(frame.rotation, expand=True)


def _moments(track: Frames, count: int, clip_s: float) -> list[float]:
    """The middles of the parts, in units of the track."""
    length = track.end - track.start
    clip = min(length, clip_s / track.unit_s) if clip_s else length
    first = track.start + (length - clip) / 2
    return [first + (i + 0.5) * clip / count for i in range(count)]


def _shown(track: Frames, moments: list[float]) -> Iterator[VideoFrame]:
    """For each moment, the frame that is on the screen then."""
    frames: Iterator[VideoFrame] = iter(())
    shown: VideoFrame | None = None
    decoded, pixels = 0, 0
    for moment in moments:
        keyframe = track.keyframe(moment)
        if shown is None or keyframe > _pts(shown):
            frames = track.frames(keyframe)
        while shown is None or _pts(shown) + (shown.duration or 0) <= moment:
            following = next(frames, None)
            if following is None:
                break
            shown, decoded = following, decoded + 1
            pixels += following.width * following.height
            if decoded > MOST_DECODED or pixels > MOST_DECODED_MEGAPIXELS * 10**6:
                raise TooManyFramesError(
                    f"more than {decoded - 1} frames of {following.width} x {following.height} would have to be "
                    f"decoded, since the video has only {len(track.keyframes)} keyframes "
                    f"in {track.length_s:.0f} s; encode it with more of them, or smaller",
                    is_permanent=True,
                )
        if shown is None:
            raise UnreadableError("no frame of the video can be decoded", is_permanent=True)
        yield shown


def _pts(frame: VideoFrame) -> int:
    assert frame.pts is not None
    return frame.pts
