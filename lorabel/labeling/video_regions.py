"""Regions of `<VideoRectangle>`: from Label Studio's sequences to keyframes, and back.

    {"from_name": "box", "to_name": "video", "type": "videorectangle",
     "value": {"framesCount": 250, "duration": 10.0, "labels": ["Car"], "sequence": [
         {"frame": 1, "time": 0.04, "x": 10, "y": 10, "width": 5, "height": 5, "rotation": 0, "enabled": true}]}}

Frames are counted from 1 by the frame rate of the label config. After a keyframe with `"enabled": false` nothing
is shown until the next keyframe.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from lorabel.errors import MissingTargetError
from lorabel.labeling.image_regions import LARGEST_NUMBER, corners_of
from lorabel.labeling.regions import Region
from lorabel.track_contracts import Keyframe

LONGEST_SHOWN = 60
# No video has a later frame: a day at a thousand frames a second. Frames of annotations come from strangers.
LAST_FRAME = 86_400_000


def track_region(
    from_name: str,
    to_name: str,
    keyframes: Sequence[Keyframe],
    rate: float,
    extent: tuple[int, float],
    labels: Sequence[str],
) -> Region:
    """A region of `<VideoRectangle>` (https://labelstud.io/tags/videorectangle).

    Args:
        rate: frames per second, see `video_frames.frame_rate`.
        extent: frames and seconds of the video.
    """
    value = {
        "framesCount": extent[0],
        "duration": extent[1],
        "sequence": [_point(keyframe, rate) for keyframe in keyframes],
        "labels": list(labels),
    }
    return {"from_name": from_name, "to_name": to_name, "type": "videorectangle", "value": value}


def keyframes_of(region: Region) -> tuple[Keyframe, ...]:
    """Return the keyframes of a region in the order of their frames; of several in one frame the last.

    What is outside the picture is cut off. Where a box lies outside entirely, or has no area, the thing is not
    seen.

    Raises:
        MissingTargetError: a keyframe cannot be read, or the thing is never seen.
    """
    value = region.get("value")
    sequence = value.get("sequence") if isinstance(value, dict) else None
    if not isinstance(sequence, list) or not sequence:
        raise MissingTargetError(f"sequence is {sequence!r:.{LONGEST_SHOWN}}, expected a list of keyframes")
    points = {_frame_of(point): point for point in sequence}
    keyframes: list[Keyframe] = []
    for frame, point in sorted(points.items()):
        is_seen = point.get("enabled", True) is not False
        try:
            keyframes.append(Keyframe(frame=frame, corners=corners_of({"value": point}), is_seen=is_seen))
        except MissingTargetError:
            if point.get("rotation") or not _has_numbers(point):
                raise
            # It is outside from here on, and was seen up to here.
            keyframes += [keyframes.pop().model_copy(update={"is_seen": False})] if keyframes else []
    if not keyframes or not any(keyframe.is_seen for keyframe in keyframes):
        raise MissingTargetError("it is enabled in no frame, or lies outside the picture")
    return tuple(keyframes)


def extent_of(region: Region) -> tuple[int, float]:
    """Return frames and seconds of the video, as the editor wrote them; 0 for what is missing or odd."""
    value = region.get("value")
    value = value if isinstance(value, dict) else {}
    frames, length_s = value.get("framesCount"), value.get("duration")
    if not isinstance(frames, int) or isinstance(frames, bool) or not 0 < frames <= LAST_FRAME:
        frames = 0
    if not isinstance(length_s, int | float) or isinstance(length_s, bool) or not 0 < length_s <= LAST_FRAME:
        length_s = 0.0
    return frames, float(length_s)


def _point(keyframe: Keyframe, rate: float) -> dict[str, Any]:
    left, top, right, bottom = (100 * number for number in keyframe.corners)
    return {
        "frame": keyframe.frame,
        "time": keyframe.frame / rate,
        "x": left,
        "y": top,
        "width": right - left,
        "height": bottom - top,
        "rotation": 0,
        "enabled": keyframe.is_seen,
    }


def _frame_of(point: Any) -> int:
    frame = point.get("frame") if isinstance(point, dict) else None
    if not isinstance(frame, int) or isinstance(frame, bool) or not 0 < frame <= LAST_FRAME:
        raise MissingTargetError(f"a keyframe is {point!r:.{LONGEST_SHOWN}}, expected a frame from 1 and a place")
    return frame


def _has_numbers(point: Mapping[str, Any]) -> bool:
    numbers = (point.get(name) for name in ("x", "y", "width", "height"))
    return all(
        isinstance(number, int | float) and not isinstance(number, bool) and abs(number) <= LARGEST_NUMBER
        for number in numbers
    )
