"""From the boxes of a track to few keyframes, between which the editor lets the thing move evenly."""

from collections.abc import Collection, Sequence

import numpy as np
from numpy.typing import NDArray

from lorabel.track_contracts import BoxInFrame, Keyframe

Floats = NDArray[np.float64]
# How much the boxes before and after a box count in its place, since detectors jitter.
SMOOTHING = 2 / 3


def keyframes_of(
    seen: Sequence[BoxInFrame],
    tolerance: float,
    longest_gap: int,
    last_frame: int,
    drawn: Collection[int] = (),
) -> tuple[Keyframe, ...]:
    """Return the keyframes of a track.

    Args:
        seen: its boxes, in the order of frames; at least one.
        tolerance: how far a side may be off between keyframes, as a fraction of the picture.
        longest_gap: frames from one box to the next up to which the thing is taken to be seen in between.
        last_frame: of the frames that were looked at. A thing that is found there is seen to the end.
        drawn: frames whose boxes people have drawn; they are not smoothed.
    """
    parts: list[list[BoxInFrame]] = []
    for box in seen:
        if parts and box.frame - parts[-1][-1].frame <= longest_gap:
            parts[-1].append(box)
        else:
            parts.append([box])
    keyframes: list[Keyframe] = []
    for part in parts:
        frames = np.array([box.frame for box in part])
        corners = _smoothed(frames, np.array([box.corners for box in part]), np.isin(frames, list(drawn)))
        for index in chosen(frames, corners, tolerance):
            left, top, right, bottom = np.clip(corners[index], 0, 1).tolist()
            keyframes.append(Keyframe(frame=int(frames[index]), corners=(left, top, right, bottom)))
        if frames[-1] < last_frame:
            keyframes[-1] = keyframes[-1].model_copy(update={"is_seen": False})
    return tuple(keyframes)


def chosen(frames: NDArray[np.int_], corners: Floats, tolerance: float) -> list[int]:
    """Return indices of boxes, so that all others are within the tolerance of the line between two of them.

    First and last are among them, then the one that is furthest off, and so on (Ramer, Douglas and Peucker).

    Args:
        frames: (boxes,), ascending.
        corners: (boxes, 4).
    """
    kept, open_parts = {0, len(frames) - 1}, [(0, len(frames) - 1)]
    while open_parts:
        first, last = open_parts.pop()
        if last - first < 2:
            continue
        shares = ((frames[first + 1 : last] - frames[first]) / (frames[last] - frames[first]))[:, None]
        line = corners[first] + (corners[last] - corners[first]) * shares
        errors = np.abs(corners[first + 1 : last] - line).max(axis=1)
        if errors.max() > tolerance:
            middle = first + 1 + int(errors.argmax())
            kept.add(middle)
            open_parts += [(first, middle), (middle, last)]
    return sorted(kept)


def _smoothed(frames: NDArray[np.int_], corners: Floats, is_drawn: NDArray[np.bool_]) -> Floats:
    """(boxes, 4): each box moved towards the line between those around it, which even motion leaves where it is.

    The first and the last stay, and those that people have drawn.
    """
    shares = (frames[1:-1] - frames[:-2]) / (frames[2:] - frames[:-2])
    line = corners[:-2] + (corners[2:] - corners[:-2]) * shares[:, None]
    smoothed = corners.copy()
    smoothed[1:-1] += SMOOTHING * (line - corners[1:-1])
    return np.where(is_drawn[:, None], corners, smoothed)
