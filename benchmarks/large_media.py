"""Makes the files that cost most memory to decode: small files of many pixels.

What they show does not matter to decoders, so they are of one colour. `numbered` makes any number of different
files of one, since a file is decoded once as long as its features are in memory.
"""

import io
import math
import struct
import zlib
from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any

import av
from PIL import Image

from lorabel.contracts import Modality

# Twice as many frames as a decoder keeps as references.
VIDEO_FRAMES = 40
# Megapixels of the largest files: of pictures by MEDIA_MAX_MEGAPIXELS, of WebP and videos by MEDIA_DECODE_MB.
MOST_PICTURE, MOST_WEBP, MOST_VIDEO = 100.0, 94.0, 7680 * 4320 / 1e6
Make = Callable[[float], bytes]


def numbered(file: bytes, number: int) -> bytes:
    """The file with a number behind its end, where players and decoders of pictures do not look.

    The number is in a box of type `free`, which files of the type MP4 may have anywhere.
    """
    return file + struct.pack(">I4sQ", 16, b"free", number)


def _saved(mode: str, file_format: str, options: Mapping[str, Any], frames: int, megapixels: float) -> bytes:
    side_px = int(math.sqrt(megapixels * 1e6))
    file = io.BytesIO()
    colours = (("white",) * 3)[: frames - 1]
    others = [Image.new(mode, (side_px, side_px), colour) for colour in colours]
    animated = {"save_all": True, "append_images": others} if others else {}
    Image.new(mode, (side_px, side_px)).save(file, file_format, **animated, **options)
    return file.getvalue()


def _png_of_16_bits(megapixels: float) -> bytes:
    """RGBA, which Pillow does not write."""
    side_px = int(math.sqrt(megapixels * 1e6))

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", side_px, side_px, 16, 6, 0, 0, 0)
    pixels = _zeros(side_px * (1 + 8 * side_px))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def _tiff_of_16_bits(megapixels: float) -> bytes:
    """RGB in a single strip, which Pillow does not write."""
    side_px = int(math.sqrt(megapixels * 1e6))
    strip = _zeros(side_px * side_px * 6)
    # Tag, type (3: 16 bits, 4: 32 bits), count, value: https://www.itu.int/itudoc/itu-t/com16/tiff-fx/docs/tiff6.pdf
    tags = [
        (256, 4, 1, side_px),
        (257, 4, 1, side_px),
        (258, 3, 3, 8 + len(strip)),
        (259, 3, 1, 8),
        (262, 3, 1, 2),
        (273, 4, 1, 8),
        (277, 3, 1, 3),
        (278, 4, 1, side_px),
        (279, 4, 1, len(strip)),
        (284, 3, 1, 1),
    ]
    entries = b"".join(struct.pack("<HHII", *tag) for tag in tags)
    directory = struct.pack("<H", len(tags)) + entries + struct.pack("<I", 0)
    return struct.pack("<2sHI", b"II", 42, 8 + len(strip) + 6) + strip + struct.pack("<3H", 16, 16, 16) + directory


def _zeros(count: int) -> bytes:
    """This many zero bytes, compressed by zlib."""
    compressor = zlib.compressobj(1)
    block = bytes(2**20)
    parts = [compressor.compress(block[: min(len(block), count - at)]) for at in range(0, count, len(block))]
    return b"".join(parts) + compressor.flush()


def _video(codec: str, options: Mapping[str, str], megapixels: float) -> bytes:
    """Frames of 16 : 9, of which the codec keeps as many as it may."""
    width = int(math.sqrt(megapixels * 1e6 * 16 / 9)) // 16 * 16
    height = width * 9 // 16 // 2 * 2
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream: Any = container.add_stream(codec, rate=25, options=dict(options))
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for number in range(VIDEO_FRAMES):
            frame = av.VideoFrame(width, height, "yuv420p")
            for plane in frame.planes:
                plane.update(bytes([number]) * plane.buffer_size)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return file.getvalue()


def _picture(mode: str, file_format: str, frames: int = 1, **options: Any) -> Make:
    return partial(_saved, mode, file_format, options, frames)


X264 = {
    "preset": "ultrafast",
    "x264-params": "ref=16:bframes=8:b-adapt=0:b-pyramid=normal:scenecut=0:rc-lookahead=0:threads=1",
}
X265 = "ref=6:bframes=4:b-adapt=0:rc-lookahead=5:frame-threads=1:pools=2:log-level=0"
PICTURES: Mapping[str, Make] = MappingProxyType(
    {
        "PNG": _picture("RGB", "PNG"),
        "PNG with alpha": _picture("RGBA", "PNG"),
        "PNG of 16 bits": _png_of_16_bits,
        "PNG of 16 bits, grey": _picture("I;16", "PNG"),
        "JPEG": _picture("RGB", "JPEG", subsampling=0),
        "progressive JPEG": _picture("RGB", "JPEG", subsampling=0, progressive=True),
        "CMYK JPEG": _picture("CMYK", "JPEG", progressive=True),
        "lossless WebP": _picture("RGB", "WEBP", lossless=True, method=0, quality=0),
        "lossy WebP": _picture("RGB", "WEBP", method=0),
        "lossy WebP with alpha": _picture("RGBA", "WEBP", method=0),
        "animated WebP": _picture("RGBA", "WEBP", frames=3, method=0),
        "GIF": _picture("P", "GIF"),
        "animated GIF": _picture("P", "GIF", frames=3),
        "TIFF of 16 bits": _tiff_of_16_bits,
    }
)
VIDEOS: Mapping[str, Make] = MappingProxyType(
    {
        "H.264 video": partial(_video, "libx264", X264),
        "HEVC video": partial(_video, "libx265", {"preset": "ultrafast", "x265-params": X265}),
        "VP9 video": partial(_video, "libvpx-vp9", {"deadline": "realtime", "cpu-used": "8"}),
    }
)


def make(name: str, megapixels: float | None = None) -> bytes:
    """A file of a kind in `PICTURES` or `VIDEOS`, by default as large as the default settings allow."""
    if name in VIDEOS:
        return VIDEOS[name](megapixels or MOST_VIDEO)
    return PICTURES[name](megapixels or (MOST_WEBP if "WebP" in name else MOST_PICTURE))


def modality(name: str) -> Modality:
    return Modality.VIDEO if name in VIDEOS else Modality.IMAGE
