"""The bytes of a plain JPEG -> RGB pixels, by libjpeg-turbo directly (https://gitlab.com/jfolz/simplejpeg).

Most pictures of most projects are plain: YCbCr, upright, of a usual size, and whole. They need no scaled decoding,
no turning and no conversion of colours, and libjpeg-turbo writes them into an array without the GIL. Everything
else, also what is broken, is left to `lorabel.media.image`, which says what is wrong with it.
"""

from typing import Any

import numpy as np
import simplejpeg

from lorabel.media.deadline import check_deadline
from lorabel.media.image import check_scans

# Larger pictures have more use of scaled decoding, and must not be copied.
MOST_PX = 2_000_000
# Three coefficients of 2 bytes, if the JPEG is progressive; the pixels, and a copy of them for the model.
PIXEL_BYTES = 3 * 2 + 2 * 3
START = b"\xff\xd8\xff"
# What may name an orientation, in EXIF and in XMP; only Pillow knows.
ORIENTATIONS = (b"Exif\x00\x00", b"tiff:Orientation")
# Frames of several scans, whatever their scans say (T.81, table B.1).
PROGRESSIVE = (b"\xff\xc2", b"\xff\xca")
COLORS = 3
SCAN, FILL = 0xDA, 0xFF
# Markers without a length, of which none comes before a scan.
ALONE = frozenset({0x00, 0x01, *range(0xD0, 0xDA)})

Pixels = np.ndarray[Any, np.dtype[np.uint8]]


def plain_jpeg_size(data: bytes, enough_px: int) -> tuple[int, int] | None:
    """Width and height of a plain JPEG; None for other files.

    Args:
        enough_px: as for `decode_image`; a JPEG that is at least twice as large is not plain.
    """
    head = _head(data)
    if head is None or any(name in head for name in ORIENTATIONS):
        return None
    try:
        height, width, color_space, _ = simplejpeg.decode_jpeg_header(data)
    except (ValueError, KeyError):  # KeyError: it has no name for how the colours are subsampled, such as 4:4:1
        return None
    is_plain = color_space == "YCbCr" and width * height <= MOST_PX and min(width, height) < 2 * enough_px
    return (width, height) if is_plain else None


def decode_plain_jpeg(data: bytes) -> Pixels | None:
    """Decode a JPEG to (height, width, 3) uint8 RGB; None if anything is wrong with it.

    Raises:
        UnreadableError: for good; it has too many scans. For now; the deadline has passed.
    """
    if not _has_one_scan(data):
        check_scans(data)
    check_deadline()
    try:
        pixels: Pixels = simplejpeg.decode_jpeg(data, "RGB")
    except ValueError:
        return None
    return pixels


def _has_one_scan(data: bytes) -> bool:
    """Whether libjpeg reads one scan only, since it is of all colours. Counting scans takes longer than this."""
    head = _head(data)
    if head is None or any(kind in head for kind in PROGRESSIVE):
        return False
    # After the scan's marker and length comes the number of its components.
    return data[len(head) + 4 : len(head) + 5] == bytes([COLORS])


def _head(data: bytes) -> bytes | None:
    """What comes before the first scan of a JPEG, a small part of it; None if that is not found at once."""
    if not data.startswith(START):
        return None
    position = len(START) - 1
    while position + 3 < len(data) and data[position] == FILL:
        kind = data[position + 1]
        if kind == SCAN:
            return data[:position]
        if kind in ALONE:
            return None
        position += 1 if kind == FILL else 2 + int.from_bytes(data[position + 2 : position + 4], "big")
    return None
