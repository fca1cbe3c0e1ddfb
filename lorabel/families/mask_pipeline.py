"""Masks of everything that labels name: the detector finds boxes, and the segmenter the mask in each box.

The pipeline has no base model of its own. It is trained and evaluated as one model, with one adapter on the layers
of both; the model server asks the detector, then the segmenter, each among the rows of others. See
docs/decisions/0029.
"""

from collections.abc import Collection, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from lorabel.contracts import BatchAdapters, Contract, Input, Modality
from lorabel.errors import SettingsError
from lorabel.families.base import NO_BATCH_ADAPTERS, Family, Fetch
from lorabel.families.cache import FeatureCache
from lorabel.families.detection.views import PreparedInput
from lorabel.families.detector import Detector
from lorabel.families.encoders.heads.linear_head import LinearHead
from lorabel.families.segmenter import PreparedMasks, Segmenter
from lorabel.feature_contracts import BoxFeaturesInput
from lorabel.mask_contracts import LabelledMasksInput, Masks, MasksInput, MasksTarget, Prompt, box_of_runs
from lorabel.settings import Settings
from lorabel.space_contracts import Boxes, BoxesInput, BoxTarget, Corners

# Between the sources of the two base models.
AND = " + "
# Boxes that get a mask: unlikelier ones cost the segmenter as much, and average precision hardly notices them.
SMALLEST_PROBABILITY = 0.05
# Most masks of a picture, the likeliest. A click of somebody else may wait for all of them.
MOST_MASKS = 50
# Most that training moves each side of a true box, as a share of the box: boxes that are found are off, too.
JITTER = 0.1


def boxes_question(question: LabelledMasksInput) -> BoxesInput:
    """Return what the detector is asked."""
    return BoxesInput(contents=question.contents, labels=question.labels, is_explained=question.is_explained)


def masks_question(question: LabelledMasksInput, boxes: Boxes) -> MasksInput:
    """Return what the segmenter is asked about the boxes that were found, one prompt for each."""
    prompts = [Prompt(label=box.label, corners=box.corners) for box in _masked(boxes)]
    return MasksInput(contents=question.contents, prompts=tuple(prompts))


def answer_of(boxes: Boxes, masks: Masks) -> Masks:
    """Return the masks, each with the probability of its box, and with its nearness.

    Args:
        masks: the answer to `masks_question`.
    """
    of_boxes = tuple(
        mask.model_copy(update={"probability": box.probability, "nearness": box.nearness})
        for box, mask in zip(_masked(boxes), masks.masks, strict=True)
    )
    return masks.model_copy(update={"masks": of_boxes, "threshold": boxes.threshold})


@dataclass(frozen=True)
class PreparedPicture:
    """A question with its picture as each of the two models reads it."""

    question: LabelledMasksInput
    boxes: PreparedInput
    masks: PreparedMasks


@dataclass(frozen=True)
class PartTargets:
    """What each of the two models learns of an example whose boxes have moved or whose masks were chosen."""

    boxes: BoxTarget
    masks: MasksTarget


class PartAdapters(BatchAdapters):
    """The adapters of the pipeline for one of its two models, which knows its layers by shorter names."""

    def __init__(self, bank: BatchAdapters, part: str) -> None:
        self._bank, self._part = bank, part

    def use(self, adapters: Sequence[str | None]) -> AbstractContextManager[None]:
        """Apply the adapters; see `BatchAdapters`."""
        return self._bank.use(adapters)

    def effective_adapter(self, adapter: str | None, layers: Collection[str]) -> str | None:
        """Return the adapter if it changes any of these layers of the part."""
        return self._bank.effective_adapter(adapter, {f"{self._part}.{layer}" for layer in layers})


