"""The bytes of a picture file -> pixels as an array, or, of pictures that must not be copied, a picture of Pillow.

An array is what a family resizes fastest (`lorabel.families.encoders.picture_resizing`).
"""

from collections.abc import Iterator
from contextlib import contextmanager

from PIL import Image

from lorabel.media.decode_memory import DecodeMemory
from lorabel.media.image import check_pixels, decoded_bytes, decoded_image
from lorabel.media.plain_jpeg import PIXEL_BYTES, Pixels, decode_plain_jpeg, plain_jpeg_size


@contextmanager
def decoded_pixels(
    data: bytes, most_megapixels: int, enough_px: int, memory: DecodeMemory
) -> Iterator[Pixels | Image.Image]:
    """A context with an upright RGB picture, for which memory is reserved until the context ends.

    A plain JPEG is (height, width, 3) uint8. Other pictures are those of `decoded_image`.

    Raises:
        UnreadableError: see `decoded_image`.
    """
    size = plain_jpeg_size(data, enough_px)
    if size is not None:
        check_pixels(size[0] * size[1], most_megapixels)
        with memory.reserve(size[0] * size[1] * PIXEL_BYTES):
            pixels = decode_plain_jpeg(data)
            if pixels is not None:
                yield pixels
                return
    with decoded_image(data, most_megapixels, enough_px, memory) as image:
        yield image


def needed_bytes(data: bytes, most_megapixels: int, enough_px: int) -> int:
    """Bytes that `decoded_pixels` reserves, estimated from the file's header.

    Raises:
        UnreadableError: for good; the picture has more than `most_megapixels`.
    """
    size = plain_jpeg_size(data, enough_px)
    if size is None:
        return decoded_bytes(data, most_megapixels, enough_px)
    check_pixels(size[0] * size[1], most_megapixels)
    return size[0] * size[1] * PIXEL_BYTES
