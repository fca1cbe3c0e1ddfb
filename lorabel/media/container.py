"""Opens a video or sound file that is in memory, with PyAV (https://pyav.basswood-io.com).

Such files come from strangers. So only formats and decoders that browsers have are tried, and no address or file
that is named inside of the file is opened: FFmpeg would fetch all that a playlist (HLS, DASH, concat) names.
"""

import errno
import io
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import av
from av.container import InputContainer
from av.stream import Disposition

from lorabel.errors import UnreadableError
from lorabel.media.deadline import check_deadline
from lorabel.media.decode_memory import DecodeMemory
from lorabel.media.kept_videos import Frames

Kind = Literal["video", "audio"]
# FFmpeg's names of MP4 and MOV, WebM and Matroska, and Ogg; for sound also of formats that hold nothing else.
FORMATS: dict[str, str] = {"video": "mov,matroska,ogg", "audio": "mov,matroska,ogg,wav,mp3,flac,aac"}
# FFmpeg's names of the decoders that browsers have. FFmpeg has hundreds more, which are old and little tested.
DECODERS: dict[str, str] = {
    "video": "h264,hevc,vp8,libvpx,vp9,libvpx-vp9,av1,libdav1d,libaom-av1,theora,mpeg4",
    "audio": "aac,mp3,mp3float,opus,libopus,vorbis,libvorbis,flac,alac,pcm_u8,pcm_s16le,pcm_s16be,pcm_s24le,"
    "pcm_s24be,pcm_s32le,pcm_s32be,pcm_f32le,pcm_f32be,pcm_f64le,pcm_alaw,pcm_mulaw,adpcm_ms,adpcm_ima_wav",
}
MOST_PACKETS = 2_000_000
# Frames that a decoder has in memory at most: 16 that others refer to (H.264), and those that wait for their turn.
# Measured with 16 references and B-frames: 23.
MOST_FRAMES = 24
# A pixel of a frame in the largest format that decoders give, yuva444p16.
MOST_PIXEL_BYTES = 8
# The largest frames of video calls, and by how much a codec makes width and height larger.
CALL_PIXELS = 1920 * 1088
CODEC_MARGIN_PX = 32
# FFmpeg decodes a frame to find out its format. Measured: 2.4 bytes for each pixel.
PROBE_PIXEL_BYTES = 3


@dataclass(frozen=True)
class FrameLimits:
    """Limits on the frames of a video.

    Args:
        memory: where memory for decoding is reserved; None for no limit.
        picture_bytes: bytes for each pixel of what is made of a frame.
    """

    most_megapixels: int
    memory: DecodeMemory | None = None
    picture_bytes: float = 0.0

    def probing(self) -> AbstractContextManager[None]:
        """A context in which memory is reserved for opening a file whose frames are not known yet."""
        if self.memory is None:
            return nullcontext()
        size_bytes = PROBE_PIXEL_BYTES * self.most_megapixels * 10**6
        return self.memory.reserve(min(size_bytes, self.memory.most_bytes))

    def decoding(self, stream: Any) -> AbstractContextManager[None]:
        """A context in which memory is reserved for decoding the stream."""
        if self.memory is None:
            return nullcontext()
        pixel_format = stream.codec_context.format
        pixel_bytes = pixel_format.padded_bits_per_pixel / 8 if pixel_format else MOST_PIXEL_BYTES
        return self.memory.reserve(int(_most_pixels(stream) * (MOST_FRAMES * pixel_bytes + self.picture_bytes)))


@dataclass(frozen=True)
class Track(Frames):
    """The first stream of a file that has the kind asked for. Not thread-safe.

    Args:
        packets: of the stream.
    """

    container: InputContainer
    stream: Any
    packets: int

    @property
    def frame_size(self) -> tuple[int, float]:
        """Pixels and bytes of a frame of a video, as the decoder gives it."""
        codec = self.stream.codec_context
        bits = codec.format.padded_bits_per_pixel if codec.format else 8 * MOST_PIXEL_BYTES
        return codec.width * codec.height, codec.width * codec.height * bits / 8

    def frames(self, keyframe: int) -> Iterator[Any]:
        """Decode frames from the keyframe on, in the order of time. Broken packets are left out, as players do.

        Raises:
            UnreadableError: for good; the pixels become larger. For now; the deadline has passed.
        """
        pixel_format = self.stream.codec_context.format if self.stream.type == "video" else None
        most_bits = pixel_format.padded_bits_per_pixel if pixel_format else None
        self.container.seek(keyframe, stream=self.stream)
        for packet in self.container.demux(self.stream):
            check_deadline()
            try:
                frames = packet.decode()
            except av.error.InvalidDataError:
                continue
            for frame in frames:
                # Memory was reserved for pixels as large as the first frame has.
                if most_bits is not None and frame.format.padded_bits_per_pixel > most_bits:
                    raise UnreadableError("the pixels of the video's frames become larger", is_permanent=True)
                if frame.pts is not None:
                    yield frame


