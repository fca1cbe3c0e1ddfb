"""What a result says about a task, to be shown beside its small picture: shapes, and words."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeGuard

from lorabel.errors import MissingTargetError
from lorabel.labeling import bit_masks
from lorabel.labeling.named_labels import named_labels

MOST_SHAPES = 100
MOST_WORDS = 12
LONGEST_WORDS = 120
# Where a region does not say how large its picture is, only rotated shapes are drawn a little wrong.
UNKNOWN_SIDE = 100.0
POINT_SHARE = 0.015
# The style sheet has so many colours for labels; the next label has the first again.
COLOURS = 8


@dataclass(frozen=True)
class Shape:
    """A shape of SVG.

    Attributes:
        element: `rect`, `ellipse`, `polygon` or `path`.
        attributes: of the element; numbers in pixels of the picture.
        colour: number of its label's colour; None if the label is not known.
    """

    element: str
    attributes: Mapping[str, str]
    colour: int | None = None


@dataclass(frozen=True)
class Drawing:
    """What a result says.

    Attributes:
        width, height: of the picture that the shapes are in, in pixels.
        colours: of each of the words, the number of its label's colour; None if nothing is drawn in it.
    """

    width: float
    height: float
    shapes: Sequence[Shape]
    words: Sequence[str]
    colours: Sequence[int | None]

    @property
    def said(self) -> Sequence[tuple[str, int | None]]:
        """The words, each with its colour."""
        return list(zip(self.words, self.colours, strict=True))


def draw(result: Sequence[Any], from_name: str, picture_tag: str | None, labels: Sequence[str] = ()) -> Drawing:
    """Draw the regions of a control tag, as decoded from JSON. What is no region is skipped.

    Args:
        labels: of the control tag; the place of a label among them decides its colour.
        picture_tag: name of the object tag whose picture is shown; regions of others, and of another picture than
            the first, are said in words alone. None if there is no picture.
    """
    regions = [
        region
        for region in result
        if isinstance(region, dict)
        and region.get("from_name") == from_name
        and isinstance(region.get("value"), dict)
    ]
    drawn = [region for region in regions if region.get("to_name") == picture_tag and not region.get("item_index")]
    width, height = next(
        (size for region in drawn if (size := _size(region)) is not None), (UNKNOWN_SIDE, UNKNOWN_SIDE)
    )
    shapes = [
        replace(shape, colour=_colour(region, labels))
        for region in drawn[:MOST_SHAPES]
        if (shape := _shape(region, width, height)) is not None
    ]
    words, colours = _words(regions, labels if shapes else ())
    return Drawing(width, height, shapes, words, colours)


def _colour(region: Mapping[str, Any], labels: Sequence[str]) -> int | None:
    """Number of the colour of a region's first label."""
    names = set().union(*named_labels([region]).values())
    return next((place % COLOURS for place, label in enumerate(labels) if label in names), None)


def _size(region: Mapping[str, Any]) -> tuple[float, float] | None:
    width, height = _number(region, "original_width"), _number(region, "original_height")
    return (width, height) if width is not None and height is not None and width > 0 and height > 0 else None


def _shape(region: Mapping[str, Any], width: float, height: float) -> Shape | None:
    """A region in Label Studio's percent, or a mask, as a shape in pixels; None for what is no shape."""
    value = region["value"]
    if "rle" in value:
        return _mask(region, width, height)
    points = value.get("points")
    if isinstance(points, list):
        return _polygon(points, width, height)
    x, y = _number(value, "x"), _number(value, "y")
    if x is None or y is None:
        return None
    left, top = x * width / 100, y * height / 100
    turn = {"transform": f"rotate({_number(value, 'rotation') or 0:g} {left:.1f} {top:.1f})"}
    radius_x, radius_y = _number(value, "radiusX"), _number(value, "radiusY")
    if radius_x is not None and radius_y is not None:
        return _ellipse(left, top, radius_x * width / 100, radius_y * height / 100, turn)
    wide, high = _number(value, "width"), _number(value, "height")
    if wide is not None and high is not None:
        sides = {"width": f"{abs(wide) * width / 100:.1f}", "height": f"{abs(high) * height / 100:.1f}"}
        return Shape("rect", {"x": f"{left:.1f}", "y": f"{top:.1f}", **sides, **turn})
    radius = POINT_SHARE * max(width, height)
    return _ellipse(left, top, radius, radius, {})


