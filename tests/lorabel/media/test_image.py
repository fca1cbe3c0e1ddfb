import io
from typing import Any

import pytest
from PIL import Image

from lorabel.errors import UnreadableError
from lorabel.media.image import decode_image


def jpeg(image: Image.Image, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", **options)
    return file.getvalue()


def test_a_picture_is_turned_upright_by_its_exif_orientation() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    assert decode_image(jpeg(Image.new("RGB", (40, 20)), exif=exif), 100).size == (20, 40)


@pytest.mark.parametrize("data", [b"", b"not a picture", jpeg(Image.new("RGB", (64, 64), "red"))[:200]])
def test_a_broken_picture_is_unreadable_for_good(data: bytes) -> None:
    with pytest.raises(UnreadableError, match="no readable picture") as caught:
        decode_image(data, 100)
    assert caught.value.is_permanent


def test_a_picture_with_too_many_pixels_is_refused_before_it_is_decoded() -> None:
    with pytest.raises(UnreadableError, match=r"picture of 1\.4 megapixels, more than 1 \(MEDIA_MAX_MEGAPIXELS"):
        decode_image(jpeg(Image.new("RGB", (1200, 1200))), 1)
