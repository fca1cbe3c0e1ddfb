"""Videos with a sound and subtitles for tests, muxed with PyAV."""

import io
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import av
import numpy as np

from tests.audio_files import RATE_HZ, Samples
from tests.video_files import Picture


def encoded(
    pictures: Sequence[Picture],
    sound: Samples | None = None,
    subtitles: Sequence[str] = (),
    *,
    frames_per_s: int = 8,
    rate_hz: int = RATE_HZ,
    file_format: str = "mp4",
) -> bytes:
    """The bytes of a video file.

    Args:
        sound: (samples,) in [-1, 1]; None for a file without sound.
        subtitles: each is shown for a second.
    """
    file = io.BytesIO()
    with av.open(file, "w", format=file_format) as container:
        streams: list[Any] = []
        if pictures:
            video: Any = container.add_stream("libx264", rate=frames_per_s)
            video.height, video.width = np.asarray(pictures[0]).shape[:2]
            video.pix_fmt, video.codec_context.thread_count = "yuv420p", 1
            streams.append(video)
        if sound is not None:
            audio: Any = container.add_stream("aac", rate=rate_hz, layout="mono")
            streams.append(audio)
        codec = "mov_text" if file_format == "mp4" else "subrip"
        shown: Any = container.add_mux_stream(codec) if subtitles else None
        for picture in pictures:
            container.mux(video.encode(av.VideoFrame.from_ndarray(np.asarray(picture))))
        if sound is not None:
            frame = av.AudioFrame.from_ndarray(
                np.atleast_2d(sound).astype(np.float32), format="fltp", layout="mono"
            )
            frame.rate, frame.pts = rate_hz, 0
            container.mux(audio.encode(frame))
        for stream in streams:
            container.mux(stream.encode())
        for second, text in enumerate(subtitles):
            data = text.encode()
            packet = av.Packet(len(data).to_bytes(2, "big") + data if codec == "mov_text" else data)
            packet.stream, packet.time_base = shown, Fraction(1, 1000)
            packet.pts = packet.dts = 1000 * second
            packet.duration = 1000
            container.mux(packet)
    return file.getvalue()
