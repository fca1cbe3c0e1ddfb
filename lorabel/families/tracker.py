"""SAM 2 or EdgeTAM for videos: a box that was drawn in one frame is followed forwards and backwards.

Used where the setting MODEL_TRACKER names a model. It is computed a frame at a time, so that a click goes between
two frames; see `model_server.stepping`. Frames are decoded in a thread of their own, some at a time, so that
neither time nor memory of the device's thread depends on how long the video is. It is not trained.
"""

from collections.abc import Hashable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import ClassVar, Self

import numpy as np
import torch
from PIL.Image import Resampling
from safetensors import SafetensorError
from torch import Tensor
from torchvision.transforms.functional import normalize, pil_to_tensor
from transformers import (
    AutoConfig,
    EdgeTamVideoModel,
    Sam2ImageProcessor,
    Sam2VideoModel,
)

from lorabel.contracts import BatchAdapters, Contract, Input, Modality
from lorabel.errors import SettingsError
from lorabel.families.base import LOAD_DTYPE, Fetch, transformers_name
from lorabel.families.cache import FeatureCache
from lorabel.families.detection.frames import looked_at
from lorabel.families.generation.stepwise import Steps, StepwiseFamily
from lorabel.families.segmentation.small_sam2 import save_model, small_video_config
from lorabel.families.tracking.keyframes import keyframes_of
from lorabel.families.tracking.video_memory import Seen, VideoMemory, VideoModel
from lorabel.media.decode_memory import decode_memory
from lorabel.media.video import numbered_frames
from lorabel.settings import Settings
from lorabel.track_contracts import BoxInFrame, FollowedTracksInput, Track, Tracks

MODELS: dict[str, type[VideoModel]] = {
    "sam2_video": Sam2VideoModel,
    "edgetam_video": EdgeTamVideoModel,
}
# Frames that are decoded together, and then are in memory: 25 MB at a side of 1024 pixels.
MOST_DECODED = 8
# Things that are followed together through the frames, of one drawn frame. Each has about 10 MB of memory.
MOST_TOGETHER = 8
MOST_ROWS = 4
# Seconds for which a step waits for frames if no row has any: a click may have to wait for it.
DECODING_S = 0.05


@dataclass(frozen=True)
class Leg:
    """A way through the video, from a frame with drawn boxes to one of its ends.

    Args:
        things: indices of the tracks that are followed.
        numbers: of the frames, in the order in which they are seen.
    """

    things: tuple[int, ...]
    numbers: tuple[int, ...]
    is_backwards: bool


@dataclass(frozen=True)
class PreparedFollowing:
    """A question with its video.

    Attributes:
        file: the bytes of the video.
        looked_at: numbers of the frames that are looked at, beside those of the drawn boxes.
        count: frames that the video has.
        length_s: of the video.
    """

    question: FollowedTracksInput
    file: bytes
    looked_at: tuple[int, ...]
    count: int
    length_s: float

    def legs(self) -> list[Leg]:
        """All ways through the video that must be gone."""
        begun = [
            (track.keyframes[0].frame, index)
            for index, track in enumerate(self.question.begun)
            if track.keyframes[0].frame <= self.count
        ]
        legs: list[Leg] = []
        for frame, group in groupby(sorted(begun), key=lambda each: each[0]):
            for things in _in_parts([index for _, index in group], MOST_TOGETHER):
                after = [number for number in self.looked_at if number > frame]
                before = [number for number in reversed(self.looked_at) if number < frame]
                legs += [
                    Leg(things, (frame, *numbers), is_backwards)
                    for numbers, is_backwards in ((after, False), (before, True))
                    if numbers
                ]
        return legs


