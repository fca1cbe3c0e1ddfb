"""Builds regions on a picture whose place is a mask, a polygon or a point."""

from collections.abc import Mapping
from typing import Any

from lorabel.labeling.regions import Region


def mask_region(
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
