"""Parts of pictures, against pictures in which every part has a colour of its own."""

import math

import numpy as np
import pytest
from PIL import Image, ImageDraw

from lorabel.media.cut_out import cut_out, on_square
from lorabel.picture_part import Part

GREY = (120, 121, 122)
SIZE = (300, 200)


def turned_rectangle(middle: tuple[float, float], sides: tuple[float, float], angle: float) -> Image.Image:
    """A rectangle, red at its left half and blue at its right half, turned clockwise on a green picture."""
    image = Image.new("RGB", SIZE, "lime")
    pen = ImageDraw.Draw(image)
    cos, sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    for colour, left, right in (("red", -0.5, 0.0), ("blue", 0.0, 0.5)):
        corners = ((left, -0.5), (right, -0.5), (right, 0.5), (left, 0.5))
        offsets = [(x * sides[0], y * sides[1]) for x, y in corners]
        pen.polygon([(middle[0] + a * cos - b * sin, middle[1] + a * sin + b * cos) for a, b in offsets], colour)
    return image


def part_of(middle: tuple[float, float], sides: tuple[float, float], angle: float = 0.0) -> Part:
    width, height = SIZE
    return Part(
        x=middle[0] / width, y=middle[1] / height, width=sides[0] / width, height=sides[1] / height, rotation=angle
    )


@pytest.mark.parametrize("angle", [0, 20, 45, 90, 135, 200, 330, -30])
def test_a_turned_part_becomes_upright(angle: float) -> None:
    middle, sides = (150.0, 100.0), (100.0, 60.0)
    image = cut_out(turned_rectangle(middle, sides, angle), part_of(middle, sides, angle), GREY)
    assert image.size == pytest.approx((100, 60), abs=1)
    pixels = np.asarray(image)[5:-5]
    assert (pixels[:, 5:45] == (255, 0, 0)).all(), "what is left before it is turned is left"
    assert (pixels[:, 55:-5] == (0, 0, 255)).all()


def test_the_scale_of_the_picture_does_not_matter() -> None:
    middle, sides = (90.0, 60.0), (60.0, 40.0)
    half = turned_rectangle(middle, sides, 0).reduce(2)
    image = cut_out(half, part_of(middle, sides), GREY)
    assert image.size == (30, 20)
    assert image.getpixel((3, 3)) == (255, 0, 0) and image.getpixel((27, 17)) == (0, 0, 255)


def test_an_upright_part_ends_at_the_border_and_a_turned_one_is_filled() -> None:
    red = Image.new("RGB", SIZE, "red")
    assert cut_out(red, part_of((10, 100), (40, 40)), GREY).size == (30, 40)
    turned = cut_out(red, part_of((0, 100), (40, 40), 45), GREY)
    assert turned.size == pytest.approx((40, 40), abs=1)
    assert turned.getpixel((1, 38)) == GREY and turned.getpixel((38, 1)) == (255, 0, 0)


@pytest.mark.parametrize("x", [-0.2, 0.0, 0.5, 1.0, 1.4])
def test_a_part_is_at_least_one_pixel(x: float) -> None:
    image = cut_out(Image.new("RGB", SIZE, "red"), Part(x=x, y=0.5, width=1e-4, height=1e-4), GREY)
    assert image.size == (1, 1)


def test_a_long_picture_stands_in_the_middle_of_a_square() -> None:
    square = on_square(Image.new("RGB", (40, 10), "red"), GREY)
    assert square.size == (40, 40)
    assert [square.getpixel((20, y)) for y in (0, 14, 15, 24, 25)] == [GREY, GREY, *[(255, 0, 0)] * 2, GREY]


def test_of_a_turned_part_that_is_much_larger_than_the_picture_only_what_is_around_the_picture_is_kept() -> None:
    image = turned_rectangle((150, 100), (100, 60), 30)
    huge = cut_out(image, Part(x=0.4, y=0.6, width=40, height=40, rotation=30), GREY)
    assert max(huge.size) <= math.hypot(*SIZE) + 1
    assert {(255, 0, 0), (0, 0, 255), (0, 255, 0), GREY} <= {
        pixel for _, pixel in huge.getcolors(huge.width * huge.height) or ()
    }
