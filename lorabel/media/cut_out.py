"""Cuts parts out of a decoded picture, so that each can be shown to a model as a picture of its own."""

import math

from PIL import Image

from lorabel.picture_part import Part

RGB = tuple[int, int, int]


def cut_out(image: Image.Image, part: Part, ground: RGB) -> Image.Image:
    """Return a part of a picture as an upright picture.

    Args:
        image: RGB, at any scale: the part's position is relative.
        ground: what is shown where a turned part is outside the picture. Of an upright part, only what is in the
            picture is returned, or the pixel that is nearest to it.
    """
    middle_x, middle_y = part.x * image.width, part.y * image.height
    width, height = part.width * image.width, part.height * image.height
    if not part.rotation:
        left, right = _pixels(middle_x - width / 2, middle_x + width / 2, image.width)
        top, bottom = _pixels(middle_y - height / 2, middle_y + height / 2, image.height)
        return image.crop((left, top, right, bottom))
    radius = math.ceil(math.hypot(width, height) / 2) + 1
    left, top = math.floor(middle_x) - radius, math.floor(middle_y) - radius
    around = Image.new("RGB", (2 * radius + 1, 2 * radius + 1), ground)
    around.paste(image, (-left, -top))
    centre = (middle_x - left, middle_y - top)
    # Pillow turns counterclockwise, so that a part that is turned clockwise becomes upright.
    upright = around.rotate(part.rotation, Image.Resampling.BICUBIC, center=centre, fillcolor=ground)
    left, right = _pixels(centre[0] - width / 2, centre[0] + width / 2, upright.width)
    top, bottom = _pixels(centre[1] - height / 2, centre[1] + height / 2, upright.height)
    return upright.crop((left, top, right, bottom))


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