def _ellipse(x: float, y: float, radius_x: float, radius_y: float, more: Mapping[str, str]) -> Shape:
    radii = {"rx": f"{abs(radius_x):.1f}", "ry": f"{abs(radius_y):.1f}"}
    return Shape("ellipse", {"cx": f"{x:.1f}", "cy": f"{y:.1f}", **radii, **more})


def _polygon(points: Sequence[Any], width: float, height: float) -> Shape | None:
    corners = [
        (float(point[0]), float(point[1]))
        for point in points
        if isinstance(point, list) and len(point) == 2 and all(_is_number(part) for part in point)
    ]
    if len(corners) < 3:
        return None
    text = " ".join(f"{x * width / 100:.1f},{y * height / 100:.1f}" for x, y in corners)
    return Shape("polygon", {"points": text})


def _mask(region: Mapping[str, Any], width: float, height: float) -> Shape | None:
    """The outlines of a mask and of the holes in it."""
    own_width, own_height = map(int, _size(region) or (0, 0))
    try:
        rle = region["value"]["rle"]
        mask, step = bit_masks.decode_small(rle, own_width, own_height, bit_masks.DRAWN_SIDE)
    except MissingTargetError:
        return None
    across, down = width / own_width, height / own_height
    lines = [
        "L".join(
            f"{min(x * step, own_width) * across:.5g},{min(y * step, own_height) * down:.5g}" for x, y in ring
        )
        for ring in bit_masks.rings(mask)
    ]
    return Shape("path", {"d": "".join(f"M{line}Z" for line in lines), "fill-rule": "evenodd"}) if lines else None


def _number(source: Mapping[str, Any], key: str) -> float | None:
    value = source.get(key)
    return float(value) if _is_number(value) else None


def _is_number(value: Any) -> TypeGuard[float]:
    """Whether it is a number of float's range; JSON has integers of any size."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def _words(regions: Sequence[Mapping[str, Any]], labels: Sequence[str]) -> tuple[list[str], list[int | None]]:
    """What the regions say, the same words once with how often: `3 × blue square`; and the colours of these."""
    counts: dict[str, int] = {}
    colours: dict[str, int | None] = {}
    for region in regions:
        for words in _said(region):
            short = words if len(words) <= LONGEST_WORDS else f"{words[: LONGEST_WORDS - 1]}…"
            counts[short] = counts.get(short, 0) + 1
            colours.setdefault(short, _colour(region, labels))
    listed = [words if count == 1 else f"{count} × {words}" for words, count in counts.items()]
    more = len(listed) - MOST_WORDS
    if more <= 0:
        return listed, list(colours.values())
    return [*listed[:MOST_WORDS], f"and {more} more"], [*list(colours.values())[:MOST_WORDS], None]


def _said(region: Mapping[str, Any]) -> Iterator[str]:
    """The labels of a region with its text, or what else it says."""
    value = region["value"]
    labels = ", ".join(sorted(*named_labels([region]).values())) if named_labels([region]) else ""
    text = value.get("text")
    if isinstance(text, list):
        text = " ".join(part for part in text if isinstance(part, str))
    rating = _number(value, "rating")
    rating = _number(value, "number") if rating is None else rating
    said = [labels, text if isinstance(text, str) else "", "" if rating is None else f"{rating:g}"]
    if any(said):
        yield ": ".join(part for part in said if part)