@dataclass(frozen=True)
class MaskPipeline(Family):
    """The detector and the segmenter, one after the other.

    Attributes:
        module: both base models, under the names of their families.
        source: both sources, joined by AND.
    """

    name: ClassVar[str] = "mask_pipeline"
    inputs: ClassVar[tuple[type[Input], ...]] = (LabelledMasksInput,)
    modalities: ClassVar[frozenset[Modality]] = frozenset({Modality.IMAGE})
    default_source: ClassVar[str] = AND.join((Detector.default_source, Segmenter.default_source))
    part_types: ClassVar[tuple[type[Family], ...]] = (Detector, Segmenter)
    adapters_rival_heads: ClassVar[bool] = True

    source: str
    module: nn.Module
    device: torch.device
    dtype: torch.dtype
    detector: Detector
    segmenter: Segmenter

    @classmethod
    def load(cls, source: str, device: torch.device, dtype: torch.dtype, settings: Settings) -> Self:
        """Load both base models; see `Family.load`.

        Args:
            source: both sources, joined by AND.
        """
        sources = source.split(AND)
        if len(sources) != len(cls.part_types):
            raise SettingsError(f"{source!r} names {len(sources)} base models; {cls.name} has two")
        return cls.of(
            [part.load(each, device, dtype, settings) for part, each in zip(cls.part_types, sources, strict=True)]
        )

    @classmethod
    def of(cls, parts: Sequence[Family]) -> Self:
        """Return the pipeline of loaded base models, which it shares with their other users.

        Args:
            parts: of `part_types`.
        """
        detector, segmenter = parts
        assert isinstance(detector, Detector) and isinstance(segmenter, Segmenter)
        module = nn.ModuleDict({part.name: part.module for part in parts})
        source = AND.join(part.source for part in parts)
        return cls(source, module, detector.device, detector.dtype, detector, segmenter)

    @classmethod
    def is_local(cls, source: str) -> bool:
        """Whether neither of the base models needs a hub."""
        sources = source.split(AND)
        return all(part.is_local(each) for part, each in zip(cls.part_types, sources, strict=False))

    @classmethod
    def tiny(cls, folder: Path) -> str:
        """Write a tiny model of each kind; see `Family.tiny`."""
        return AND.join(part.tiny(folder / part.name) for part in cls.part_types)

    @property
    def parts(self) -> tuple[Family, ...]:
        """The detector and the segmenter."""
        return self.detector, self.segmenter

    @property
    def head_dim(self) -> int:
        """Return that of the detector, whose boxes a head finds; see `Family.head_dim`."""
        return self.detector.head_dim

    def with_head(
        self,
        prepared_input: PreparedPicture,
        head: LinearHead | None,
        adapter: str | None = None,
        bank: BatchAdapters = NO_BATCH_ADAPTERS,
    ) -> PreparedPicture:
        """Have the boxes found with a head; see `Family.with_head`."""
        return replace(prepared_input, boxes=self.detector.with_head(prepared_input.boxes, head, adapter, bank))

    def for_features(self, prepared_input: PreparedPicture, target: object) -> PreparedPicture:
        """Return the input as one that is answered with the detector's features; see `Family.for_features`."""
        around = target.around() if isinstance(target, MasksTarget) else None
        return replace(prepared_input, boxes=self.detector.for_features(prepared_input.boxes, around))

    def prepare(self, question: LabelledMasksInput, fetch: Fetch) -> PreparedPicture:
        """Read the picture for each of the two models; see `Family.prepare`."""
        (content,) = question.contents
        file = b"" if content.media is None else fetch(content.media)
        boxes = self.detector.prepare(boxes_question(question), lambda _: file)
        assert isinstance(boxes, PreparedInput)
        masks = self.segmenter.prepare(MasksInput(contents=question.contents), lambda _: file)
        return PreparedPicture(question, boxes, masks)

    def precompute(
        self,
        prepared_inputs: Sequence[PreparedPicture],
        trained: Collection[str],
        generator: torch.Generator | None,
    ) -> Sequence[PreparedPicture]:
        """Compute what the two models compute before their trained layers; see `Family.precompute`."""
        detected, segmented = (
            {name.removeprefix(f"{part.name}.") for name in trained if name.startswith(f"{part.name}.")}
            for part in self.parts
        )
        boxes = self.detector.precompute([each.boxes for each in prepared_inputs], detected, generator)
        masks = self.segmenter.precompute([each.masks for each in prepared_inputs], segmented, generator)
        return [
            replace(each, boxes=own_boxes, masks=own_masks)
            for each, own_boxes, own_masks in zip(prepared_inputs, boxes, masks, strict=True)
        ]

    def augment(
        self,
        prepared_inputs: Sequence[PreparedPicture],
        targets: Sequence[MasksTarget],
        generator: torch.Generator,
    ) -> tuple[Sequence[PreparedPicture], Sequence[PartTargets]]:
        """Augment for the detector; choose masks for the segmenter, and move the boxes around them a little."""
        boxes, box_targets = self.detector.augment(
            [each.boxes for each in prepared_inputs], [target.around() for target in targets], generator
        )
        masks, mask_targets = self.segmenter.augment(
            [_asked(each.masks, target, generator) for each, target in zip(prepared_inputs, targets, strict=True)],
            targets,
            generator,
        )
        inputs = [
            replace(each, boxes=own_boxes, masks=own_masks)
            for each, own_boxes, own_masks in zip(prepared_inputs, boxes, masks, strict=True)
        ]
        return inputs, [PartTargets(*pair) for pair in zip(box_targets, mask_targets, strict=True)]

    @torch.inference_mode()
    def predict(
        self,
        prepared_inputs: Sequence[PreparedPicture],
        adapters: Sequence[str | None],
        bank: BatchAdapters,
        cache: FeatureCache,
    ) -> Sequence[Contract]:
        """Find the masks in each picture; see `Family.predict`. The model server has its own way to the same."""
        of_detector, of_segmenter = (PartAdapters(bank, part.name) for part in self.parts)
        outputs = self.detector.predict([each.boxes for each in prepared_inputs], adapters, of_detector, cache)
        if all(isinstance(each.boxes.question, BoxFeaturesInput) for each in prepared_inputs):
            return outputs
        boxes = [Boxes.model_validate(output) for output in outputs]
        asked = [
            replace(each.masks, question=masks_question(each.question, own_boxes))
            for each, own_boxes in zip(prepared_inputs, boxes, strict=True)
        ]
        masks = self.segmenter.predict(asked, adapters, of_segmenter, cache)
        return [
            answer_of(own_boxes, Masks.model_validate(own_masks))
            for own_boxes, own_masks in zip(boxes, masks, strict=True)
        ]

    def loss(
        self, prepared_inputs: Sequence[PreparedPicture], targets: Sequence[MasksTarget | PartTargets]
    ) -> Tensor:
        """Add the losses of both models; see `Family.loss`. A picture without masks has none of the segmenter."""
        parts = [
            PartTargets(target.around(), target) if isinstance(target, MasksTarget) else target
            for target in targets
        ]
        losses = self.detector.loss([each.boxes for each in prepared_inputs], [target.boxes for target in parts])
        with_masks = [index for index, target in enumerate(parts) if target.masks.masks]
        if not with_masks:
            return losses
        asked = [
            each if each.question.prompts else _asked(each, parts[index].masks, None)
            for index in with_masks
            for each in (prepared_inputs[index].masks,)
        ]
        of_masks = self.segmenter.loss(asked, [parts[index].masks for index in with_masks])
        return losses.index_add(0, torch.tensor(with_masks, device=losses.device), of_masks.to(losses.dtype))

    def lora_layers(self) -> list[str]:
        """Return those of both models."""
        return [f"{part.name}.{layer}" for part in self.parts for layer in part.lora_layers()]

    def trained_layers(self, question: Input) -> list[str]:
        """Return those that each model trains for its part of the question."""
        return [f"{part.name}.{layer}" for part in self.parts for layer in part.trained_layers(question)]


