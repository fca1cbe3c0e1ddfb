"""From what was found in the windows of a video, one after the other, to tracks with few keyframes."""

import base64

import numpy as np

from lorabel.families.tracking.association import WEIGHTS, Association, OpenTrack, Weights
from lorabel.families.tracking.keyframes import keyframes_of
from lorabel.track_contracts import FrameBoxes, Track, Tracks

# Fewest boxes of a track that are likely enough; a thing that is seen in one or two frames is mostly a mistake. In
# a video of fewer frames that many are enough.
FEWEST_BOXES = 3
# Seconds without a box in which a thing is taken to be seen, behind another one perhaps.
BRIDGED_S = 1.5
# Most tracks of a video, the likeliest: with a low threshold a project asks for everything that might be a thing.
MOST_TRACKS = 500


class TrackFinder:
    """Follows what is found in a video. Windows are added in order. Not thread-safe.

    Args:
        frames_per_s: by which frames are counted.
    """

    def __init__(self, frames_per_s: float, weights: Weights = WEIGHTS) -> None:
        self._frames_per_s, self._weights = frames_per_s, weights
        self._association: Association | None = None
        self._looked_at: list[int] = []
        self._newest: FrameBoxes | None = None

    def add(self, boxes: FrameBoxes) -> None:
        """Add the next window."""
        if self._association is None:
            self._association = Association(boxes.threshold, self._frames_per_s, self._weights)
        looks = np.frombuffer(base64.b64decode(boxes.float16), "<f2").astype(float)
        looks = looks.reshape(len(boxes.boxes), boxes.dim)
        frames = np.array([box.frame for box in boxes.boxes])
        for number in boxes.numbers:
            rows = np.flatnonzero(frames == number)
            self._association.add(number, [boxes.boxes[row] for row in rows], looks[rows])
        self._looked_at += boxes.numbers
        self._newest = boxes

    def tracks(self) -> Tracks:
        """All tracks, once every window was added."""
        assert self._association is not None and self._newest is not None
        fewest = min(FEWEST_BOXES, len(self._looked_at))
        tracks = [
            self._track(track, self._newest.tolerance)
            for track in self._association.tracks
            if track.likely >= fewest
        ]
        likeliest_first = sorted(tracks, key=lambda track: -track.probability)
        newest = self._newest
        return Tracks(
            tracks=tuple(likeliest_first[:MOST_TRACKS]),
            frames=newest.frames,
            length_s=newest.length_s,
            threshold=newest.threshold,
        )

    def _track(self, track: OpenTrack, tolerance: float) -> Track:
        step = max(np.diff(self._looked_at), default=1)
        longest_gap = max(round(BRIDGED_S * self._frames_per_s), int(step))
        return Track(
            label=track.label,
            keyframes=keyframes_of(track.seen, tolerance, longest_gap, self._looked_at[-1]),
            probability=sum(box.probability for box in track.seen) / len(track.seen),
        )
