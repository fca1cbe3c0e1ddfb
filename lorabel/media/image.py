"""The bytes of a picture file -> an upright RGB picture. Fetching is in `lorabel.media.fetching`."""

import io
import re
import struct
import warnings
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType

from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile
from PIL.TiffImagePlugin import BITSPERSAMPLE, TiffImageFile

from lorabel.errors import UnreadableError
from lorabel.media.deadline import check_deadline
from lorabel.media.decode_memory import DecodeMemory
from lorabel.media.rgb import as_rgb

# Formats that browsers show; AVIF where Pillow was built with it.
# EPS must not be among them: Pillow would start Ghostscript on a stranger's file.
PICTURE_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
# EXIF's tag for the orientation, and what turns a picture with that orientation upright.
ORIENTATION = 0x0112
UPRIGHT: Mapping[int, Image.Transpose] = MappingProxyType(
    {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_270,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_90,
    }
)
# Orientations that exchange width and height.
ON_ITS_SIDE = frozenset({5, 6, 7, 8})
# What Pillow raises for broken files.
BROKEN = (
    OSError,
    ValueError,
    SyntaxError,
    EOFError,
    struct.error,
    zlib.error,
    LookupError,
    TypeError,
    ArithmeticError,
) + (AttributeError, RuntimeError, Image.DecompressionBombError)
# Pictures with more pixels are shrunk before they are turned and converted, if less is enough.
LARGE_PX = 16_000_000
# Pillow stores a pixel of most modes, RGB included, in 4 bytes.
PIXEL_BYTES = 4
# Modes whose pixels, if none is transparent, can be averaged without another copy.
SHRINKABLE = frozenset({"L", "RGB", "CMYK", "YCbCr"})
# libwebp has two canvases, Pillow a copy and the picture. Measured: 16.1 bytes.
WEBP_PIXEL_BYTES = 17
# Four planes, two copies and the picture. Measured: 14 bytes; planes of 10 and 12 bits take 4 more.
AVIF_PIXEL_BYTES = 20
# Scans of a JPEG. Usual progressive files have about 10. Each costs libjpeg a pass over the picture, but need not
# cost a byte for each block: a file of 23 kB with 500 scans took 10 s.
MOST_SCANS = 64
# A marker in a JPEG. FF 00 is a data byte, D0 to D7 are restart markers in a scan, and FF may come several times.
MARKER = re.compile(rb"\xff[^\x00\xd0-\xd8\xff]")
START_OF_SCAN, END_OF_IMAGE = 0xDA, 0xD9


def decode_image(data: bytes, most_megapixels: int, enough_px: int | None = None) -> Image.Image:
    """Decode a picture, and turn it upright as its EXIF orientation says.

    Args:
        enough_px: a JPEG whose sides are both at least twice as long is decoded at a half, a quarter or an eighth
            of its size, which costs libjpeg less (https://pillow.readthedocs.io/en/stable/reference/Image.html,
            draft). Other pictures are shrunk after decoding if they have more than `LARGE_PX`.

    Raises:
        UnreadableError: for good; the file is broken, has another format, or more than `most_megapixels` or
            MOST_SCANS. For now; the deadline has passed.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            check_pixels(_webp_pixels(data), most_megapixels)
            image: Image.Image = Image.open(_File(data), formats=PICTURE_FORMATS)
            check_pixels(image.width * image.height, most_megapixels)
            if isinstance(image, JpegImageFile):  # also of the format MPO
                check_scans(data)
            return _upright_rgb(image, enough_px)
    except BROKEN as error:
        # Not the error itself, which may quote the file.
        is_cut_off = isinstance(error, OSError) and "truncated" in str(error)
        reason = "it is cut off" if is_cut_off else type(error).__name__
        raise UnreadableError(
            f"file of {len(data)} bytes is no readable picture: {reason}", is_permanent=True
        ) from error


def shown_size(data: bytes) -> tuple[int, int]:
    """Width and height in pixels of a picture as people see it, that is, after its EXIF orientation.

    Only the file's header is read.

    Raises:
        UnreadableError: for good; the file is no picture.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(data), formats=PICTURE_FORMATS)
            width, height = image.size
            # Pillow turns a TIFF itself, and says its size as turned.
            is_turned = isinstance(image, TiffImageFile)
            is_on_its_side = not is_turned and image.getexif().get(ORIENTATION, 1) in ON_ITS_SIDE
    except BROKEN as error:
        raise UnreadableError(
            f"file of {len(data)} bytes is no readable picture: {type(error).__name__}", is_permanent=True
        ) from error
    return (height, width) if is_on_its_side else (width, height)


@contextmanager
def decoded_image(
    data: bytes, most_megapixels: int, enough_px: int, memory: DecodeMemory
) -> Iterator[Image.Image]:
    """A context with the picture of `decode_image`, for which memory is reserved until the context ends.

    Raises:
        UnreadableError: for good; see `decode_image` and `DecodeMemory.reserve`.
    """
    with memory.reserve(decoded_bytes(data, most_megapixels, enough_px)):
        yield decode_image(data, most_megapixels, enough_px)


