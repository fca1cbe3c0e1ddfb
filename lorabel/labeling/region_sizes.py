"""How large a region is, in the units in which people name a smallest size."""

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np

from lorabel.errors import MissingTargetError, NoAreaError
from lorabel.labeling import bit_masks
from lorabel.labeling.image_regions import corners_of, part_of, size_of
from lorabel.labeling.label_config import ControlTag
from lorabel.labeling.regions import Region
from lorabel.labeling.text_offsets import TAGS as TEXT_TAGS

PERCENT = ("width_percent", "height_percent", "area_percent")
PIXELS = ("width_px", "height_px", "area_px")
CHARACTERS, SECONDS, FRAMES = "characters", "seconds", "frames"
ON_PICTURES = (
    "RectangleLabels",
    "EllipseLabels",
    "PolygonLabels",
    "BrushLabels",
    "Rectangle",
    "Ellipse",
    "Polygon",
    "Brush",
)
ON_TEXTS = ("HyperTextLabels", "ParagraphLabels")
# Of an object tag, what the regions of <Labels> on it are measured in.
UNITS_OF_LABELS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "Image": (*PERCENT, *PIXELS),
        "Video": PERCENT,
        "Audio": (SECONDS,),
        **dict.fromkeys(TEXT_TAGS, (CHARACTERS,)),
    }
)


def units_of(control: ControlTag) -> tuple[str, ...]:
    """In which units the regions of a control tag are measured; none if they have no size."""
    if control.tag in ON_PICTURES:
        return (*PERCENT, *PIXELS)
    if control.tag in ON_TEXTS:
        return (CHARACTERS,)
    if control.tag == "VideoRectangle":
        return PERCENT
    if control.tag == "TimelineLabels":
        return (FRAMES,)
    if control.tag == "Labels" and control.objects:
        return UNITS_OF_LABELS.get(control.objects[0].tag, ())
    return ()


def size_in(region: Region, unit: str) -> float | None:
    """The size of a region; None if the region has no such size, or one that cannot be read; 0 if it has
    no area within the picture.

    Width and height are those of the upright box around it; the area is its own. Of a thing in a video, they are
    those of its largest keyframe.

    Args:
        unit: one of those that `units_of` returns.
    """
    value = region.get("value")
    if not isinstance(value, Mapping):
        return None
    if unit == CHARACTERS:
        return _characters(value)
    if unit == SECONDS:
        return _length(value.get("start"), value.get("end"))
    if unit == FRAMES:
        lengths = [_length(part.get("start"), part.get("end")) for part in _dicts(value.get("ranges"))]
        return sum(length + 1 for length in lengths if length is not None) if lengths else None
    sequence = value.get("sequence")
    places = [{"value": point} for point in _dicts(sequence)] if sequence is not None else [region]
    sizes = [size for place in places if (size := _size_of_place(place, unit)) is not None]
    return max(sizes, default=None)


def _size_of_place(region: Region, unit: str) -> float | None:
    try:
        width, height, area = _fractions(region)
    except NoAreaError:
        return 0.0
    except (MissingTargetError, TypeError, ValueError):
        return None
    share = {"width": width, "height": height, "area": area}[unit.partition("_")[0]]
    if unit in PERCENT:
        return 100 * share
    size = size_of(region)
    if size is None:
        return None
    factor = {"width_px": size[0], "height_px": size[1], "area_px": size[0] * size[1]}[unit]
    return share * factor


def _fractions(region: Region) -> tuple[float, float, float]:
    """Width and height of the box around a region, and its own area, as fractions of the picture.

    Raises:
        MissingTargetError: it has no place that can be read.
    """
    value = region["value"]
    if "rle" in value:
        width, height = size_of(region) or (0, 0)
        mask = bit_masks.decode(value["rle"], width, height)
        if not mask.any():
            return 0.0, 0.0, 0.0
        left, top, right, bottom = bit_masks.box_of(mask)
        return right - left, bottom - top, float(np.count_nonzero(mask)) / mask.size
    left, top, right, bottom = corners_of(region)
    return right - left, bottom - top, _area(region, value)


def _area(region: Region, value: Mapping[str, Any]) -> float:
    points = value.get("points")
    if isinstance(points, list):
        following = [*points[1:], points[0]]
        crossed = sum(x * next_y - next_x * y for (x, y), (next_x, next_y) in zip(points, following, strict=True))
        return abs(float(crossed)) / 2 / 100**2
    part = part_of(region)
    return part.width * part.height * (math.pi / 4 if "radiusX" in value else 1.0)


def _characters(value: Mapping[str, Any]) -> float | None:
    # Of a page or a dialogue, start and end are places in it and no numbers.
    length, text = _length(value.get("start"), value.get("end")), value.get("text")
    return float(len(text)) if length is None and isinstance(text, str) else length


def _length(start: Any, end: Any) -> float | None:
    is_span = all(isinstance(edge, int | float) and not isinstance(edge, bool) for edge in (start, end))
    return float(end - start) if is_span else None


def _dicts(value: Any) -> list[dict[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []
