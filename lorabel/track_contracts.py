"""Inputs, outputs and target of questions about things that move through a video. See `lorabel.contracts`.

Frames are counted as Label Studio counts them: from 1, at the frame rate of its label config, whatever the file
says.
"""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

from pydantic import BaseModel, ConfigDict, Field

from lorabel.contracts import Content, Contract, Input, LabelTextsInput
from lorabel.space_contracts import MOST_PLACES, BoxesInput, BoxTarget, Corners

# Frames of an annotated video that are learned from.
MOST_LEARNED_FRAMES = 8
# Tracks of a video that are followed from a drawn box.
MOST_BEGUN = 50


class Keyframe(BaseModel):
    """Where a thing is in a frame. Between two keyframes it moves evenly.

    Args:
        frame: from 1.
        corners: of the upright box around the thing.
        is_seen: whether it is seen from this frame on; if not, it is not seen after this frame, until the next
            keyframe.
    """

    model_config = ConfigDict(frozen=True)
    frame: int
    corners: Corners
    is_seen: bool = True


class Track(BaseModel):
    """The way of a thing through a video.

    Args:
        label: index of the label in the input's labels.
        keyframes: in the order of their frames, which differ; at least one. After the last the thing stays where
            it is, if it is seen.
        probability: the model's confidence in the track, in [0, 1].
    """

    model_config = ConfigDict(frozen=True)
    label: int
    keyframes: tuple[Keyframe, ...] = Field(min_length=1)
    probability: float = 1.0

    @property
    def is_begun(self) -> bool:
        """Whether an annotator has drawn one box, and said nothing of other frames."""
        return len(self.keyframes) == 1 and self.keyframes[0].is_seen

    def at(self, frame: int) -> Corners | None:
        """The box in a frame; None where the thing is not seen."""
        return place_at(self.keyframes, frame)


def place_at(keyframes: Sequence[Keyframe], frame: int) -> Corners | None:
    """Return the box in a frame, as the editor shows it; None where it shows none.

    Args:
        keyframes: see `Track`.
    """
    index = bisect_right(keyframes, frame, key=lambda keyframe: keyframe.frame) - 1
    if index < 0:
        return None
    before = keyframes[index]
    if before.frame == frame or not before.is_seen:
        return before.corners if before.frame == frame else None
    if index + 1 == len(keyframes):
        return before.corners
    after = keyframes[index + 1]
    share = (frame - before.frame) / (after.frame - before.frame)
    left, top, right, bottom = (a + (b - a) * share for a, b in zip(before.corners, after.corners, strict=True))
    return left, top, right, bottom


class TracksInput(LabelTextsInput):
    """Asks how the things move that the labels name. `contents` is one video. Answer: `Tracks`.

    Args:
        frames_per_s: by which frames are counted.
        learned: the frames that are learned from, if it is known what they show.
        threshold: see `FrameBoxesInput`.
        begun: tracks of which an annotator has drawn one box, to be followed from there (`Track.is_begun`).
    """

    kind: ClassVar[str] = "tracks"
    frames_per_s: float = Field(gt=0)
    threshold: float | None = Field(None, ge=0, le=1)
    learned: tuple[int, ...] = ()
    begun: tuple[Track, ...] = Field((), max_length=MOST_BEGUN)


class FollowedTracksInput(Input):
    """Asks how things move of each of which a box in one frame is known. Answer: `Tracks`, in the same order.

    Args:
        contents: one video.
        frames_per_s: by which frames are counted.
        begun: each with one keyframe. Those in frames that the video does not have are not answered.
    """

    kind: ClassVar[str] = "followed_tracks"
    contents: tuple[Content, ...] = Field(min_length=1)
    frames_per_s: float = Field(gt=0)
    begun: tuple[Track, ...] = Field(min_length=1, max_length=MOST_BEGUN)


class Tracks(Contract):
    """Answer to `TracksInput`.

    Args:
        tracks: the likeliest first.
        frames: of the video.
        length_s: of the video, in seconds.
        threshold: the smallest probability of a track that is shown.
    """

    kind: ClassVar[str] = "found_tracks"
    tracks: tuple[Track, ...]
    frames: int = 0
    length_s: float = 0.0
    threshold: float = 0.0


class FrameBoxesInput(BoxesInput):
    """Asks where the things are that the labels name, in some frames of a video. Answer: `FrameBoxes`.

    Args:
        frames_per_s: by which frames are counted.
        numbers: the frames, ascending; empty for those of a window.
        window: which part of the frames that are looked at is asked about, from 0. `FrameBoxes.windows` says how
            many there are.
        threshold: smallest probability of a box that is shown, if it is less than the setting DETECTOR_THRESHOLD;
            None for the setting.
    """

    kind: ClassVar[str] = "frame_boxes"
    frames_per_s: float = Field(gt=0)
    numbers: tuple[int, ...] = ()
    window: int = Field(0, ge=0)
    threshold: float | None = Field(None, ge=0, le=1)


