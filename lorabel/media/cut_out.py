"""Cuts parts out of a decoded picture, so that each can be shown to a model as a picture of its own."""

import math
from collections.abc import Sequence

from PIL import Image

from lorabel.picture_part import Part

RGB = tuple[int, int, int]


def cut_out(image: Image.Image, part: Part, ground: RGB) -> Image.Image:
    """Return a part of a picture as an upright picture.

    Args:
        image: RGB, at any scale: the part's position is relative.
        ground: what is shown where a turned part is outside the picture.

    Returns:
        Of an upright part what is in the picture, or the pixel that is nearest to it. A turned part is cut off
        where there is nothing of the picture beyond, so that it is never larger than the picture's diagonal.
    """
    middle_x, middle_y = part.x * image.width, part.y * image.height
    width, height = part.width * image.width, part.height * image.height
    if not part.rotation:
        left, right = _pixels(middle_x - width / 2, middle_x + width / 2, image.width)
        top, bottom = _pixels(middle_y - height / 2, middle_y + height / 2, image.height)
        return image.crop((left, top, right, bottom))
    # In the part's own directions, from its middle: along (cos, sin) and across (-sin, cos).
    cos, sin = math.cos(math.radians(part.rotation)), math.sin(math.radians(part.rotation))
    offsets = [(x - middle_x, y - middle_y) for x in (0, image.width) for y in (0, image.height)]
    along, width_px = _within(width, [x * cos + y * sin for x, y in offsets])
    across, height_px = _within(height, [y * cos - x * sin for x, y in offsets])
    start = middle_x + along * cos - across * sin, middle_y + along * sin + across * cos
    return image.transform(
        (width_px, height_px),
        Image.Transform.AFFINE,
        (cos, -sin, start[0], sin, cos, start[1]),
        Image.Resampling.BICUBIC,
        fillcolor=ground,
    )


def on_square(image: Image.Image, ground: RGB) -> Image.Image:
    """Return a picture in the middle of a square ground.

    Models that read squares would cut off the ends of a long picture, or squeeze it.
    """
    side = max(image.size)
    square = Image.new("RGB", (side, side), ground)
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return square


def _pixels(low: float, high: float, most: int) -> tuple[int, int]:
    """The first pixel and the one after the last of an interval, at least one pixel within [0, most]."""
    first = min(max(round(low), 0), most - 1)
    return first, max(min(round(high), most), first + 1)


def _within(length: float, reach: Sequence[float]) -> tuple[float, int]:
    """Where a side of a turned part begins, and its pixels, at least one; cut off to where the picture reaches.

    Args:
        length: of the side, whose middle is 0.
        reach: how far the corners of the picture are, in the direction of the side.
    """
    low, high = max(-length / 2, min(reach)), min(length / 2, max(reach))
    return low, max(1, round(high - low))
