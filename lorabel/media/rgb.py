"""A decoded picture of any of Pillow's modes -> RGB as an annotator would see it.

Pillow's own `convert` cuts values above 255, so that most pictures of 16 bits become white, and shows the colours
under transparent pixels, which are any. A picture is converted in strips, which take little memory beside it.
"""

from collections.abc import Iterator

import numpy as np
from PIL import Image

# Pixels that are converted at a time.
STRIP_PX = 250_000
# Modes with one band of more than 8 bits.
DEEP_MODES = frozenset({"I;16", "I;16B", "I;16L", "I;16N", "I", "F"})
BRIGHTEST = 255


def as_rgb(image: Image.Image) -> Image.Image:
    """Convert to 8 bits for each band: transparent pixels lie on white, and values of more bits are scaled.

    They are scaled so that the lowest value of the picture is black and the highest is white: many pictures of
    16 bits use 12 bits only, and floats have no range of their own. A picture of a single value is black, as are
    values that are no number.
    """
    if image.mode not in DEEP_MODES and not image.has_transparency_data:
        return image if image.mode == "RGB" else image.convert("RGB")
    low, high = _range(image) if image.mode in DEEP_MODES else (0, BRIGHTEST)
    converted = Image.new("RGB", image.size, "white")
    for box in _strips(image):
        strip = image.crop(box)
        if strip.mode in DEEP_MODES:
            strip = _eight_bits(strip, low, high)
        if strip.has_transparency_data:
            strip = strip.convert("RGBA")
            converted.paste(strip, box, strip)
        else:
            converted.paste(strip, box)
    return converted


def _range(image: Image.Image) -> tuple[float, float]:
    """The lowest and the highest finite value."""
    lowest, highest = np.inf, -np.inf
    for box in _strips(image):
        values = np.asarray(image.crop(box))
        finite = values[np.isfinite(values)]
        if finite.size:
            lowest, highest = min(lowest, float(finite.min())), max(highest, float(finite.max()))
    return (lowest, highest) if lowest <= highest else (0, 0)


def _eight_bits(strip: Image.Image, low: float, high: float) -> Image.Image:
    """Scale `low` to black and `high` to white."""
    values = np.asarray(strip).astype(np.float64)
    gray = (values - low) / ((high - low) or 1) * BRIGHTEST
    gray = np.nan_to_num(gray, nan=0, posinf=BRIGHTEST, neginf=0).clip(0, BRIGHTEST)
    gray[values == strip.info.get("transparency")] = BRIGHTEST
    return Image.fromarray(gray.round().astype(np.uint8))


def _strips(image: Image.Image) -> Iterator[tuple[int, int, int, int]]:
    """Boxes (left, upper, right, lower, in pixels) of whole rows."""
    rows = max(1, STRIP_PX // max(1, image.width))
    for top in range(0, image.height, rows):
        yield 0, top, image.width, min(image.height, top + rows)