class BoxInFrame(BaseModel):
    """A box in a frame of a video.

    Args:
        frame: from 1.
        label: index of the label in the input's labels.
        probability: the model's confidence in place and label, in [0, 1].
    """

    model_config = ConfigDict(frozen=True)
    frame: int
    corners: Corners
    label: int
    probability: float


class FrameBoxes(Contract):
    """Answer to `FrameBoxesInput`.

    Args:
        numbers: the frames of this window, in order.
        boxes: in the order of frames, also those that are too unlikely to be shown.
        dim: numbers in the direction of a box.
        float16: (boxes, dim) little-endian float16 in base64: boxes that show the same have directions with a
            large cosine. Each has length 1.
        windows: that the video has.
        frames: that the video has.
        length_s: of the video, in seconds.
        threshold: the smallest probability of a box that is shown.
        tolerance: how far a side of a track may be off between keyframes, as a fraction of the picture.
    """

    kind: ClassVar[str] = "found_frame_boxes"
    numbers: tuple[int, ...]
    boxes: tuple[BoxInFrame, ...]
    dim: int
    float16: str
    windows: int
    frames: int
    length_s: float
    threshold: float
    tolerance: float


class TrackFeaturesInput(FrameBoxesInput):
    """Asks for everything that a head for tracks is fitted on. `contents` is one video. Answer: `Features`.

    Its first rows are of the boxes, frame by frame. The others are of places where none of the boxes is.

    Args:
        boxes: for each of `numbers` what annotators have drawn, with the indices of the labels.
        unlabelled: for each of them boxes of which nobody knows what is in them.
    """

    kind: ClassVar[str] = "track_features"
    boxes: tuple[tuple[tuple[Corners, int], ...], ...] = ()
    unlabelled: tuple[tuple[Corners, ...], ...] = ()


@dataclass(frozen=True)
class TracksTarget:
    """Target for `TracksInput`.

    Args:
        tracks: the right tracks, each with probability 1; sorted. Empty if the video shows none.
        frames: of the video, as far as the annotation says; 0 if it does not.
        length_s: of the video, in seconds; 0 if the annotation does not say.
        left_out: why other tracks of the annotation cannot be used.
        unlabelled: tracks of things whose label is not known; their `label` means nothing. Nothing is learned or
            judged there.
        incomplete: indices of labels of which there are more things, at places that are not known; sorted.
    """

    tracks: tuple[Track, ...]
    frames: int = 0
    length_s: float = field(default=0.0, compare=False)
    left_out: tuple[str, ...] = field(default=(), compare=False)
    unlabelled: tuple[Track, ...] = ()
    incomplete: tuple[int, ...] = ()

    @property
    def last_frame(self) -> int:
        """The last frame of which the annotation says something."""
        tracks = (*self.tracks, *self.unlabelled)
        return max(self.frames, *(track.keyframes[-1].frame for track in tracks), 1)

    @property
    def learned_frames(self) -> tuple[tuple[int, BoxTarget], ...]:
        """At most MOST_LEARNED_FRAMES frames to learn from, and what they show.

        They are keyframes, where people have looked. If there are more, they are spread evenly. Without a track
        they are spread over the video. Together they have at most MOST_PLACES boxes; of a frame with more, nobody
        knows what is in the others.
        """
        tracks = (*self.tracks, *self.unlabelled)
        keyframes = sorted({keyframe.frame for track in tracks for keyframe in track.keyframes})
        frames: Sequence[int] = keyframes or range(1, self.last_frame + 1)
        if len(frames) > MOST_LEARNED_FRAMES:
            step = (len(frames) - 1) / (MOST_LEARNED_FRAMES - 1)
            frames = [frames[round(number * step)] for number in range(MOST_LEARNED_FRAMES)]
        learned: list[tuple[int, BoxTarget]] = []
        for frame in frames:
            target = self.boxes_at(frame)
            if not learned and len(target.boxes) > MOST_PLACES:
                others = tuple(corners for corners, _ in target.boxes[MOST_PLACES:])
                target = replace(
                    target,
                    boxes=target.boxes[:MOST_PLACES],
                    unlabelled=tuple(sorted((*target.unlabelled, *others))),
                )
            if sum(len(shown.boxes) for _, shown in learned) + len(target.boxes) <= MOST_PLACES:
                learned.append((frame, target))
        return tuple(learned)

    @property
    def learned_boxes(self) -> BoxTarget:
        """The boxes of `learned_frames`, frame by frame, as if one picture showed them."""
        learned = [shown for _, shown in self.learned_frames]
        return BoxTarget(tuple(box for shown in learned for box in shown.boxes), incomplete=self.incomplete)

    def boxes_at(self, frame: int) -> BoxTarget:
        """What a frame shows."""
        boxes = {(place, track.label) for track in self.tracks if (place := track.at(frame)) is not None}
        unlabelled = {place for track in self.unlabelled if (place := track.at(frame)) is not None}
        return BoxTarget(tuple(sorted(boxes)), unlabelled=tuple(sorted(unlabelled)), incomplete=self.incomplete)
