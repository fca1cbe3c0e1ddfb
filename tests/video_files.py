"""Draws videos for tests, and encodes them with PyAV."""

import io
from collections.abc import Sequence
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray
from PIL import Image

Picture = Image.Image | NDArray[np.uint8]


def encoded(
    pictures: Sequence[Picture],
    codec: str = "libx264",
    file_format: str = "mp4",
    frames_per_s: int = 25,
    keyframe_every: int = 250,
    rotation: int = 0,
) -> bytes:
    """The bytes of a video file.

    Args:
        rotation: degrees by which a player must turn the frames counterclockwise.
    """
    file = io.BytesIO()
    first = np.asarray(pictures[0])
    with av.open(file, "w", format=file_format) as container:
        stream: Any = container.add_stream(codec, rate=frames_per_s)
        stream.height, stream.width = first.shape[:2]
        stream.pix_fmt = "yuv420p"
        stream.gop_size = keyframe_every
        stream.codec_context.thread_count = 1
        if rotation:
            stream.set_display_rotation(rotation)
        for picture in pictures:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.asarray(picture))))
        container.mux(stream.encode())
    return file.getvalue()


def colour_video(colour: str, frames: int = 4, side_px: int = 48) -> bytes:
    return encoded([Image.new("RGB", (side_px, side_px), colour)] * frames)


def brightening(frames: int, width: int = 64, height: int = 48) -> list[NDArray[np.uint8]]:
    """Frames that go evenly from black to white, so that a frame's brightness tells its moment."""
    levels = np.linspace(0, 255, frames).round().astype(np.uint8)
    return [np.full((height, width, 3), level, np.uint8) for level in levels]