@dataclass(frozen=True)
class Tracker(StepwiseFamily):
    """SAM 2 and 2.1 for videos, and EdgeTAM.

    Attributes:
        compute_dtype: the precision of the matrix products; all else is float32.
        mean: of the pixels of each channel, in [0, 1].
        std: of the pixels of each channel.
    """

    name: ClassVar[str] = "tracker"
    inputs: ClassVar[tuple[type[Input], ...]] = (FollowedTracksInput,)
    modalities: ClassVar[frozenset[Modality]] = frozenset({Modality.VIDEO})
    default_source: ClassVar[str] = "hf-hub:facebook/sam2.1-hiera-tiny"
    has_lora: ClassVar[bool] = False

    source: str
    module: VideoModel
    device: torch.device
    dtype: torch.dtype
    compute_dtype: torch.dtype
    mean: tuple[float, ...]
    std: tuple[float, ...]
    settings: Settings

    @classmethod
    def load(cls, source: str, device: torch.device, dtype: torch.dtype, settings: Settings) -> Self:
        """Load `hf-hub:owner/name` or `local-dir:folder`; see `Family.load`."""
        name = transformers_name(source)
        try:
            kind = AutoConfig.from_pretrained(name).model_type
            if kind not in MODELS:
                raise ValueError(f"it is of type {kind!r}, expected one of {', '.join(MODELS)}")
            processor = Sam2ImageProcessor.from_pretrained(name)
            module, info = MODELS[kind].from_pretrained(
                name, dtype=LOAD_DTYPE, use_safetensors=True, output_loading_info=True
            )
            if info["missing_keys"]:
                # Weights that were drawn at random follow nothing.
                raise ValueError(f"weights are missing, such as {min(info['missing_keys'])}")
        except (OSError, ValueError, KeyError, SafetensorError) as error:
            raise SettingsError(
                f"MODEL_TRACKER={source!r} cannot be loaded: {error}; expected hf-hub:owner/name or "
                "local-dir:folder of a SAM 2 or EdgeTAM model for videos of transformers with safetensors weights"
            ) from error
        module.requires_grad_(False).eval().to(device)
        mean, std = tuple(processor.image_mean), tuple(processor.image_std)
        return cls(source, module, device, torch.float32, dtype, mean, std, settings)

    @classmethod
    def tiny(cls, folder: Path) -> str:
        """Write a tiny SAM 2 for videos with frames of 32 x 32 pixels; see `Family.tiny`."""
        save_model(Sam2VideoModel(small_video_config(32, (8, 16, 24, 32), 128)), folder)
        return f"local-dir:{folder}"

    @property
    def side_px(self) -> int:
        """The side of the square to which each frame is stretched."""
        return int(self.module.config.prompt_encoder_config.image_size)

    def prepare(self, question: FollowedTracksInput, fetch: Fetch) -> PreparedFollowing:
        """Read the video, whose frames are decoded as they are needed; see `Family.prepare`."""
        (content,) = question.contents
        assert content.media is not None
        file, settings = fetch(content.media), self.settings
        rate, memory = question.frames_per_s, decode_memory(settings.media_decode_mb)
        with numbered_frames(file, rate, settings.media_max_megapixels, 2 * self.side_px, memory) as video:
            numbers = tuple(dict.fromkeys(looked_at(video.count, rate, settings)))
            return PreparedFollowing(question, file, numbers, video.count, video.length_s)

    def steps(self, bank: BatchAdapters, cache: FeatureCache) -> Steps:
        """Return steps of a frame each; see `StepwiseFamily.steps`. There are no adapters; nothing is cached."""
        return FollowingSteps(self)

    def lora_layers(self) -> list[str]:
        """Return none: a drawn box says nothing of how the thing moves on."""
        return []

    def decoded(self, prepared: PreparedFollowing, numbers: Sequence[int]) -> list[Tensor]:
        """(3, side, side) uint8 RGB: frames of the video.

        Args:
            numbers: ascending or descending.

        Raises:
            UnreadableError: see `lorabel.media.video.decode_video`.
        """
        settings, side = self.settings, self.side_px
        rate, memory = prepared.question.frames_per_s, decode_memory(settings.media_decode_mb)
        ascending = sorted(numbers)
        with numbered_frames(prepared.file, rate, settings.media_max_megapixels, 2 * side, memory) as video:
            frames = {
                number: pil_to_tensor(picture.resize((side, side), Resampling.BILINEAR))
                for number, picture in zip(ascending, video.pictures(ascending), strict=True)
            }
        return [frames[number] for number in numbers]

    def normalised(self, pixels: Tensor) -> Tensor:
        """(3, side, side) float32 of a decoded frame, on the device."""
        result: Tensor = normalize(pixels.to(self.device).float().div_(255), self.mean, self.std)
        return result


@dataclass
class _Way:
    """A leg that is being gone.

    Args:
        parts: numbers of the frames that are yet to be decoded, some at a time.
        decoding: the next frames.
        frames: that are decoded, with their numbers, the next one first.
    """

    leg: Leg
    memory: VideoMemory
    parts: Iterator[tuple[int, ...]]
    decoding: "Future[list[tuple[int, Tensor]]] | None" = None
    frames: list[tuple[int, Tensor]] = field(default_factory=list)


@dataclass
class _Following:
    """A row.

    Args:
        legs: that are not gone yet.
        seen: for each track what was seen, by the number of the frame.
        computed: frames so far, of all legs.
        error: why the video cannot be followed to its end.
    """

    prepared: PreparedFollowing
    legs: list[Leg]
    seen: list[dict[int, BoxInFrame]]
    way: _Way | None = None
    computed: int = 0
    error: Exception | None = None


