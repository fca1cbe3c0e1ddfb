"""Sizes of regions, against what is known of drawn ones."""

import math
from typing import Any

import numpy as np
import pytest

from lorabel.labeling import bit_masks
from lorabel.labeling.image_regions import ellipse_region, image_region, picture_region
from lorabel.labeling.label_config import parse
from lorabel.labeling.region_sizes import size_in, units_of
from lorabel.labeling.regions import video_segment
from lorabel.labeling.video_regions import track_region
from lorabel.track_contracts import Keyframe

SIZE = (200, 100)
CORNERS = (0.1, 0.2, 0.4, 0.7)


def sizes(region: dict[str, Any]) -> list[float | None]:
    return [
        size_in(region, f"{side}_{unit}") for unit in ("percent", "px") for side in ("width", "height", "area")
    ]


def test_boxes_ellipses_and_polygons() -> None:
    box = image_region("b", "i", "rectangle", CORNERS, SIZE, {})
    assert sizes(box) == pytest.approx([30, 50, 15, 60, 50, 3000])
    polygon = image_region("b", "i", "polygon", CORNERS, SIZE, {}, is_polygon=True)
    assert sizes(polygon) == pytest.approx([30, 50, 15, 60, 50, 3000])
    triangle = picture_region("b", "i", "polygon", SIZE, {"points": [[0, 0], [50, 0], [0, 40]]})
    assert sizes(triangle) == pytest.approx([50, 40, 10, 100, 40, 2000])
    ellipse = ellipse_region("b", "i", "ellipse", CORNERS, SIZE, {})
    assert sizes(ellipse) == pytest.approx([30, 50, 15 * math.pi / 4, 60, 50, 3000 * math.pi / 4])


def test_a_mask_is_measured_by_its_pixels() -> None:
    mask = np.zeros((SIZE[1], SIZE[0]), bool)
    mask[10:20, 40:80] = True
    mask[10, 40] = False
    rle = bit_masks.encode(bit_masks.runs_of(mask))
    region = picture_region("b", "i", "brushlabels", SIZE, {"format": "rle", "rle": rle, "brushlabels": ["x"]})
    assert sizes(region) == pytest.approx([20, 10, 100 * 399 / 20_000, 40, 10, 399])
    empty = bit_masks.encode(bit_masks.runs_of(np.zeros((SIZE[1], SIZE[0]), bool)))
    assert sizes({**region, "value": {"rle": empty}}) == [0] * 6


def test_a_track_is_as_large_as_in_its_largest_keyframe_and_a_segment_counts_its_frames() -> None:
    keyframes = [
        Keyframe(frame=frame, corners=(0.1, 0.1, right, 0.3), is_seen=True)
        for frame, right in ((1, 0.2), (5, 0.5), (9, 0.3))
    ]
    track = track_region("b", "v", keyframes, 25.0, (10, 0.4), ["x"])
    assert size_in(track, "width_percent") == pytest.approx(40)
    assert size_in(track, "width_px") is None, "Label Studio does not say how large the video is"
    assert size_in(video_segment("t", "v", (3, 12), ["x"]), "frames") == 10


@pytest.mark.parametrize(
    "value",
    [
        None,
        [],
        {},
        {"x": "1", "y": 1, "width": 1, "height": 1},
        {"rle": "x"},
        {"points": [1, 2, 3]},
        {"sequence": 1},
    ],
)
def test_what_cannot_be_measured_has_no_size(value: Any) -> None:
    assert sizes({"value": value, "original_width": 200, "original_height": 100}) == [None] * 6
    assert [size_in({"value": value}, unit) for unit in ("characters", "seconds", "frames")] == [None] * 3


@pytest.mark.parametrize(
    "place",
    [
        {"x": 5, "y": 20, "width": 0, "height": 10},
        {"x": 195, "y": 20, "width": 10, "height": 10},
        {"points": [[1, 1], [5, 1], [9, 1]]},
    ],
    ids=["line", "outside", "points"],
)
def test_what_has_no_area_is_smaller_than_anything(place: dict[str, Any]) -> None:
    assert sizes({"value": place, "original_width": 200, "original_height": 100}) == [0] * 6


def test_each_control_tag_has_the_units_of_its_regions() -> None:
    config = parse(
        '<View><Image name="i" value="$i"/><Text name="t" value="$t"/><Video name="v" value="$v"/>'
        '<TimeSeries name="s" value="$s"/><Rectangle name="shape" toName="i"/>'
        '<Labels name="entity" toName="t"><Label value="x"/></Labels>'
        '<Labels name="thing" toName="v"><Label value="x"/></Labels><VideoRectangle name="box" toName="v"/>'
        '<TimeSeriesLabels name="event" toName="s"><Label value="x"/></TimeSeriesLabels>'
        '<Choices name="kind" toName="i"><Choice value="x"/></Choices></View>'
    )
    units = {control.name: units_of(control) for control in config.controls}
    assert "width_px" in units["shape"]
    assert units["entity"] == ("characters",)
    assert "width_px" not in units["box"] and "width_percent" in units["box"] and units["thing"] == units["box"]
    assert units["event"] == units["kind"] == ()
