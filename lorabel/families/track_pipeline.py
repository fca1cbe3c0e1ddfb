"""Tracks of everything that labels name: the detector finds boxes in frames, which are put together over time.

The pipeline has no base model of its own. Its adapters and heads are the detector's: an annotated video teaches
what its keyframes show. The model server asks the detector window by window, among the rows of others. See
docs/decisions/0043.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from lorabel.contracts import BatchAdapters, Contract, Input, Modality
from lorabel.evaluation.track_metrics import track_overlaps
from lorabel.families.base import NO_BATCH_ADAPTERS, Family, Fetch
from lorabel.families.cache import FeatureCache
from lorabel.families.detection.frames import PreparedFrames
from lorabel.families.detector import Detector
from lorabel.families.encoders.heads.linear_head import LinearHead
from lorabel.families.mask_pipeline import PartAdapters
from lorabel.families.tracking.found_tracks import TrackFinder
from lorabel.feature_contracts import FeaturesInput
from lorabel.settings import Settings
from lorabel.space_contracts import BoxTarget
from lorabel.track_contracts import (
    FollowedTracksInput,
    FrameBoxes,
    FrameBoxesInput,
    TrackFeaturesInput,
    Tracks,
    TracksInput,
    TracksTarget,
)

# IoU over time from which on two tracks of a label are the same thing.
SAME_OVERLAP = 0.5


def window_question(question: TracksInput, window: int) -> FrameBoxesInput:
    """Return what the detector is asked about a window of the video.

    Args:
        window: from 0.
    """
    return FrameBoxesInput(
        contents=question.contents,
        labels=question.labels,
        frames_per_s=question.frames_per_s,
        window=window,
        threshold=question.threshold,
    )


def following_question(question: TracksInput) -> FollowedTracksInput:
    """Return what the tracker is asked about tracks that are begun."""
    return FollowedTracksInput(
        contents=question.contents, frames_per_s=question.frames_per_s, begun=question.begun
    )


def with_followed(detected: Tracks, followed: Tracks) -> Tracks:
    """Return what the tracker followed, and what the detector found beside it.

    A detected track of the same label in the same places as a followed one is the same thing, and is left out.
    """
    overlaps = track_overlaps(detected.tracks, followed.tracks)
    others = [
        track for track, ious in zip(detected.tracks, overlaps, strict=True) if not (ious >= SAME_OVERLAP).any()
    ]
    shown = [
        track.model_copy(update={"probability": max(track.probability, detected.threshold)})
        for track in followed.tracks
    ]
    tracks = sorted((*shown, *others), key=lambda track: -track.probability)
    return detected.model_copy(update={"tracks": tuple(tracks)})


@dataclass(frozen=True)
class PreparedVideo:
    """A question with its video.

    Attributes:
        file: the bytes of the video, of which windows are decoded as they are needed.
        learned: the frames that are learned from: those that the question names, or its first window.
        fitted_head: finds boxes in place of the label texts.
        features: what is asked in place of the tracks; None if tracks are asked for.
    """

    question: TracksInput
    file: bytes
    learned: PreparedFrames
    fitted_head: LinearHead | None = None
    features: TrackFeaturesInput | None = None


@dataclass(frozen=True)
class TrackPipeline(Family):
    """The detector, and the association of its boxes.

    Attributes:
        module: the base model of the detector, under its name.
        source: that of the detector.
    """

    name: ClassVar[str] = "track_pipeline"
    inputs: ClassVar[tuple[type[Input], ...]] = (TracksInput,)
    modalities: ClassVar[frozenset[Modality]] = frozenset({Modality.VIDEO})
    default_source: ClassVar[str] = Detector.default_source
    part_types: ClassVar[tuple[type[Family], ...]] = (Detector,)
    adapters_rival_heads: ClassVar[bool] = True
    most_tested: ClassVar[int | None] = 50

    source: str
    module: nn.Module
    device: torch.device
    dtype: torch.dtype
    detector: Detector

    @classmethod
    def load(cls, source: str, device: torch.device, dtype: torch.dtype, settings: Settings) -> Self:
        """Load the detector; see `Family.load`."""
        return cls.of([Detector.load(source, device, dtype, settings)])

    @classmethod
    def of(cls, parts: Sequence[Family]) -> Self:
        """Return the pipeline of a loaded detector, which it shares with its other users.

        Args:
            parts: of `part_types`.
        """
        (detector,) = parts
        assert isinstance(detector, Detector)
        module = nn.ModuleDict({detector.name: detector.module})
        return cls(detector.source, module, detector.device, detector.dtype, detector)

    @classmethod
    def tiny(cls, folder: Path) -> str:
        """Write a tiny detector; see `Family.tiny`."""
        return Detector.tiny(folder)

    @property
    def parts(self) -> tuple[Family, ...]:
        """The detector."""
        return (self.detector,)

    @property
    def space(self) -> str:
        """The space of the detector's features: it answers the questions for them."""
        return self.detector.space

    @property
    def head_dim(self) -> int:
        """Return that of the detector; see `Family.head_dim`."""
        return self.detector.head_dim

    def with_head(
        self,
        prepared_input: PreparedVideo,
        head: LinearHead | None,
        adapter: str | None = None,
        bank: BatchAdapters = NO_BATCH_ADAPTERS,
    ) -> PreparedVideo:
        """Have the boxes found with a head; see `Family.with_head`."""
        return prepared_input if head is None else replace(prepared_input, fitted_head=head)

    def for_features(self, prepared_input: PreparedVideo, target: object) -> PreparedVideo:
        """Return the input as one that is answered with the detector's features; see `Family.for_features`."""
        asked = FeaturesInput.of(prepared_input.question, target)
        assert isinstance(asked, TrackFeaturesInput)
        return replace(prepared_input, features=asked)

    def prepare(self, question: TracksInput, fetch: Fetch) -> PreparedVideo:
        """Read the video, and decode the frames that are learned from; see `Family.prepare`."""
        (content,) = question.contents
        file = b"" if content.media is None else fetch(content.media)
        asked = window_question(question, 0).model_copy(update={"numbers": question.learned})
        learned = self.detector.prepare(asked, lambda _: file)
        assert isinstance(learned, PreparedFrames)
        return PreparedVideo(question, file, learned)

    def precompute(
        self,
        prepared_inputs: Sequence[PreparedVideo],
        trained: Collection[str],
        generator: torch.Generator | None,
    ) -> Sequence[PreparedVideo]:
        """Compute what the detector computes of frames before its trained layers; see `Family.precompute`."""
        of_detector = {name.removeprefix(f"{self.detector.name}.") for name in trained}
        pictures = [
            self.detector.precompute(each.learned.pictures, of_detector, generator) for each in prepared_inputs
        ]
        return [
            replace(each, learned=replace(each.learned, pictures=tuple(own_pictures)))
            for each, own_pictures in zip(prepared_inputs, pictures, strict=True)
        ]

    def augment(
        self,
        prepared_inputs: Sequence[PreparedVideo],
        targets: Sequence[TracksTarget],
        generator: torch.Generator,
    ) -> tuple[Sequence[PreparedVideo], Sequence[BoxTarget]]:
        """Choose a frame of each video, and augment it for the detector; see `Family.augment`."""
        indices = [
            int(torch.randint(len(each.learned.pictures), (), generator=generator)) for each in prepared_inputs
        ]
        chosen = [
            (each.learned.pictures[index], each.learned.numbers[index])
            for each, index in zip(prepared_inputs, indices, strict=True)
        ]
        boxes = [target.boxes_at(number) for target, (_, number) in zip(targets, chosen, strict=True)]
        pictures, moved = self.detector.augment([picture for picture, _ in chosen], boxes, generator)
        inputs = [
            replace(each, learned=replace(each.learned, pictures=(picture,), numbers=(number,)))
            for each, picture, (_, number) in zip(prepared_inputs, pictures, chosen, strict=True)
        ]
        return inputs, list(moved)

    @torch.inference_mode()
    def predict(
        self,
        prepared_inputs: Sequence[PreparedVideo],
        adapters: Sequence[str | None],
        bank: BatchAdapters,
        cache: FeatureCache,
    ) -> Sequence[Contract]:
        """Find the tracks in each video; see `Family.predict`. The model server has its own way to the same."""
        of_detector = PartAdapters(bank, self.detector.name)
        return [
            self._ask(each, each.features, adapter, of_detector, cache)
            if each.features is not None
            else self._tracks(each, adapter, of_detector, cache)
            for each, adapter in zip(prepared_inputs, adapters, strict=True)
        ]

    def loss(
        self, prepared_inputs: Sequence[PreparedVideo], targets: Sequence[TracksTarget | BoxTarget]
    ) -> Tensor:
        """Compute the detector's loss, the mean over the frames that are learned from; see `Family.loss`.

        Args:
            targets: of the boxes where a frame was chosen, see `augment`.
        """
        pictures = [picture for each in prepared_inputs for picture in each.learned.pictures]
        boxes = [
            target if isinstance(target, BoxTarget) else target.boxes_at(number)
            for each, target in zip(prepared_inputs, targets, strict=True)
            for number in each.learned.numbers
        ]
        losses = self.detector.loss(pictures, boxes)
        counts = [len(each.learned.pictures) for each in prepared_inputs]
        return torch.stack([of_video.mean() for of_video in torch.split(losses, counts)])

    def lora_layers(self) -> list[str]:
        """Return those of the detector."""
        return [f"{self.detector.name}.{layer}" for layer in self.detector.lora_layers()]

    def trained_layers(self, question: Input) -> list[str]:
        """Return those that the detector trains."""
        return [f"{self.detector.name}.{layer}" for layer in self.detector.trained_layers(question)]

    def _tracks(
        self, prepared: PreparedVideo, adapter: str | None, bank: BatchAdapters, cache: FeatureCache
    ) -> Contract:
        finder = TrackFinder(prepared.question.frames_per_s)
        window, windows = 0, 1
        while window < windows:
            question = window_question(prepared.question, window)
            boxes = FrameBoxes.model_validate(self._ask(prepared, question, adapter, bank, cache))
            finder.add(boxes)
            window, windows = window + 1, boxes.windows
        return finder.tracks()

    def _ask(
        self,
        prepared: PreparedVideo,
        question: FrameBoxesInput,
        adapter: str | None,
        bank: BatchAdapters,
        cache: FeatureCache,
    ) -> Contract:
        frames: Any = self.detector.prepare(question, lambda _: prepared.file)
        frames = self.detector.with_head(frames, prepared.fitted_head)
        (output,) = self.detector.predict([frames], [adapter], bank, cache)
        return output
