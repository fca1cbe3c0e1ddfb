"""Tests of the short way for plain JPEGs, against Pillow's decoder."""

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image
from skimage import data

from lorabel.errors import UnreadableError
from lorabel.media.decode_memory import DecodeMemory
from lorabel.media.image import MOST_SCANS
from lorabel.media.pixels import decoded_pixels
from lorabel.media.plain_jpeg import decode_plain_jpeg, plain_jpeg_size
from tests.lorabel.media.test_image import with_scans

PHOTO = Image.fromarray(data.astronaut()).crop((0, 0, 301, 200))
MEMORY = DecodeMemory(2**28)


def jpeg(picture: Image.Image = PHOTO, **options: Any) -> bytes:
    file = io.BytesIO()
    picture.save(file, "JPEG", **options)
    return file.getvalue()


def exif(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def with_tall_chroma() -> bytes:
    """Each value of chroma is for four rows (4:4:1), as after a lossless turn of 4:1:1."""
    file = jpeg(subsampling=0)
    luma = file.index(b"\x01\x11\x00", file.index(b"\xff\xc0"))
    return file[: luma + 1] + b"\x14" + file[luma + 2 :]


def with_xmp(file: bytes, orientation: int) -> bytes:
    xmp = f'http://ns.adobe.com/xap/1.0/\0<x tiff:Orientation="{orientation}"/>'.encode()
    return file[:2] + b"\xff\xe1" + (len(xmp) + 2).to_bytes(2, "big") + xmp + file[2:]


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}, {"quality": 30}])
def test_the_pixels_of_a_plain_jpeg_are_those_of_pillow(options: dict[str, Any]) -> None:
    file = jpeg(**options)
    assert plain_jpeg_size(file, 150) == PHOTO.size
    pixels = decode_plain_jpeg(file)
    assert pixels is not None
    expected = np.asarray(Image.open(io.BytesIO(file))).astype(int)
    assert np.abs(pixels.astype(int) - expected).max() <= 1


@pytest.mark.parametrize(
    "file",
    [
        pytest.param(jpeg(PHOTO.convert("CMYK")), id="CMYK"),
        pytest.param(jpeg(PHOTO.convert("L")), id="gray"),
        pytest.param(jpeg(exif=exif(6)), id="on its side"),
        pytest.param(with_xmp(jpeg(), 6), id="on its side by XMP"),
        pytest.param(jpeg(PHOTO.resize((2000, 1500))), id="large"),
        pytest.param(jpeg(PHOTO.resize((400, 300))), id="twice the model's side, so scaled while it is decoded"),
        pytest.param(with_tall_chroma(), id="4:4:1"),
        pytest.param(with_xmp(b"\xff\xd8\xff\xff" + jpeg()[3:], 6), id="on its side by XMP, before a fill byte"),
        pytest.param(jpeg(exif=exif(6), comment=b"x" * 65_000), id="on its side, with a long comment"),
        pytest.param(jpeg()[:2] + b"\xff\xd0" + jpeg()[2:], id="a marker where none is"),
        pytest.param(jpeg()[:2] + b"\xff\xfe\x00\x00" + jpeg()[2:], id="a length of nothing"),
        pytest.param(jpeg()[:40], id="cut off in its header"),
        pytest.param(b"\xff\xd8\xff" + bytes(100), id="no JPEG"),
        pytest.param(b"", id="empty"),
    ],
)
def test_what_is_not_plain_is_left_to_pillow(file: bytes) -> None:
    assert plain_jpeg_size(file, 150) is None


def test_a_scan_may_hold_what_looks_like_a_name_of_an_orientation() -> None:
    file = jpeg(comment=b"x") + b"Exif\x00\x00"
    assert plain_jpeg_size(file, 150) == PHOTO.size


def test_a_jpeg_that_is_cut_off_has_the_reason_that_pillow_gives() -> None:
    file = jpeg()
    with (
        pytest.raises(UnreadableError, match="is no readable picture: it is cut off") as caught,
        decoded_pixels(file[: len(file) // 2], 100, 150, MEMORY),
    ):
        pass
    assert caught.value.is_permanent
    assert MEMORY.reserved_bytes == 0


def test_a_plain_jpeg_is_refused_if_it_has_more_pixels_than_allowed() -> None:
    file = jpeg(PHOTO.resize((1200, 1200)))
    with pytest.raises(UnreadableError, match="MEDIA_MAX_MEGAPIXELS"), decoded_pixels(file, 1, 1000, MEMORY):
        pass


def test_memory_is_reserved_while_the_pixels_are_used() -> None:
    with decoded_pixels(jpeg(), 100, 150, MEMORY) as pixels:
        assert isinstance(pixels, np.ndarray)
        assert MEMORY.reserved_bytes >= 2 * pixels.nbytes
    assert MEMORY.reserved_bytes == 0


def test_a_plain_jpeg_of_many_scans_is_refused() -> None:
    with pytest.raises(UnreadableError, match="more than 64 scans"):
        decode_plain_jpeg(with_scans(MOST_SCANS + 1))


def test_many_scans_of_a_single_colour_are_refused_also_where_the_frame_is_not_progressive() -> None:
    """libjpeg fills up a scan without data, so each costs a pass over the picture."""
    file = jpeg()
    first = file.index(b"\xff\xda")
    scan_of_luma = b"\xff\xda\x00\x08\x01\x01\x00\x00\x3f\x00"
    with pytest.raises(UnreadableError, match="more than 64 scans"):
        decode_plain_jpeg(file[:first] + scan_of_luma * MOST_SCANS + file[first:])