def _masked(boxes: Boxes) -> Sequence[Any]:
    """The boxes that get a mask, the likeliest first."""
    return [box for box in boxes.boxes if box.probability >= SMALLEST_PROBABILITY][:MOST_MASKS]


def _corners(target: MasksTarget) -> list[Corners]:
    """The upright box around each mask."""
    return [box_of_runs(runs, target.width, target.height) for runs, _ in target.masks]


def _asked(prepared: PreparedMasks, target: MasksTarget, generator: torch.Generator | None) -> PreparedMasks:
    """The segmenter's input with a prompt for each mask of the target: the box around it.

    Args:
        generator: moves the sides of the boxes; None leaves them as they are.
    """
    corners = [box if generator is None else _jittered(box, generator) for box in _corners(target)]
    prompts = [Prompt(label=label, corners=box) for box, (_, label) in zip(corners, target.masks, strict=True)]
    question = MasksInput(contents=prepared.question.contents, prompts=tuple(prompts))
    return replace(prepared, question=question)


def _jittered(box: Corners, generator: torch.Generator) -> Corners:
    """The box with each side moved by up to JITTER of its width or height, within the picture."""
    left, top, right, bottom = box
    width, height = right - left, bottom - top
    moves = ((torch.rand(4, generator=generator) * 2 - 1) * JITTER).tolist()
    return (
        max(0.0, left + moves[0] * width),
        max(0.0, top + moves[1] * height),
        min(1.0, right + moves[2] * width),
        min(1.0, bottom + moves[3] * height),
    )
