"""From boxes in frames to tracks: which boxes in different frames are the same thing.

Frame by frame, the boxes are given to the tracks so that the sum of the costs is least (Hungarian method). A cost
says how far a box is from where the track should be by now, and how different its look is. Boxes that are likely
go first; unlikely ones only continue tracks (ByteTrack, https://arxiv.org/abs/2110.06864). Each label is followed
by itself. NumPy and SciPy only.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from lorabel.evaluation.box_matching import iou_matrix
from lorabel.track_contracts import BoxInFrame

Floats = NDArray[np.float64]

# A pair with a larger cost is not made, nor one whose middles are further apart than this many sizes. The distance
# grows with each frame that is looked at in which the thing was not found.
MOST_COST, MOST_DISTANCE, MORE_DISTANCE = 2.5, 1.5, 0.5
# Seconds after which a track that was not found again has ended.
LOST_S = 2.0
# How fast speed and look of a track follow what is seen.
SPEED_RATE, LOOK_RATE = 0.5, 0.2
TINY = 1e-9


@dataclass(frozen=True)
class Weights:
    """Of what the cost of a pair is made.

    Args:
        overlap: of 1 - IoU of the box with where the track should be.
        distance: of the distance of their middles, in sizes of the box.
        look: of 1 - cosine of their looks.
    """

    overlap: float = 0.5
    distance: float = 0.5
    look: float = 2.0


WEIGHTS = Weights()


@dataclass(eq=False)
class OpenTrack:
    """A thing that is followed.

    Attributes:
        seen: its boxes, in the order of frames.
        look: mean direction of its boxes.
        speed: (4,) of the corners in a frame; of the middle alone, so that the box keeps its size.
        misses: frames that were looked at since it was found.
        likely: boxes that alone would begin a track.
    """

    label: int
    seen: list[BoxInFrame]
    look: Floats
    speed: Floats = field(default_factory=lambda: np.zeros(4))
    misses: int = 0
    likely: int = 1

    def expected(self, frame: int) -> Floats:
        """(4,): where its box should be in a frame."""
        last = self.seen[-1]
        return np.array(last.corners) + self.speed * (frame - last.frame)

    def add(self, box: BoxInFrame, look: Floats) -> None:
        """Add the box that was found."""
        last = self.seen[-1]
        moved = (_middle(np.array(box.corners)) - _middle(np.array(last.corners))) / (box.frame - last.frame)
        rate = SPEED_RATE if len(self.seen) > 1 else 1.0
        self.speed = (1 - rate) * self.speed + rate * np.tile(moved, 2)
        self.look = (1 - LOOK_RATE) * self.look + LOOK_RATE * look
        self.seen.append(box)
        self.misses = 0


class Association:
    """Follows the things in a video, whose frames are added in order. Not thread-safe.

    Args:
        threshold: smallest probability of a box with which a track begins.
        frames_per_s: by which frames are counted.
    """

    def __init__(self, threshold: float, frames_per_s: float, weights: Weights = WEIGHTS) -> None:
        self._threshold, self._lost_after, self._weights = threshold, LOST_S * frames_per_s, weights
        self._open: list[OpenTrack] = []
        self._ended: list[OpenTrack] = []

    @property
    def tracks(self) -> list[OpenTrack]:
        """All tracks so far."""
        return [*self._ended, *self._open]

    def add(self, frame: int, boxes: Sequence[BoxInFrame], looks: Floats) -> None:
        """Add what was found in the next frame that is looked at.

        Args:
            looks: (boxes, dim), each of length 1.
        """
        lost = [track for track in self._open if frame - track.seen[-1].frame > self._lost_after]
        self._ended += lost
        self._open = [track for track in self._open if track not in lost]
        likely = [index for index, box in enumerate(boxes) if box.probability >= self._threshold]
        unlikely = [index for index, box in enumerate(boxes) if box.probability < self._threshold]
        for track in self._open:
            track.misses += 1
        left = list(self._open)
        taken: set[int] = set()
        for chosen in (likely, unlikely):
            for track, index in self._pairs(frame, left, boxes, looks, chosen):
                track.add(boxes[index], looks[index])
                track.likely += chosen is likely
                left.remove(track)
                taken.add(index)
        self._open += [
            OpenTrack(boxes[index].label, [boxes[index]], looks[index]) for index in likely if index not in taken
        ]

    def _pairs(
        self,
        frame: int,
        tracks: Sequence[OpenTrack],
        boxes: Sequence[BoxInFrame],
        looks: Floats,
        chosen: Sequence[int],
    ) -> list[tuple[OpenTrack, int]]:
        """Which of the chosen boxes continue which tracks."""
        from scipy.optimize import linear_sum_assignment

        if not tracks or not chosen:
            return []
        costs = np.stack([_costs(track, frame, boxes, looks, chosen, self._weights) for track in tracks])
        rows, columns = linear_sum_assignment(np.minimum(costs, MOST_COST))
        return [
            (tracks[row], chosen[column])
            for row, column in zip(rows, columns, strict=True)
            if costs[row, column] < MOST_COST
        ]


def _costs(
    track: OpenTrack,
    frame: int,
    boxes: Sequence[BoxInFrame],
    looks: Floats,
    chosen: Sequence[int],
    weights: Weights,
) -> Floats:
    """(chosen,): the cost of each pair of the track and a box; infinite where it cannot be the same thing."""
    expected = track.expected(frame)
    corners = np.array([boxes[index].corners for index in chosen])
    size = np.sqrt(np.maximum(_area(expected), TINY))
    distances = np.linalg.norm(_middle(corners) - _middle(expected), axis=-1) / size
    cosines = looks[list(chosen)] @ track.look / max(float(np.linalg.norm(track.look)), TINY)
    costs = weights.overlap * (1 - iou_matrix(expected, corners)[0]) + weights.distance * distances
    costs += weights.look * (1 - cosines)
    is_same_label = np.array([boxes[index].label == track.label for index in chosen])
    is_near = distances <= MOST_DISTANCE + MORE_DISTANCE * (track.misses - 1)
    result: Floats = np.where(is_same_label & is_near, costs, np.inf)
    return result


def _middle(corners: Floats) -> Floats:
    """(..., 2) of (..., 4)."""
    middle: Floats = (corners[..., :2] + corners[..., 2:]) / 2
    return middle


def _area(corners: Floats) -> Floats:
    area: Floats = np.prod(np.clip(corners[..., 2:] - corners[..., :2], 0, None), axis=-1)
    return area