def decoded_bytes(data: bytes, most_megapixels: int, enough_px: int) -> int:
    """Bytes that `decode_image` takes at most, estimated from the file's header.

    Raises:
        UnreadableError: for good; the picture has more than `most_megapixels`.
    """
    if (webp_pixels := _webp_pixels(data)) is not None:
        check_pixels(webp_pixels, most_megapixels)
        return webp_pixels * WEBP_PIXEL_BYTES
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image: Image.Image = Image.open(io.BytesIO(data), formats=PICTURE_FORMATS)
            check_pixels(image.width * image.height, most_megapixels)
            return _estimate(image, enough_px)
    except BROKEN:
        return 0  # `decode_image` says what is wrong


def _estimate(image: Image.Image, enough_px: int) -> int:
    pixels, bands = image.width * image.height, len(image.getbands())
    if isinstance(image, JpegImageFile):
        image.draft("RGB", (enough_px, enough_px))
        # A progressive JPEG has all its coefficients in memory, 2 bytes each, at whatever scale it is decoded.
        return 2 * bands * pixels + 2 * PIXEL_BYTES * image.width * image.height
    if image.format == "AVIF":
        return AVIF_PIXEL_BYTES * pixels
    copies = 1 if _is_shrinkable(image) and _shrinking(image, enough_px) > 1 else 2
    strip_bytes = 0.0
    if isinstance(image, TiffImageFile):
        # A strip of a TIFF may be the whole picture, and is not shortened to 8 bits for each band yet.
        strip_bytes = max(PIXEL_BYTES, sum(image.tag_v2.get(BITSPERSAMPLE, ())) / 8)
    return int(pixels * (PIXEL_BYTES * copies + strip_bytes))


def _upright_rgb(image: Image.Image, enough_px: int | None) -> Image.Image:
    """Decode, and make no more copies of a large picture than must be."""
    if enough_px is not None:
        image.draft("RGB", (enough_px, enough_px))
    image.load()
    turn = UPRIGHT.get(image.getexif().get(ORIENTATION, 1))
    shrinking = 1 if enough_px is None else _shrinking(image, enough_px)
    if shrinking > 1:
        image = (image if _is_shrinkable(image) else as_rgb(image)).reduce(shrinking)
    image = as_rgb(image)
    return image if turn is None else image.transpose(turn)


def _is_shrinkable(image: Image.Image) -> bool:
    return image.mode in SHRINKABLE and not image.has_transparency_data


def _shrinking(image: Image.Image, enough_px: int) -> int:
    """By how much both sides of a large picture are divided; 1 for other pictures."""
    is_large = image.width * image.height > LARGE_PX
    return max(1, min(image.size) // enough_px) if is_large else 1


def check_pixels(pixels: int | None, most_megapixels: int) -> None:
    """Raise an UnreadableError, for good, if the picture is too large."""
    if pixels is not None and pixels > most_megapixels * 1e6:
        raise UnreadableError(
            f"picture of {pixels / 1e6:.1f} megapixels, more than {most_megapixels} (MEDIA_MAX_MEGAPIXELS)",
            is_permanent=True,
        )


class _File(io.BytesIO):
    """A file whose reading ends at the deadline. Most of Pillow's decoders read 64 kB at a time."""

    def read(self, size: int | None = -1) -> bytes:
        check_deadline()
        return super().read(size)


def check_scans(jpeg: bytes) -> None:
    """Raise an UnreadableError, for good, if the JPEG has more than MOST_SCANS.

    The markers are described in https://www.w3.org/Graphics/JPEG/itu-t81.pdf, annex B.
    """
    scans = 0
    marker = MARKER.search(jpeg)
    while marker is not None and marker[0][1] != END_OF_IMAGE:
        scans += marker[0][1] == START_OF_SCAN
        if scans > MOST_SCANS:
            raise UnreadableError(f"it is a JPEG of more than {MOST_SCANS} scans", is_permanent=True)
        length = int.from_bytes(jpeg[marker.end() : marker.end() + 2])
        marker = MARKER.search(jpeg, marker.end() + length)


def _webp_pixels(data: bytes) -> int | None:
    """Width times height of a WebP file; None for other files.

    Pillow takes memory for a WebP as soon as it opens the file. The header is described in
    https://developers.google.com/speed/webp/docs/riff_container.
    """
    if data[:4] != b"RIFF" or data[8:12] != b"WEBP" or len(data) < 30:
        return None
    if data[12:16] == b"VP8X":
        return (int.from_bytes(data[24:27], "little") + 1) * (int.from_bytes(data[27:30], "little") + 1)
    if data[12:16] == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        return ((bits & 0x3FFF) + 1) * ((bits >> 14 & 0x3FFF) + 1)
    width, height = (int.from_bytes(data[start : start + 2], "little") & 0x3FFF for start in (26, 28))
    return width * height
