"""Places of regions: against rectangles whose corners are known, and against what NumPy turns."""

import math
from typing import Any

import numpy as np
import pytest

from lorabel.errors import MissingTargetError
from lorabel.labeling.image_regions import corners_of, image_region


def rectangle(**value: Any) -> dict[str, Any]:
    place = {"x": 10, "y": 20, "width": 30, "height": 40}
    return {"original_width": 400, "original_height": 100, "value": place | value}


def test_a_rectangle_comes_back_as_it_was() -> None:
    corners = (0.1, 0.2, 0.55, 0.975)
    region = image_region("box", "image", "rectanglelabels", corners, (640, 480), {"rectanglelabels": ["Car"]})
    assert region["original_width"] == 640
    assert region["value"]["x"] == pytest.approx(10)
    assert region["value"]["width"] == pytest.approx(45)
    assert region["value"]["rectanglelabels"] == ["Car"]
    assert corners_of(region) == pytest.approx(corners)


def test_a_quarter_turn_around_its_corner_in_pixels() -> None:
    """120 x 40 pixels at (40, 20) of 400 x 100: turned clockwise it reaches from x 0 to 40 and down to y 140."""
    assert corners_of(rectangle(rotation=90)) == pytest.approx((0.0, 0.2, 0.1, 1.0))


@pytest.mark.parametrize("angle", [0, 10, 44, 90, 91, 180, 200, 270, 359, 360, -30])
def test_a_turned_rectangle_is_within_the_box_of_its_turned_corners(angle: float) -> None:
    width, height = 17, 29
    region = rectangle(x=50, y=50, width=width, height=height, rotation=angle)
    pixels = np.array([[0, 0], [width * 4, 0], [width * 4, height], [0, height]])
    cos, sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    turned = (pixels @ np.array([[cos, sin], [-sin, cos]]) + [200, 50]) / [400, 100]
    expected = np.concatenate([turned.min(axis=0), turned.max(axis=0)]).clip(0, 1)
    assert corners_of(region) == pytest.approx(expected, abs=1e-9)


def test_an_ellipse_and_its_quarter_turn() -> None:
    ellipse = {"x": 50, "y": 50, "radiusX": 10, "radiusY": 20}
    region = {"original_width": 400, "original_height": 100, "value": ellipse}
    assert corners_of(region) == pytest.approx((0.4, 0.3, 0.6, 0.7))
    region["value"] = {**ellipse, "rotation": 90}
    assert corners_of(region) == pytest.approx((0.45, 0.1, 0.55, 0.9))


def test_a_polygon_that_leaves_the_picture_is_cut() -> None:
    points = [[-5, 10], [50, 90], [120, 40]]
    assert corners_of({"value": {"points": points}}) == pytest.approx((0.0, 0.1, 1.0, 0.9))


@pytest.mark.parametrize(
    ("region", "reason"),
    [
        ({}, "value is None"),
        (rectangle(width=0), "no area"),
        (rectangle(x=101), "no area within the picture"),
        (rectangle(x="10"), "x is '10', not a number"),
        (rectangle(x=True), "x is True, not a number"),
        (rectangle(x=math.nan), "x is nan, not a number"),
        ({"value": {"x": 1, "y": 2, "width": 3}}, "height is missing"),
        (
            {"value": rectangle()["value"] | {"rotation": 5}},
            "original_width and original_height are None and None",
        ),
        (
            rectangle(rotation=5) | {"original_width": 0, "original_height": 0},
            "original_height are 0 and 0, expected",
        ),
        (
            rectangle(rotation=5) | {"original_width": 9, "original_height": -1},
            "original_height are 9 and -1, expected",
        ),
        (rectangle(x=1e300), r"x is 1e\+300, not a number"),
        ({"value": {"points": [[1, 2], [3, 4]]}}, "a polygon with 2 points has no area"),
        ({"value": {"points": [[1, 2], [3, 4], [5]]}}, "a point of the polygon is not two numbers"),
        ({"value": {"points": [[1, 2], [3, 4], 5]}}, "a point of the polygon is not two numbers"),
    ],
)
def test_a_region_without_a_place_has_a_reason(region: dict[str, Any], reason: str) -> None:
    with pytest.raises(MissingTargetError, match=reason):
        corners_of(region)
