"""IDF1 and HOTA of tracks: whether the same things are followed through the videos.

IDF1 (https://arxiv.org/abs/1609.01775) pairs whole tracks: of each true track at most one predicted track of its
label counts, such that as many boxes as possible are right. HOTA (https://arxiv.org/abs/2009.07736) is the
geometric mean of how well boxes are found and how well they are put together, at IoU 0.05, 0.1, ... 0.95.

SciPy is imported inside of functions: it takes long to import, and the backend never evaluates.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lorabel.evaluation.box_matching import iou_matrix
from lorabel.evaluation.metrics import Metrics
from lorabel.space_contracts import Corners
from lorabel.track_contracts import Track, TracksTarget

Floats = NDArray[np.float64]

OVERLAP = 0.5
HOTA_OVERLAPS = tuple(round(0.05 * step, 2) for step in range(1, 20))
# Frames of a long video that are compared: at even distances.
MOST_FRAMES = 1000
# Predicted boxes that meet a thing whose label is not known by this much are neither right nor wrong.
UNCLEAR = 0.4
TINY = 1e-9
# The box of a thing that is not seen.
NOWHERE: Corners = (0.0, 0.0, 0.0, 0.0)


@dataclass(frozen=True)
class _Frame:
    """The boxes of one label in a frame.

    Args:
        true: indices of the tracks whose boxes are the rows of `overlaps`.
        found: those of its columns.
        overlaps: (true, found) IoU.
    """

    true: NDArray[np.int_]
    found: NDArray[np.int_]
    overlaps: Floats


@dataclass(frozen=True)
class _Video:
    """The boxes of one label in a video, and how many tracks there are."""

    true: int
    found: int
    frames: Sequence[_Frame]


def track_metrics(
    targets: Sequence[TracksTarget], predicted: Sequence[Sequence[Track]], labels: Sequence[str]
) -> Metrics:
    """Compute IDF1, its precision and recall over all boxes of all videos, and HOTA; all for each label, too.

    Figures are 1 where nothing is true and nothing was predicted. `macro_idf1` is over the labels that occur in
    targets or predictions. Nothing is said of labels of which a video shows things at unknown places
    (`TracksTarget.incomplete`). Of labels with a track that is only begun (`Track.is_begun`), the
    keyframes are compared.

    Args:
        predicted: for each video its tracks.
    """
    of_label: list[list[_Video]] = [[] for _ in labels]
    for target, tracks in zip(targets, predicted, strict=True):
        for label in range(len(labels)):
            if label not in target.incomplete:
                of_label[label].append(_video(target, tracks, label))
    per_class = {label: _figures(videos) for label, videos in zip(labels, of_label, strict=True)}
    occurring = [
        float(per_class[label]["idf1"])
        for label, videos in zip(labels, of_label, strict=True)
        if any(video.true or video.found for video in videos)
    ]
    return Metrics(
        "idf1",
        {
            "tasks": len(targets),
            **_figures([video for videos in of_label for video in videos]),
            "macro_idf1": sum(occurring) / len(occurring) if occurring else 1.0,
            "per_class": per_class,
            "labels": list(labels),
        },
    )


def right_tracks(target: TracksTarget, predicted: Sequence[Track]) -> list[bool | None]:
    """Return for each predicted track of a video whether it is right.

    It is if at least half of its boxes, and half of those of a true track of its label, are the same. Each true
    track counts for at most one predicted track, as for IDF1. None if nobody knows: the label has things at
    unknown places, or a track that is only begun, or the track is nowhere in the frames that are compared.
    """
    is_right: list[bool | None] = [None] * len(predicted)
    for label in {track.label for track in predicted} - {*target.incomplete}:
        if any(track.is_begun for track in target.tracks if track.label == label):
            continue
        indices = [index for index, track in enumerate(predicted) if track.label == label]
        video = _video(target, predicted, label)
        true_boxes, found_boxes = np.zeros(video.true, int), np.zeros(video.found, int)
        for frame in video.frames:
            true_boxes[frame.true] += 1
            found_boxes[frame.found] += 1
        rows, columns, right = _pairing(video)
        halves = np.maximum(true_boxes[rows], found_boxes[columns]) / 2
        hits = {
            int(column) for column, is_hit in zip(columns, right >= np.maximum(halves, 1), strict=True) if is_hit
        }
        for number, index in enumerate(indices):
            is_right[index] = number in hits if found_boxes[number] else None
    return is_right


def _video(target: TracksTarget, tracks: Sequence[Track], label: int) -> _Video:
    true = [track for track in target.tracks if track.label == label]
    guess = [track for track in tracks if track.label == label]
    ends = [target.last_frame, *(track.keyframes[-1].frame for track in guess)]
    last = target.frames or max(ends)
    numbers = np.unique(np.linspace(1, last, min(last, MOST_FRAMES)).round().astype(int)).tolist()
    if any(track.is_begun for track in true):
        numbers = sorted({keyframe.frame for track in true for keyframe in track.keyframes})
    return _Video(len(true), len(guess), [_frame(true, guess, target.unlabelled, number) for number in numbers])


def _frame(true: Sequence[Track], tracks: Sequence[Track], unlabelled: Sequence[Track], number: int) -> _Frame:
    true_places = {index: place for index, track in enumerate(true) if (place := track.at(number)) is not None}
    places = {index: place for index, track in enumerate(tracks) if (place := track.at(number)) is not None}
    unclear = [place for track in unlabelled if (place := track.at(number)) is not None]
    overlaps = iou_matrix([*true_places.values()], [*places.values()])
    if unclear and places:
        is_right = overlaps.max(axis=0, initial=0.0) >= OVERLAP
        is_clear = is_right | (iou_matrix(unclear, [*places.values()]).max(axis=0) < UNCLEAR)
        places = {index: place for (index, place), kept in zip(places.items(), is_clear, strict=True) if kept}
        overlaps = overlaps[:, is_clear]
    return _Frame(np.array([*true_places], int), np.array([*places], int), overlaps)


def _figures(videos: Sequence[_Video]) -> dict[str, float | int]:
    true = sum(len(frame.true) for video in videos for frame in video.frames)
    predicted = sum(len(frame.found) for video in videos for frame in video.frames)
    support = sum(video.true for video in videos)
    if not true and not predicted:
        return {"idf1": 1.0, "idp": 1.0, "idr": 1.0, "hota": 1.0, "support": support}
    right = sum(map(_right_boxes, videos))
    return {
        "idf1": 2 * right / (true + predicted),
        "idp": right / predicted if predicted else 0.0,
        "idr": right / true if true else 0.0,
        "hota": _hota(videos),
        "support": support,
    }


def _right_boxes(video: _Video) -> int:
    """The boxes that are right, if whole tracks are paired so that they are as many as possible."""
    return int(_pairing(video)[2].sum())


def _pairing(video: _Video) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.int_]]:
    """The true and the predicted tracks of each pair, and how many boxes are right in it: as many as possible."""
    from scipy.optimize import linear_sum_assignment

    counts = np.zeros((video.true, video.found), int)
    for frame in video.frames:
        counts[np.ix_(frame.true, frame.found)] += frame.overlaps >= OVERLAP
    rows, columns = linear_sum_assignment(counts, maximize=True)
    return rows, columns, counts[rows, columns]


def _hota(videos: Sequence[_Video]) -> float:
    """HOTA as TrackEval computes it: the mean over HOTA_OVERLAPS."""
    right, association = np.zeros(len(HOTA_OVERLAPS)), np.zeros(len(HOTA_OVERLAPS))
    boxes = sum(len(frame.true) + len(frame.found) for video in videos for frame in video.frames)
    for video in videos:
        potential, true_count, found_count = _potential_matches(video)
        likeness = potential / np.maximum(true_count[:, None] + found_count[None] - potential, TINY)
        pairs = np.array([pair for frame in video.frames for pair in _pairs(frame, likeness)]).reshape(-1, 3)
        for index, minimum in enumerate(HOTA_OVERLAPS):
            kept = pairs[pairs[:, 2] >= minimum - 1e-12].astype(int)
            matches = np.zeros((video.true, video.found))
            np.add.at(matches, (kept[:, 0], kept[:, 1]), 1)
            right[index] += len(kept)
            union = np.maximum(1, true_count[:, None] + found_count[None] - matches)
            association[index] += float((matches * matches / union).sum())
    # The root of (right / all boxes) * (association / right). A box that is right is in both sets.
    return float(np.sqrt(association / (boxes - right)).mean())


def _pairs(frame: _Frame, likeness: Floats) -> list[tuple[int, int, float]]:
    """The tracks whose boxes are paired in a frame, and the IoU of these."""
    from scipy.optimize import linear_sum_assignment

    scores = likeness[np.ix_(frame.true, frame.found)] * frame.overlaps
    rows, columns = linear_sum_assignment(scores, maximize=True)
    return [
        (int(frame.true[row]), int(frame.found[column]), float(frame.overlaps[row, column]))
        for row, column in zip(rows, columns, strict=True)
    ]


def _potential_matches(video: _Video) -> tuple[Floats, Floats, Floats]:
    """How much each pair of tracks overlaps in all frames together, and the boxes of each track."""
    potential = np.zeros((video.true, video.found))
    true_count, found_count = np.zeros(video.true), np.zeros(video.found)
    for frame in video.frames:
        true_count[frame.true] += 1
        found_count[frame.found] += 1
        sums = frame.overlaps.sum(axis=0)[None] + frame.overlaps.sum(axis=1)[:, None] - frame.overlaps
        shares = np.divide(frame.overlaps, sums, out=np.zeros_like(sums), where=sums > TINY)
        potential[np.ix_(frame.true, frame.found)] += shares
    return potential, true_count, found_count


def track_overlaps(first: Sequence[Track], second: Sequence[Track]) -> Floats:
    """Return the IoU of each track of the first set with each of the second, over their frames together.

    Returns:
        (first, second), in [0, 1]; 0 for tracks of different labels.
    """
    last = max((track.keyframes[-1].frame for track in (*first, *second)), default=1)
    numbers = np.unique(np.linspace(1, last, min(last, MOST_FRAMES)).round().astype(int)).tolist()
    common, union = np.zeros((len(first), len(second))), np.zeros((len(first), len(second)))
    for number in numbers:
        places = [[track.at(number) or NOWHERE for track in tracks] for tracks in (first, second)]
        overlaps, areas = iou_matrix(*places), [_areas(of_set) for of_set in places]
        both = areas[0][:, None] + areas[1][None]
        shared = overlaps * both / (1 + overlaps)
        common += shared
        union += both - shared
    is_same = np.array([[a.label == b.label for b in second] for a in first], bool).reshape(common.shape)
    result: Floats = np.divide(common, union, out=np.zeros_like(common), where=(union > 0) & is_same)
    return result


def _areas(places: Sequence[Corners]) -> Floats:
    corners = np.asarray(places, float).reshape(-1, 4)
    areas: Floats = (corners[:, 2] - corners[:, 0]) * (corners[:, 3] - corners[:, 1])
    return areas