@contextmanager
def opened(data: bytes, kind: Kind, frame_limits: FrameLimits | None = None) -> Iterator[Track]:
    """Open a file, and close it when the context ends. For a video, memory for decoding is reserved until then.

    Errors that PyAV raises inside of the context become an UnreadableError, for good: a broken file stays broken.

    Raises:
        UnreadableError: for good; the file has another format, is broken, has no stream of the kind, or its frames
            are beyond the limits.
    """
    options = {"codec_whitelist": DECODERS[kind]}
    if frame_limits is not None:
        options["max_pixels"] = str(frame_limits.most_megapixels * 10**6)
    try:
        # The file is closed before its memory is given back.
        with ExitStack() as reservations, ExitStack() as stack:
            with nullcontext() if frame_limits is None else frame_limits.probing():
                container = stack.enter_context(_container(data, kind, options))
                stream = _stream(container, kind)
                # A single thread for each file: other threads decode other files.
                stream.codec_context.thread_count = 1
                if frame_limits is not None:
                    _check_size(stream, frame_limits.most_megapixels)
                    options["max_pixels"] = str(_most_pixels(stream))
                stream.codec_context.options = options
                track = _track(container, stream)
            if frame_limits is not None:
                reservations.enter_context(frame_limits.decoding(stream))
            yield track
            stream.codec_context.flush_buffers()
    except (av.FFmpegError, OSError, ValueError) as error:
        # Not the error itself, which may quote the file.
        reason = getattr(error, "strerror", None) or type(error).__name__
        raise UnreadableError(
            f"file of {len(data)} bytes is no readable {kind}: {reason}", is_permanent=True
        ) from error


def _container(data: bytes, kind: Kind, options: dict[str, str]) -> InputContainer:
    container_options = {"format_whitelist": FORMATS[kind], "protocol_whitelist": "none"}
    return av.open(io.BytesIO(data), "r", options=options, container_options=container_options, io_open=_refuse)


def _refuse(url: str, *_: Any) -> Any:
    raise PermissionError(errno.EACCES, "the file names another file, which is not opened")


def _stream(container: InputContainer, kind: Kind) -> Any:
    streams: Any = container.streams.video if kind == "video" else container.streams.audio
    for stream in streams:
        # The cover picture of an album is a video stream, too.
        if stream.codec_context is not None and Disposition.attached_pic not in stream.disposition:
            return stream
    kinds = ", ".join(stream.type for stream in container.streams) or "nothing"
    raise UnreadableError(f"the file holds {kinds}, but no {kind} that can be decoded", is_permanent=True)


def _check_size(stream: Any, most_megapixels: int) -> None:
    megapixels = stream.codec_context.width * stream.codec_context.height / 1e6
    if megapixels > most_megapixels:
        raise UnreadableError(
            f"frames of {megapixels:.1f} megapixels, more than {most_megapixels} (MEDIA_MAX_MEGAPIXELS)",
            is_permanent=True,
        )


def _most_pixels(stream: Any) -> int:
    """Pixels that a frame may have: as many as the first, with the margins that codecs add.

    In recordings of video calls, frames become larger while the connection becomes better.
    """
    codec = stream.codec_context
    return max(CALL_PIXELS, int((codec.width + CODEC_MARGIN_PX) * (codec.height + CODEC_MARGIN_PX)))


def _track(container: InputContainer, stream: Any) -> Track:
    """Measure a stream by reading all its packets, without decoding them.

    The length in a file's header is not used, since it may be absent or a guess.
    """
    start, end, keyframes, packets = None, 0, [], 0
    for count, packet in enumerate(container.demux(stream)):
        check_deadline()
        if count > MOST_PACKETS:
            raise UnreadableError(f"the file has more than {MOST_PACKETS} packets", is_permanent=True)
        moment = packet.dts if packet.pts is None else packet.pts
        if moment is None:
            continue
        packets += 1
        start = moment if start is None else min(start, moment)
        end = max(end, moment + (packet.duration or 0))
        if packet.is_keyframe:
            keyframes.append(moment)
    if start is None or not keyframes:
        raise UnreadableError("the file has no packet from which on it can be decoded", is_permanent=True)
    return Track(float(stream.time_base), start, end, sorted(keyframes), container, stream, packets)
