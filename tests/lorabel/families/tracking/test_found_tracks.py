"""Boxes of windows, without a detector, put together to tracks."""

import base64

import numpy as np

from lorabel.families.tracking.found_tracks import MOST_TRACKS, TrackFinder
from lorabel.track_contracts import BoxInFrame, FrameBoxes


def test_of_very_many_things_the_likeliest_are_followed() -> None:
    """Each has a place of its own; the last are the likeliest."""
    things, numbers = MOST_TRACKS + 20, (1, 6, 11)
    middles = [((index % 40 + 0.5) / 40, (index // 40 + 0.5) / 40) for index in range(things)]
    boxes = tuple(
        BoxInFrame(
            frame=number, corners=(x - 0.01, y - 0.01, x + 0.01, y + 0.01), label=0, probability=0.1 + index / 1000
        )
        for number in numbers
        for index, (x, y) in enumerate(middles)
    )
    looks = np.ones((len(boxes), 1), "<f2")
    finder = TrackFinder(25.0)
    finder.add(
        FrameBoxes(
            numbers=numbers,
            boxes=boxes,
            dim=1,
            float16=base64.b64encode(looks.tobytes()).decode(),
            windows=1,
            frames=11,
            length_s=0.44,
            threshold=0.05,
            tolerance=0.01,
        )
    )
    found = finder.tracks().tracks
    assert len(found) == MOST_TRACKS
    assert min(track.probability for track in found) > 0.1 + 19 / 1000
