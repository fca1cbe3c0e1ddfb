import io
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageChops, ImageOps, features

from lorabel.errors import UnreadableError
from lorabel.media import image
from lorabel.media.decode_memory import DecodeMemory
from lorabel.media.image import MOST_SCANS, PICTURE_FORMATS, decode_image, decoded_bytes, decoded_image, shown_size


def saved(picture: Image.Image, file_format: str, **options: Any) -> bytes:
    file = io.BytesIO()
    picture.save(file, file_format, **options)
    return file.getvalue()


def jpeg(picture: Image.Image, **options: Any) -> bytes:
    return saved(picture, "JPEG", **options)


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


def test_a_webp_with_too_many_pixels_is_refused_before_it_is_opened() -> None:
    """Pillow takes memory for the pixels of a WebP when it opens the file."""
    for options in ({"lossless": True}, {"lossless": False}, {"lossless": True, "exif": b"Exif\0\0"}):
        with pytest.raises(
            UnreadableError, match=r"picture of 1\.4 megapixels, more than 1 \(MEDIA_MAX_MEGAPIXELS"
        ):
            decoded_bytes(saved(Image.new("RGB", (1200, 1200)), "WEBP", **options), 1, 100)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P", "1", "I;16", "CMYK"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_large_picture_is_shrunk_and_stands_upright(
    mode: str, orientation: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = Image.new("RGB", (80, 40), "black")
    drawn.paste("white", (0, 0, 40, 20))
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = saved(drawn.convert(mode), "TIFF" if mode == "CMYK" else "PNG", exif=exif)
    whole = decode_image(file, 100, 10)
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(file))).convert("RGB")
    assert whole.tobytes() == expected.tobytes()
    monkeypatch.setattr(image, "LARGE_PX", 1000)
    shrunk = decode_image(file, 100, 10)
    assert (shrunk.mode, shrunk.size) == ("RGB", (whole.width // 4, whole.height // 4))
    difference = ImageChops.difference(shrunk, expected.resize(shrunk.size, Image.Resampling.BOX))
    assert max(high for _, high in difference.getextrema()) <= 1


RAMP = np.linspace(0, 1, 256).reshape(16, 16)


@pytest.mark.parametrize("file_format", ["PNG", "TIFF"])
@pytest.mark.parametrize(
    "values",
    [RAMP * 65535, 800 + RAMP * 3000],
    ids=["the whole range of 16 bits", "a narrow range, as of an X-ray of 12 bits"],
)
def test_a_picture_of_16_bits_is_scaled_from_its_lowest_to_its_highest_value(
    file_format: str, values: np.ndarray
) -> None:
    file = saved(Image.fromarray(values.round().astype("uint16")), file_format)
    gray = np.asarray(decode_image(file, 100))
    assert np.abs(gray - RAMP[:, :, None] * 255).max() <= 1


@pytest.mark.parametrize(
    ("dtype", "low", "high"),
    [(">u2", 700, 30000), ("int32", -700, 30000), ("int32", -(2**31), 2**31 - 1), ("float32", 0, 1)]
    + [("float32", -3e38, 3e38)],
)
def test_a_tiff_of_any_kind_of_number_is_scaled_by_its_range(dtype: str, low: float, high: float) -> None:
    file = saved(Image.fromarray((low + RAMP * (high - low)).astype(dtype)), "TIFF")
    gray = np.asarray(decode_image(file, 100))
    assert np.abs(gray - RAMP[:, :, None] * 255).max() <= 1


def test_of_floats_what_is_no_number_is_black_and_infinity_is_the_limit() -> None:
    values = np.array([[np.nan, -np.inf, 2, 4, np.inf]], "float32")
    gray = np.asarray(decode_image(saved(Image.fromarray(values), "TIFF"), 100))[0, :, 0]
    assert gray.tolist() == [0, 0, 0, 255, 255]


@pytest.mark.parametrize(
    ("dtype", "value"), [("uint16", 0), ("uint16", 700), ("float32", 0.5), ("float32", np.nan)]
)
def test_a_picture_of_a_single_value_is_black(dtype: str, value: float) -> None:
    file = saved(Image.fromarray(np.full((2, 3), value, dtype)), "TIFF")
    assert decode_image(file, 100).getextrema() == ((0, 0),) * 3


def transparent(mode: str) -> Image.Image:
    """Red and opaque on the left, black and transparent on the right; gray if the mode has no colours."""
    picture = Image.new("RGBA", (8, 4), (0, 0, 0, 0))
    picture.paste((255, 0, 0, 255), (0, 0, 4, 4))
    return picture.convert(mode)


@pytest.mark.parametrize(
    ("mode", "file_format"),
    [("RGBA", "PNG"), ("LA", "PNG"), ("P", "PNG"), ("RGBA", "WEBP"), ("RGBA", "GIF"), ("RGBA", "TIFF")],
)
def test_a_transparent_picture_lies_on_white(mode: str, file_format: str) -> None:
    options = {"lossless": True} if file_format == "WEBP" else {}
    picture = decode_image(saved(transparent(mode), file_format, **options), 100)
    gray_of_red = 76
    assert picture.getpixel((1, 1)) == ((gray_of_red,) * 3 if mode == "LA" else (255, 0, 0))
    assert picture.getpixel((6, 1)) == (255, 255, 255)


def test_half_transparent_is_half_white() -> None:
    file = saved(Image.new("RGBA", (4, 4), (0, 0, 0, 128)), "PNG")
    assert decode_image(file, 100).getpixel((0, 0)) == (127, 127, 127)


@pytest.mark.parametrize(
    ("picture", "transparency"),
    [
        (Image.new("RGB", (4, 4), (1, 2, 3)), (1, 2, 3)),
        (Image.new("L", (4, 4), 5), 5),
        (Image.fromarray(np.array([[300, 40000]], "uint16")), 300),
    ],
    ids=["RGB", "L", "I;16"],
)
def test_a_colour_that_a_png_calls_transparent_is_white(picture: Image.Image, transparency: Any) -> None:
    file = saved(picture, "PNG", transparency=transparency)
    assert decode_image(file, 100).getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_a_large_transparent_picture_lies_on_white(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image, "LARGE_PX", 10)
    picture = decode_image(saved(transparent(mode), "PNG"), 100, 2)
    assert (picture.size, picture.getpixel((3, 1))) == ((4, 2), (255, 255, 255))


def test_a_large_png_with_a_transparent_colour_lies_on_white(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image, "LARGE_PX", 10)
    file = saved(Image.new("RGB", (8, 4), (1, 2, 3)), "PNG", transparency=(1, 2, 3))
    assert decode_image(file, 100, 2).getpixel((1, 1)) == (255, 255, 255)


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow does not read AVIF")
def test_an_avif_is_read_upright_and_on_white() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    file = saved(
        transparent("RGBA").resize((64, 32), Image.Resampling.NEAREST),
        "AVIF",
        quality=100,
        subsampling="4:4:4",
        exif=exif,
    )
    picture = decode_image(file, 100)
    assert (picture.mode, picture.size) == ("RGB", (32, 64))
    expected = Image.new("RGB", (32, 64), "white")
    expected.paste("red", (0, 0, 32, 32))
    assert max(high for _, high in ImageChops.difference(picture, expected).getextrema()) < 10


@pytest.mark.parametrize("file_format", ["PNG", "GIF", "BMP", "TIFF", "WEBP", "JPEG", "AVIF"])
def test_a_file_that_is_cut_off_anywhere_is_unreadable_or_a_picture(file_format: str) -> None:
    file = saved(Image.radial_gradient("L").convert("RGB").resize((64, 64)), file_format)
    for length in range(0, len(file), max(1, len(file) // 60)):
        for broken in (file[:length], file[:length] + b"hunter2" + file[length + 7 :]):
            try:
                with decoded_image(broken, 100, 100, DecodeMemory(2**30)) as picture:
                    assert picture.mode == "RGB"
            except UnreadableError as error:
                assert error.is_permanent and "hunter2" not in str(error)


def with_scans(count: int) -> bytes:
    """A progressive JPEG whose last scan is repeated until there are `count`."""
    file = jpeg(Image.new("L", (64, 64), 128), progressive=True)
    last = file[file.rindex(b"\xff\xda") : -2]
    return file[:-2] + last * (count - file.count(b"\xff\xda")) + file[-2:]


@pytest.mark.parametrize(
    "wrap", [lambda file: file, lambda file: file + file], ids=["JPEG", "with another behind it"]
)
def test_a_jpeg_of_many_scans_is_refused_before_it_is_decoded(wrap: Callable[[bytes], bytes]) -> None:
    assert decode_image(wrap(with_scans(MOST_SCANS)), 100).size == (64, 64)
    with pytest.raises(UnreadableError, match="JPEG of more than 64 scans") as caught:
        decode_image(wrap(with_scans(MOST_SCANS + 1)), 100)
    assert caught.value.is_permanent


def test_a_thumbnail_in_a_jpeg_does_not_count_as_scans() -> None:
    exif = b"Exif\0\0" + b"\xff\xda" * 100
    assert decode_image(jpeg(Image.new("RGB", (64, 64)), exif=exif), 100).size == (64, 64)


def test_several_jpegs_in_a_file_are_estimated_as_a_jpeg() -> None:
    picture = Image.new("RGB", (2000, 2000))
    several = saved(picture, "MPO", save_all=True, append_images=[picture.resize((64, 64))])
    assert Image.open(io.BytesIO(several)).format == "MPO"
    assert decoded_bytes(several, 100, 64) == decoded_bytes(jpeg(picture), 100, 64)


MEASURED = """
import resource, sys
from concurrent.futures import ThreadPoolExecutor
from PIL import Image, ImageChops, ImageOps
from lorabel.media.decode_memory import DecodeMemory
from lorabel.media.image import decoded_bytes, decoded_image

limit_bytes, times, file = int(sys.argv[1]), int(sys.argv[2]), open(sys.argv[3], "rb").read()
memory = DecodeMemory(limit_bytes)

def read(_):
    with decoded_image(file, 100, 64, memory) as image:
        return image.size

Image.init()
before_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
with ThreadPoolExecutor(16) as pool:
    list(pool.map(read, range(times)))
print(decoded_bytes(file, 100, 64), (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kb) * 1024)
"""


def measured_bytes(file: bytes, folder: Path, limit_bytes: int, times: int) -> tuple[int, int]:
    """The estimate for a picture, and by how much a process grows that reads it, up to 16 times at once."""
    (folder / "file").write_bytes(file)
    command = [sys.executable, "-c", MEASURED, str(limit_bytes), str(times), str(folder / "file")]
    ended = subprocess.run(command, capture_output=True, text=True, check=True)
    estimated, grown = map(int, ended.stdout.split())
    return estimated, grown


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mode", "file_format", "options"),
    [
        ("RGB", "PNG", {}),
        ("RGBA", "PNG", {}),
        ("P", "PNG", {}),
        ("RGB", "WEBP", {"lossless": True, "method": 0, "quality": 0}),
        ("RGB", "WEBP", {"method": 0}),
        ("RGB", "JPEG", {"progressive": True, "subsampling": 0}),
        ("CMYK", "JPEG", {"progressive": True}),
        ("RGB", "TIFF", {"compression": "tiff_lzw"}),
        ("P", "GIF", {}),
        ("I;16", "PNG", {}),
        ("F", "TIFF", {}),
        ("RGBA", "AVIF", {"speed": 10, "subsampling": "4:4:4"}),
    ],
)
def test_a_picture_takes_no_more_memory_than_is_reserved_for_it(
    mode: str, file_format: str, options: dict[str, Any], tmp_path: Path
) -> None:
    file = saved(Image.new(mode, (5000, 5000)), file_format, **options)
    estimated, grown = measured_bytes(file, tmp_path, 2**30, 1)
    assert grown < estimated + 16 * 2**20


@pytest.mark.slow
def test_many_large_pictures_at_once_stay_within_the_limit(tmp_path: Path) -> None:
    """Each has 95 MB of pixels."""
    file = saved(Image.new("RGB", (5000, 5000)), "PNG")
    _, grown = measured_bytes(file, tmp_path, 256 * 2**20, 16)
    assert grown < (256 + 32) * 2**20


@pytest.mark.parametrize(
    "file_format", [name for name in PICTURE_FORMATS if name != "AVIF" or features.check("avif")]
)
def test_the_shown_size_is_that_of_the_decoded_picture(file_format: str) -> None:
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        data = saved(Image.new("RGB", (40, 24)), file_format, exif=exif)
        assert shown_size(data) == decode_image(data, 100).size
    with pytest.raises(UnreadableError):
        shown_size(b"no picture")