class FollowingSteps(Steps):
    """Rows whose boxes are followed; a step is a frame of one of them, in turn. See `Steps`."""

    def __init__(self, family: Tracker) -> None:
        self._family = family
        self._rows: dict[Hashable, _Following] = {}
        self._decoder = ThreadPoolExecutor(1, "tracker-frames")

    def has_room(self, prepared_input: PreparedFollowing) -> bool:
        """Whether there are fewer than MOST_ROWS rows."""
        return len(self._rows) < MOST_ROWS

    def begin(self, row: Hashable, prepared_input: PreparedFollowing, adapter: str | None) -> None:
        """Let a row join; see `Steps.begin`."""
        begun = prepared_input.question.begun
        seen = [
            {key.frame: BoxInFrame(frame=key.frame, corners=key.corners, label=track.label, probability=1.0)}
            for track in begun
            for key in track.keyframes
        ]
        self._rows[row] = _Following(prepared_input, prepared_input.legs(), seen)

    def step(self) -> Sequence[Hashable]:
        """Compute a frame of the row whose turn it is, among those that have one decoded; see `Steps.step`."""
        done = [row for row, following in self._rows.items() if not self._is_going(following)]
        if done or not self._rows:
            return done
        ready = [each for each in self._rows.values() if each.way is not None and each.way.frames]
        if not ready:
            ways = [each.way for each in self._rows.values() if each.way is not None]
            wait([way.decoding for way in ways if way.decoding is not None], DECODING_S, FIRST_COMPLETED)
            return []
        following = min(ready, key=lambda each: each.computed)
        following.computed += 1
        try:
            self._add_frame(following)
        except Exception:
            self._begin_leg_anew(following)
            raise
        return []

    def finish(self, row: Hashable) -> Contract:
        """Return the tracks; see `Steps.finish`.

        Raises:
            UnreadableError: the video cannot be decoded.
        """
        following = self._rows.pop(row)
        if following.error is not None:
            raise following.error
        prepared = following.prepared
        step = max(np.diff(prepared.looked_at), default=1)
        tolerance = self._family.settings.tracks_tolerance_percent / 100
        tracks = []
        for track, seen in zip(prepared.question.begun, following.seen, strict=True):
            boxes = [seen[number] for number in sorted(seen)]
            if boxes[0].frame <= prepared.count:
                drawn = {track.keyframes[0].frame}
                keyframes = keyframes_of(boxes, tolerance, int(step), prepared.count, drawn)
                probability = sum(box.probability for box in boxes) / len(boxes)
                tracks.append(Track(label=track.label, keyframes=keyframes, probability=probability))
        return Tracks(tracks=tuple(tracks), frames=prepared.count, length_s=prepared.length_s)

    def leave(self, row: Hashable) -> None:
        """Let a row leave; see `Steps.leave`."""
        following = self._rows.pop(row)
        if following.way is not None and following.way.decoding is not None:
            following.way.decoding.cancel()

    @property
    def rows(self) -> Sequence[Hashable]:
        """The rows, in the order in which they began."""
        return tuple(self._rows)

    def _is_going(self, following: _Following) -> bool:
        """Whether a row has a frame to compute, or will have one; then its next frames are being decoded."""
        if following.way is None:
            if not following.legs or following.error is not None:
                return False
            following.way = self._way(following.prepared, following.legs[0])
        way = following.way
        if way.decoding is not None and way.decoding.done() and not way.frames:
            following.error = way.decoding.exception()  # type: ignore[assignment]
            way.frames = [] if following.error else way.decoding.result()
            way.decoding = None
            if following.error is not None:
                return False
        if way.decoding is None:
            part = next(way.parts, None)
            if part is not None:
                way.decoding = self._decoder.submit(self._decode, following.prepared, part)
        if way.frames or way.decoding is not None:
            return True
        following.legs, following.way = following.legs[1:], None
        return self._is_going(following)

    def _way(self, prepared: PreparedFollowing, leg: Leg) -> _Way:
        boxes = [prepared.question.begun[thing].keyframes[0].corners for thing in leg.things]
        memory = VideoMemory(self._family.module, boxes, len(leg.numbers), leg.is_backwards)
        return _Way(leg, memory, _in_parts(leg.numbers, MOST_DECODED))

    def _decode(self, prepared: PreparedFollowing, part: tuple[int, ...]) -> list[tuple[int, Tensor]]:
        return list(zip(part, self._family.decoded(prepared, part), strict=True))

    def _add_frame(self, following: _Following) -> None:
        way, family = following.way, self._family
        assert way is not None
        number, pixels = way.frames[0]
        is_mixed = family.compute_dtype != family.dtype
        with torch.autocast(family.device.type, family.compute_dtype, enabled=is_mixed):
            views = way.memory.add(family.normalised(pixels))
        del way.frames[0]
        for thing, seen in zip(way.leg.things, views, strict=True):
            self._note(following, thing, number, seen)

    @staticmethod
    def _note(following: _Following, thing: int, number: int, seen: Seen) -> None:
        """Remember where a thing is. In the frame in which it was drawn it is where it was drawn."""
        track, corners = following.prepared.question.begun[thing], seen.corners
        if corners is not None and number != track.keyframes[0].frame:
            probability = float(torch.tensor(seen.score).sigmoid())
            following.seen[thing][number] = BoxInFrame(
                frame=number, corners=corners, label=track.label, probability=probability
            )

    def _begin_leg_anew(self, following: _Following) -> None:
        if following.way is not None and following.way.decoding is not None:
            following.way.decoding.cancel()
        following.way = None


def _in_parts(values: Sequence[int], most: int) -> Iterator[tuple[int, ...]]:
    """Divide values into tuples of at most `most`, in their order."""
    return (tuple(values[first : first + most]) for first in range(0, len(values), most))
