"""The bytes of a video file -> a few of its frames, spread evenly. Fetching is in `lorabel.media.fetching`."""

from collections.abc import Iterator

from av.video.frame import VideoFrame
from PIL import Image

from lorabel.errors import UnreadableError
from lorabel.media.container import Track, opened

# Frames between a keyframe and the frame that is shown must be decoded, too. At hundreds of frames a second, this
# limit is about half a minute. Videos with a keyframe every ten seconds stay far below it, however long they are.
MOST_DECODED = 10_000


def decode_video(data: bytes, frames: int, clip_s: float, most_megapixels: int) -> Iterator[Image.Image]:
    """Decode frames that are spread evenly over a video, as upright RGB pictures in the order of time.

    The video is divided into `frames` parts of equal length, and the frame on the screen in the middle of each
    part is taken. A short video gives some frames more than once. A video that breaks off gives its last readable
    frame for the parts that are missing.

    Args:
        clip_s: only this many seconds in the middle of the video are used; 0 for all of it.

    Raises:
        UnreadableError: for good; the file is broken, or too many frames would have to be decoded.
    """
    with opened(data, "video", most_megapixels) as track:
        for frame in _shown(track, _moments(track, frames, clip_s)):
            # PyAV and Pillow both count angles counterclockwise.
            image: Image.Image = frame.to_image()  # type: ignore[no-untyped-call]
            yield image.rotate(frame.rotation, expand=True)


def _moments(track: Track, count: int, clip_s: float) -> list[float]:
    """The middles of the parts, in units of the track."""
    length = track.end - track.start
    clip = min(length, clip_s / track.unit_s) if clip_s else length
    first = track.start + (length - clip) / 2
    return [first + (i + 0.5) * clip / count for i in range(count)]


def _shown(track: Track, moments: list[float]) -> Iterator[VideoFrame]:
    """For each moment, the frame that is on the screen then."""
    frames: Iterator[VideoFrame] = iter(())
    shown: VideoFrame | None = None
    decoded = 0
    for moment in moments:
        keyframe = track.keyframe(moment)
        if shown is None or keyframe > _pts(shown):
            frames = track.frames(keyframe)
        while shown is None or _pts(shown) + (shown.duration or 0) <= moment:
            following = next(frames, None)
            if following is None:
                break
            shown, decoded = following, decoded + 1
            if decoded > MOST_DECODED:
                raise UnreadableError(
                    f"more than {MOST_DECODED} frames would have to be decoded, since the video has only "
                    f"{len(track.keyframes)} keyframes in {track.length_s:.0f} s; encode it with more of them",
                    is_permanent=True,
                )
        if shown is None:
            raise UnreadableError("no frame of the video can be decoded", is_permanent=True)
        yield shown


def _pts(frame: VideoFrame) -> int:
    assert frame.pts is not None
    return frame.pts
