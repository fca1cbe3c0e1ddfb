"""Regions on a picture: from Label Studio's percent to fractions of the picture, and back.

A rectangle of Label Studio is turned by `rotation` degrees clockwise around its corner (x, y), in pixels of the
picture (https://labelstud.io/tags/rectangle). Models see upright boxes: of a turned rectangle, an ellipse or a
polygon, the smallest upright box around it.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from lorabel.errors import MissingTargetError, NoAreaError
from lorabel.labeling.regions import Region
from lorabel.picture_part import Part
from lorabel.space_contracts import Corners

LONGEST_SHOWN = 60
# No place in percent, nor side of a picture in pixels, is larger: browsers show no such picture. Without a limit
# calculations would overflow.
LARGEST_NUMBER = 1_000_000
PICTURE_FIELDS = ("id", "original_width", "original_height", "image_rotation")
PLACE_FIELDS = ("x", "y", "width", "height", "rotation", "radiusX", "radiusY", "points", "closed")


def picture_region(
    from_name: str, to_name: str, kind: str, size: tuple[int, int], value: Mapping[str, Any]
) -> Region:
    """A region of any kind on a picture.

    Args:
        kind: the type of the region: `brushlabels`, `polygonlabels`, `keypointlabels`, ...
        size: width and height of the picture as people see it, in pixels.
        value: its place, and what the region says: `{"format": "rle", "rle": [...], "brushlabels": ["Car"]}`.
    """
    return {
        "from_name": from_name,
        "to_name": to_name,
        "type": kind,
        "original_width": size[0],
        "original_height": size[1],
        "image_rotation": 0,
        "value": dict(value),
    }


def image_region(
    from_name: str,
    to_name: str,
    kind: str,
    corners: Corners,
    size: tuple[int, int],
    value: Mapping[str, Any],
    *,
    is_polygon: bool = False,
) -> Region:
    """A region whose place is an upright rectangle.

    Args:
        kind: the type of the region: `rectanglelabels`, `rectangle`, `labels`, `textarea`, ...
        corners: fractions of the picture.
        size: width and height of the picture as people see it, in pixels.
        value: what the region says beside its place, e.g. `{"rectanglelabels": ["Car"]}`.
        is_polygon: whether the rectangle is written as a polygon with four points.
    """
    left, top, right, bottom = (100 * number for number in corners)
    place: dict[str, Any] = {"x": left, "y": top, "width": right - left, "height": bottom - top, "rotation": 0}
    if is_polygon:
        points = [[left, top], [right, top], [right, bottom], [left, bottom]]
        place = {"points": points, "closed": True}
    return picture_region(from_name, to_name, kind, size, {**place, **value})


def ellipse_region(
    from_name: str, to_name: str, kind: str, corners: Corners, size: tuple[int, int], value: Mapping[str, Any]
) -> Region:
    """A region whose place is an upright ellipse; see `image_region`.

    Args:
        corners: of the box around the ellipse, fractions of the picture.
    """
    left, top, right, bottom = corners
    place = {
        "x": (left + right) * 50,
        "y": (top + bottom) * 50,
        "radiusX": (right - left) * 50,
        "radiusY": (bottom - top) * 50,
        "rotation": 0,
    }
    return picture_region(from_name, to_name, kind, size, {**place, **value})


def corners_of(region: Region) -> Corners:
    """Return the smallest upright box around a rectangle, an ellipse or a polygon, as fractions of the picture.

    What is outside the picture is cut off.

    Raises:
        MissingTargetError: the region has no place, or one without area or outside the picture.
    """
    value = region.get("value")
    if not isinstance(value, dict):
        raise MissingTargetError(f"value is {value!r}, not an object")
    points = _points(region, value)
    left, top = (max(min(numbers), 0.0) for numbers in zip(*points, strict=True))
    right, bottom = (min(max(numbers), 1.0) for numbers in zip(*points, strict=True))
    if not (left < right and top < bottom):
        raise NoAreaError("the region has no area within the picture")
    return left, top, right, bottom


def part_of(region: Region) -> Part:
    """Return the rectangle that a region covers, with the turn of a turned rectangle or ellipse.

    What an upright region has outside the picture is cut off.

    Raises:
        MissingTargetError: see `corners_of`.
    """
    left, top, right, bottom = corners_of(region)
    value = region["value"]
    if not value.get("rotation") or isinstance(value.get("points"), list):
        return Part(x=(left + right) / 2, y=(top + bottom) / 2, width=right - left, height=bottom - top)
    if "radiusX" in value:
        x, y, width, height = (_number(value, name) / 50 for name in ("x", "y", "radiusX", "radiusY"))
        x, y = x / 2, y / 2
    else:
        width, height = _number(value, "width") / 100, _number(value, "height") / 100
        x, y = (sum(numbers) / 4 for numbers in zip(*_points(region, value), strict=True))
    if not (width and height):
        raise NoAreaError("the region has no area")
    return Part(x=x, y=y, width=abs(width), height=abs(height), rotation=_number(value, "rotation"))


def place_of(region: Region) -> dict[str, Any]:
    """Return the fields that say where a region is: what the regions of one id have in common.

    Raises:
        MissingTargetError: its value is no object.
    """
    value = region.get("value")
    if not isinstance(value, dict):
        raise MissingTargetError(f"value is {value!r:.{LONGEST_SHOWN}}, not an object")
    same = {name: region[name] for name in PICTURE_FIELDS if name in region}
    return {**same, "value": {name: value[name] for name in PLACE_FIELDS if name in value}}


def size_of(region: Region) -> tuple[int, int] | None:
    """Width and height of the picture in pixels, as the editor wrote them; None if they are missing or odd."""
    try:
        width, height = (_finite(region.get(name)) for name in ("original_width", "original_height"))
    except ValueError:
        return None
    is_size = min(width, height) >= 1 and width.is_integer() and height.is_integer()
    return (int(width), int(height)) if is_size else None


def _points(region: Region, value: Mapping[str, Any]) -> Sequence[tuple[float, float]]:
    """Points on the outline that has the same upright box as the region, as fractions of the picture."""
    if isinstance(value.get("points"), list):
        return _polygon(value["points"])
    if "radiusX" in value:
        return _ellipse(region, value)
    x, y, width, height = (_number(value, name) / 100 for name in ("x", "y", "width", "height"))
    aspect = _aspect(region, value)
    cos, sin = _direction(value)
    # In a unit in which the picture's height is 1, turns keep their angle.
    offsets = ((0.0, 0.0), (width * aspect, 0.0), (width * aspect, height), (0.0, height))
    return [(x + (a * cos - b * sin) / aspect, y + a * sin + b * cos) for a, b in offsets]


def _polygon(points: Sequence[Any]) -> Sequence[tuple[float, float]]:
    if len(points) < 3:
        raise MissingTargetError(f"a polygon with {len(points)} points has no area")
    try:
        return [(_finite(x) / 100, _finite(y) / 100) for x, y in points]
    except (TypeError, ValueError) as error:
        raise MissingTargetError(f"a point of the polygon is not two numbers: {error}") from None


def _ellipse(region: Region, value: Mapping[str, Any]) -> Sequence[tuple[float, float]]:
    x, y, radius_x, radius_y = (_number(value, name) / 100 for name in ("x", "y", "radiusX", "radiusY"))
    aspect = _aspect(region, value)
    cos, sin = _direction(value)
    half_width = math.hypot(radius_x * aspect * cos, radius_y * sin) / aspect
    half_height = math.hypot(radius_x * aspect * sin, radius_y * cos)
    return [(x - half_width, y - half_height), (x + half_width, y + half_height)]


def _direction(value: Mapping[str, Any]) -> tuple[float, float]:
    angle = math.radians(_number(value, "rotation") if value.get("rotation") else 0.0)
    return math.cos(angle), math.sin(angle)


def _aspect(region: Region, value: Mapping[str, Any]) -> float:
    """Width over height of the picture; only a turned region needs it."""
    if not value.get("rotation"):
        return 1.0
    if (size := size_of(region)) is None:
        raise MissingTargetError(
            f"it is turned, and original_width and original_height are {region.get('original_width')!r:.20} and "
            f"{region.get('original_height')!r:.20}, expected pixels"
        )
    return size[0] / size[1]


def _number(value: Mapping[str, Any], name: str) -> float:
    try:
        return _finite(value[name])
    except KeyError:
        raise MissingTargetError(f"{name} is missing") from None
    except (TypeError, ValueError):
        raise MissingTargetError(f"{name} is {value[name]!r:.{LONGEST_SHOWN}}, not a number") from None


def _finite(number: Any) -> float:
    """The number as a float.

    Raises:
        ValueError: it is no number, or none with a size of at most LARGEST_NUMBER.
    """
    is_number = isinstance(number, int | float) and not isinstance(number, bool)
    if not is_number or not abs(number) <= LARGEST_NUMBER:
        raise ValueError(f"{number!r}"[:LONGEST_SHOWN])
    return float(number)
