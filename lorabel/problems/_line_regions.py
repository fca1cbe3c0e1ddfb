"""The control tags of lines of text in a picture, and their regions in results."""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from lorabel.errors import MissingTargetError
from lorabel.labeling.image_regions import corners_of, image_region
from lorabel.labeling.label_config import ControlTag
from lorabel.labeling.regions import Region
from lorabel.problems._answers import shown
from lorabel.problems._pictures import group_of
from lorabel.space_contracts import Corners, TextLine

SHAPES = ("Rectangle", "Polygon")
LABELED_SHAPES = ("RectangleLabels", "PolygonLabels")


@dataclass(frozen=True)
class Tags:
    """The control tags of a group.

    Args:
        shapes: names of the tags that draw lines, the one that predictions are drawn with first.
        kind: type of the regions that predictions are drawn with: `rectangle`, `polygonlabels`, ...
        labels: name of `<Labels>`; None if the shapes have the labels themselves, or there are none.
        text: name of the TextArea.
    """

    shapes: tuple[str, ...]
    kind: str
    labels: str | None
    text: str

    @property
    def has_labeled_shapes(self) -> bool:
        """Whether the shapes have the labels themselves."""
        return self.kind.endswith("labels")

    @property
    def is_polygon(self) -> bool:
        """Whether predictions are polygons."""
        return self.kind.startswith("polygon")

    def regions(
        self, to_name: str, line: TextLine, label: str | None, size: tuple[int, int], id_: str
    ) -> list[Region]:
        """Return the regions of a line.

        Args:
            label: its value in results; None for no label.
            size: width and height of the picture as people see it, in pixels.
        """
        values = [] if label is None else [label]
        parts: list[tuple[str, str, dict[str, Any]]] = [
            (self.shapes[0], self.kind, {self.kind: values} if self.has_labeled_shapes else {})
        ]
        if self.labels is not None and values:
            parts.append((self.labels, "labels", {"labels": values}))
        parts.append((self.text, "textarea", {"text": [line.text]}))
        return [
            {"id": id_} | image_region(name, to_name, kind, line.corners, size, value, is_polygon=self.is_polygon)
            for name, kind, value in parts
        ]


def shapes_of(control: ControlTag) -> list[ControlTag]:
    """Return the tags that draw the lines if this tag is the first of a group, rectangles first; else none."""
    if control.tag in LABELED_SHAPES:
        return [control]
    shapes = [tag for tag in control.siblings if tag.tag in SHAPES]
    if control.tag in SHAPES:
        has_labels = any(tag.tag == "Labels" and not tag.is_per_region for tag in control.siblings)
        is_first = control.tag == "Rectangle" or not any(tag.tag == "Rectangle" for tag in shapes)
        same = [tag for tag in shapes if tag.tag == control.tag]
        return [] if has_labels or not is_first or same else [control, *shapes]
    if control.tag != "Labels":
        return []
    return sorted(shapes, key=lambda tag: SHAPES.index(tag.tag))


def values_in(parts: Sequence[Region], from_name: str) -> Iterator[dict[str, Any]]:
    """Yield the value of each region of a control tag. Raises MissingTargetError if it is no object."""
    for region in parts:
        if region.get("from_name") == from_name:
            value = region.get("value")
            if not isinstance(value, dict):
                raise MissingTargetError(f"{from_name!r} has the value {shown(value)}, expected an object")
            yield value


def line_groups(regions: Sequence[Region]) -> list[list[Region]]:
    """Return the regions of each line. One whose id is no text is alone."""
    groups: dict[Any, list[Region]] = {}
    for number, region in enumerate(regions):
        try:
            groups.setdefault(group_of(region), []).append(region)
        except MissingTargetError:
            groups[number] = [region]
    return list(groups.values())


def places_of(regions: Sequence[Region]) -> set[Corners]:
    """Return the boxes around those regions that have a place."""
    places = set()
    for region in regions:
        with suppress(MissingTargetError):
            places.add(corners_of(region))
    return places
