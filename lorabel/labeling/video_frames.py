"""Frames of a video as Label Studio's editor counts them, and seconds.

Frame n is shown from (n - 1) / rate to n / rate seconds. The rate is an attribute of the `<Video>`, and need not
be the file's. Label Studio 1.23.2: `goToFrame` and `updateFrame` in `VideoCanvas.tsx`, `afterCreate` in
`Video.js`.
"""

import math
from collections.abc import Mapping
from typing import Any

from lorabel.labeling.label_config import ObjectTag
from lorabel.labeling.shown_value import shown_value

DEFAULT_RATE = 24.0
# Label configs and tasks come from strangers.
LARGEST_RATE = 1000.0


def frame_rate(tag: ObjectTag, data: Mapping[str, Any]) -> float:
    """Return how many frames the editor counts in a second.

    A number below 1 is the length of a frame in seconds. What is no number counts as DEFAULT_RATE, and a rate is
    LARGEST_RATE at most.

    Args:
        tag: the `<Video>`; its `frameRate` may name a key of the task's data, such as `$fps`.
        data: of the task.
    """
    try:
        rate = float(shown_value(tag.attributes.get("frameRate", ""), data))
    except (TypeError, ValueError, OverflowError):
        return DEFAULT_RATE
    if not math.isfinite(rate) or rate <= 0:
        return DEFAULT_RATE
    return min(LARGEST_RATE, 1 / rate if rate < 1 else rate)


def frames_at(span_s: tuple[float, float], length_s: float, frames_per_s: float) -> tuple[int, int]:
    """Return the first and the last frame of a part of a video; at least one frame, and none after the end.

    Args:
        span_s: start and end in seconds.
        length_s: of the video; 0 if it is not known.
    """
    start, end = span_s
    first, last = round(start * frames_per_s) + 1, round(end * frames_per_s)
    if length_s:
        count = max(1, round(length_s * frames_per_s))
        first, last = min(first, count), min(last, count)
    return first, max(first, last)


def seconds_of(frames: tuple[float, float], frames_per_s: float) -> tuple[float, float]:
    """Return start and end, in seconds, of a part of a video from its first and its last frame."""
    first, last = frames
    return max(0.0, (first - 1) / frames_per_s), max(0.0, last / frames_per_s)
