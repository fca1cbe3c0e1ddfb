"""Frames of a video as pictures for the detector: which are looked at, how they are read, what is found in them.

A long video is read in windows, each of which is a question of its own, so that its frames are never in memory
together.
"""

import base64
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torchvision.ops import box_iou

from lorabel.families.detection.places import MOST_OTHERS
from lorabel.families.detection.views import Picture, PreparedInput
from lorabel.families.encoders.heads.linear_head import LinearHead
from lorabel.feature_contracts import BoxFeaturesInput, Features
from lorabel.media.decode_memory import decode_memory
from lorabel.media.fetching import digest
from lorabel.media.video import NumberedFrames, numbered_frames
from lorabel.settings import Settings
from lorabel.space_contracts import Boxes, BoxesInput
from lorabel.track_contracts import BoxInFrame, FrameBoxes, FrameBoxesInput, TrackFeaturesInput

# Frames of a window. They are computed in one step, for which a click has to wait.
MOST_IN_WINDOW = 8
# Boxes of a frame that are followed, the likeliest, and the part of the threshold that their probability must
# have: a thing that is seen badly for some frames is still followed.
MOST_FOLLOWED = 50
LEAST_OF_THRESHOLD = 0.25

Prepare = Callable[[Image.Image], tuple[Tensor, tuple[float, float]]]
"""`BoxModel.prepare`."""


@dataclass(frozen=True)
class PreparedFrames:
    """A question about frames of a video.

    Args:
        pictures: the frames. Each has a question about a picture, which is `BoxFeaturesInput` if `question` asks
            for features.
        numbers: of these frames.
        windows: that the video has.
        count: frames that the video has.
        length_s: of the video.
        fitted_head: answers in place of the label texts.
    """

    question: FrameBoxesInput
    pictures: tuple[PreparedInput, ...]
    numbers: tuple[int, ...]
    windows: int
    count: int
    length_s: float
    fitted_head: LinearHead | None = None


def looked_at(count: int, frames_per_s: float, settings: Settings) -> list[int]:
    """Return the numbers of the frames of a video that are looked at: at even distances, with first and last.

    Args:
        count: frames that the video has.
    """
    step = max(1, round(frames_per_s / settings.tracks_frames_per_s), ceil(count / settings.tracks_max_frames))
    return [*range(1, count, step), count]


def read_frames(
    question: FrameBoxesInput, file: bytes, longest_px: int, prepare: Prepare, settings: Settings
) -> PreparedFrames:
    """Decode the frames that a question is about: those of its window, or those that it names.

    Args:
        longest_px: see `BoxModel.longest_px`.

    Raises:
        UnreadableError: see `lorabel.media.video.decode_video`.
    """
    memory = decode_memory(settings.media_decode_mb)
    with numbered_frames(
        file, question.frames_per_s, settings.media_max_megapixels, 2 * longest_px, memory
    ) as video:
        windows = _windows(video, question, settings)
        numbers = windows[min(question.window, len(windows) - 1)]
        video_digest = digest(file)
        pictures = [
            _prepared(question, index, f"{video_digest} frame {number} at {question.frames_per_s}", image, prepare)
            for index, (number, image) in enumerate(zip(numbers, video.pictures(numbers), strict=True))
        ]
    return PreparedFrames(question, tuple(pictures), tuple(numbers), len(windows), video.count, video.length_s)


def frame_boxes(
    prepared: PreparedFrames,
    boxes_of_frames: Sequence[Boxes],
    places: Sequence[Tensor],
    directions: Sequence[Tensor],
    settings: Settings,
) -> FrameBoxes:
    """Return what was found in the frames of a window.

    Args:
        found: for each frame.
        places: for each frame (patches, 4) as fractions of the picture, clipped.
        directions: for each frame (patches, n), see `BoxModel.directions`.
    """
    boxes: list[BoxInFrame] = []
    rows: list[Tensor] = []
    threshold = settings.detector_threshold
    if prepared.question.threshold is not None:
        threshold = min(threshold, prepared.question.threshold)
    for number, of_frame, own_places, own_directions in zip(
        prepared.numbers, boxes_of_frames, places, directions, strict=True
    ):
        least = LEAST_OF_THRESHOLD * threshold
        kept = [box for box in of_frame.boxes if box.probability >= least][:MOST_FOLLOWED]
        corners = torch.tensor([box.corners for box in kept]).reshape(-1, 4)
        if kept:
            rows.append(own_directions[box_iou(corners, own_places).argmax(dim=1)])
        boxes += [
            BoxInFrame(frame=number, corners=box.corners, label=box.label, probability=box.probability)
            for box in kept
        ]
    joined = torch.cat(rows) if rows else torch.zeros(0, directions[0].shape[1])
    return FrameBoxes(
        numbers=prepared.numbers,
        boxes=tuple(boxes),
        dim=joined.shape[1],
        float16=base64.b64encode(joined.numpy().astype("<f2").tobytes()).decode(),
        windows=prepared.windows,
        frames=prepared.count,
        length_s=prepared.length_s,
        threshold=threshold,
        tolerance=settings.tracks_tolerance_percent / 100,
    )


def joined_features(question: TrackFeaturesInput, of_frames: Sequence[Features]) -> Features:
    """Return the features of several frames as those of one video: first the rows of all boxes.

    Args:
        of_frames: for each frame, with the rows of its boxes first.
    """
    labels = len(question.labels)
    boxes: list[tuple[NDArray[np.float16], NDArray[np.float64]]] = []
    others: list[tuple[NDArray[np.float16], NDArray[np.float64]]] = []
    for features, drawn in zip(of_frames, question.boxes, strict=True):
        rows = np.frombuffer(base64.b64decode(features.float16), "<f2").reshape(-1, features.dim)
        logits = np.array(features.logits).reshape(-1, labels)
        first, last = len(drawn), len(drawn) + MOST_OTHERS // len(of_frames)
        boxes.append((rows[:first], logits[:first]))
        others.append((rows[first:last], logits[first:last]))
    all_rows, all_logits = (np.concatenate(parts) for parts in zip(*boxes, *others, strict=True))
    return Features(
        space=of_frames[0].space,
        dim=of_frames[0].dim,
        float16=base64.b64encode(all_rows.tobytes()).decode(),
        logits=tuple(all_logits.flatten().tolist()),
    )


def _windows(video: NumberedFrames, question: FrameBoxesInput, settings: Settings) -> list[Sequence[int]]:
    """The numbers of the frames of each window."""
    if question.numbers:
        return [question.numbers]
    numbers = looked_at(video.count, question.frames_per_s, settings)
    return [numbers[first : first + MOST_IN_WINDOW] for first in range(0, len(numbers), MOST_IN_WINDOW)]


def _prepared(
    question: FrameBoxesInput, index: int, frame_digest: str, image: Image.Image, prepare: Prepare
) -> PreparedInput:
    pixels, extent = prepare(image)
    height, width = pixels.shape[1:]
    own: BoxesInput | BoxFeaturesInput = BoxesInput(contents=question.contents, labels=question.labels)
    if isinstance(question, TrackFeaturesInput):
        own = BoxFeaturesInput(
            contents=question.contents,
            labels=question.labels,
            boxes=question.boxes[index],
            unlabelled=question.unlabelled[index],
        )
    return PreparedInput(own, frame_digest, Picture(image.size, extent, (height, width)), pixels)
