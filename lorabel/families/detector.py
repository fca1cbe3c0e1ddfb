"""Boxes around what texts describe, and around what annotators have taught a label to mean.

What the model computes of a picture alone does not depend on the labels, nor on any adapter by default: adapters
go on the layers for label texts and on the heads, unless LORA_TOWERS is `both`. So these states are remembered by
content, for all projects, and a run computes them once. With OWLv2 they cost most of an answer; Grounding DINO
reads picture and labels together, and only what its backbone computes can be remembered.
"""

import base64
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from types import MappingProxyType
from typing import ClassVar, Self

import torch
from tokenizers import pre_tokenizers
from torch import Tensor, nn
from transformers import Owlv2ImageProcessor, PreTrainedConfig

from lorabel.contracts import BatchAdapters, Contract, Input, Modality
from lorabel.errors import SettingsError
from lorabel.families.base import NO_BATCH_ADAPTERS, DigestOf, Family, Fetch, transformers_name
from lorabel.families.cache import FEATURES, FeatureCache
from lorabel.families.core_threads import with_adapters
from lorabel.families.detection.box_model import Asked, BoxModel, Places, batches
from lorabel.families.detection.examples import example_features, others_than
from lorabel.families.detection.found_boxes import BoxLimits, find_boxes
from lorabel.families.detection.frames import PreparedFrames, frame_boxes, joined_features, read_frames
from lorabel.families.detection.grounding_dino import GroundingDino
from lorabel.families.detection.matching_loss import matching_loss
from lorabel.families.detection.nearness import nearness_of
from lorabel.families.detection.owlv2 import Owlv2, byte_level_tokenizer, random_model
from lorabel.families.detection.places import chosen_places, with_head
from lorabel.families.detection.views import (
    WHOLE,
    KnownPicture,
    Picture,
    PreparedInput,
    View,
    move_boxes,
    random_part,
    show_part,
)
from lorabel.families.lora_layers import trains_all_towers
from lorabel.feature_contracts import BoxFeaturesInput, Features, FeaturesInput
from lorabel.media.decode_memory import decode_memory
from lorabel.media.fetching import digest
from lorabel.media.image import shown_size
from lorabel.media.pixels import decoded_pixels
from lorabel.settings import Settings
from lorabel.space_contracts import Boxes, BoxesInput, BoxTarget
from lorabel.track_contracts import FrameBoxesInput, TrackFeaturesInput

# JPEGs are decoded at a reduced scale, but at no less than this many times the model's resolution.
DRAFT_SCALE = 2
# Views of a picture that a run precomputes: the picture itself, and parts of it.
VIEWS = 2
# The class of models for each `model_type` of transformers' configs.
MODELS: Mapping[str, type[BoxModel]] = MappingProxyType(
    {"owlv2": Owlv2, "mm-grounding-dino": GroundingDino, "grounding-dino": GroundingDino}
)


@dataclass(frozen=True)
class Detector(Family):
    """Open-vocabulary detectors of transformers, see MODELS; `module` is the base model."""

    name: ClassVar[str] = "detector"
    inputs: ClassVar[tuple[type[Input], ...]] = (BoxesInput, BoxFeaturesInput, FrameBoxesInput, TrackFeaturesInput)
    modalities: ClassVar[frozenset[Modality]] = frozenset({Modality.IMAGE, Modality.VIDEO})
    default_source: ClassVar[str] = "hf-hub:google/owlv2-base-patch16-ensemble"
    adapters_rival_heads: ClassVar[bool] = True
    divides_rows: ClassVar[bool] = True
    has_int8: ClassVar[bool] = True

    source: str
    module: BoxModel
    device: torch.device
    dtype: torch.dtype
    settings: Settings

    @classmethod
    def load(cls, source: str, device: torch.device, dtype: torch.dtype, settings: Settings) -> Self:
        """Load `hf-hub:owner/name` or `local-dir:folder` of one of MODELS; see `Family.load`."""
        name = transformers_name(source)
        try:
            model_type = PreTrainedConfig.get_config_dict(name)[0].get("model_type")
            if model_type not in MODELS:
                raise SettingsError(f"its model_type is {model_type!r}, expected one of {', '.join(MODELS)}")
            module = MODELS[model_type].load(name)
        except Exception as error:
            raise SettingsError(
                f"MODEL_DETECTOR={source!r} cannot be loaded: {error}; expected hf-hub:owner/name or "
                "local-dir:folder of an OWLv2, MM-GroundingDINO, LLMDet or Grounding DINO model with safetensors, "
                "preprocessor_config.json and a tokenizer"
            ) from error
        module.requires_grad_(False).eval().place_on(device, dtype)
        return cls(source, module, device, dtype, settings)

    @classmethod
    def tiny(cls, folder: Path) -> str:
        """Write a tiny OWLv2 for pictures of 32 x 32 pixels; see `Family.tiny`."""
        tower = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
        config = {
            "projection_dim": 32,
            "text_config": {**tower, "max_position_embeddings": 64},
            "vision_config": {**tower, "image_size": 32, "patch_size": 8},
        }
        tokenizer = byte_level_tokenizer(sorted(pre_tokenizers.ByteLevel.alphabet()), (), 64)
        tokenizer.save_pretrained(folder)
        model = random_model(config, tokenizer)
        # Random weights are to find something.
        nn.init.zeros_(model.class_head.logit_shift.bias)
        model.save_pretrained(folder)
        Owlv2ImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
        return f"local-dir:{folder}"

    def prepare(self, question: BoxesInput | BoxFeaturesInput, fetch: Fetch) -> PreparedInput | PreparedFrames:
        """Read the picture, or frames of the video, at the model's resolution; see `Family.prepare`."""
        media = question.contents[0].media
        file = b"" if media is None else fetch(media)
        if isinstance(question, FrameBoxesInput):
            return read_frames(question, file, self.module.longest_px, self.module.prepare, self.settings)
        memory = decode_memory(self.settings.media_decode_mb)
        enough_px = DRAFT_SCALE * self.module.longest_px
        with decoded_pixels(file, self.settings.media_max_megapixels, enough_px, memory) as image:
            pixels, extent = self.module.prepare(image)
        height, width = pixels.shape[1:]
        picture = Picture(shown_size(file), extent, (height, width))
        return PreparedInput(question, digest(file), picture, pixels)

    def recall(
        self,
        question: BoxesInput | BoxFeaturesInput,
        digest_of: DigestOf,
        adapter: str | None,
        bank: BatchAdapters,
        cache: FeatureCache,
    ) -> PreparedInput | None:
        """Take the states of the picture's patches from the cache; see `Family.recall`."""
        media = question.contents[0].media
        # Frames are not remembered: those of a single video would take the place of all else.
        is_remembered = media is not None and not isinstance(question, FrameBoxesInput)
        content_id = digest_of(media) if is_remembered and media is not None else None
        if content_id is None:
            return None
        known = cache.get(FEATURES, (content_id, bank.effective_adapter(adapter, self._encoder_layers)))
        if known is None:
            return None
        return PreparedInput(question, content_id, known.picture, views=(View(known.states),))

    def batch_rows(self, prepared_input: PreparedInput | PreparedFrames) -> int:
        """Return the number of pictures, or of frames; see `Family.batch_rows`."""
        return len(prepared_input.pictures) if isinstance(prepared_input, PreparedFrames) else 1

    @property
    def most_rows(self) -> int:
        """Return how many pictures go through the model at a time; see `Family.most_rows`."""
        return self.module.most_rows

    @property
    def head_dim(self) -> int:
        """Return the number of features; see `Family.head_dim`."""
        return self.module.feature_dim

    def for_features(self, prepared_input: PreparedInput, target: object) -> PreparedInput:
        """Return the input as one that is answered with its features; see `Family.for_features`."""
        asked = FeaturesInput.of(prepared_input.question, target)
        assert isinstance(asked, BoxFeaturesInput)
        return replace(prepared_input, question=asked)

    @torch.no_grad()
    def precompute(
        self, prepared_inputs: Sequence[PreparedInput], trained: Collection[str], generator: torch.Generator | None
    ) -> Sequence[PreparedInput]:
        """Compute the states of the patches if the tower for pictures is not trained, in VIEWS views."""
        if not self._encoder_layers.isdisjoint(trained):
            return prepared_inputs
        parts = [
            [WHOLE, *(random_part(generator) for _ in range(VIEWS - 1))] if generator is not None else [WHOLE]
            for _ in prepared_inputs
        ]
        shown = [
            show_part(prepared, part)
            for prepared, of_input in zip(prepared_inputs, parts, strict=True)
            for part in of_input
        ]
        states = iter(self._encode_once([part.pixels for part in shown], [None] * len(shown), NO_BATCH_ADAPTERS))
        return [
            replace(prepared, pixels=None, views=tuple(View(next(states), part) for part in of_input))
            for prepared, of_input in zip(prepared_inputs, parts, strict=True)
        ]

    def augment(
        self, prepared_inputs: Sequence[PreparedInput], targets: Sequence[BoxTarget], generator: torch.Generator
    ) -> tuple[Sequence[PreparedInput], Sequence[BoxTarget]]:
        """Enlarge a random part of each picture, or choose a precomputed view. The boxes move with it."""
        inputs, moved = [], []
        for prepared, target in zip(prepared_inputs, targets, strict=True):
            if prepared.views:
                view = prepared.views[int(torch.randint(len(prepared.views), (), generator=generator))]
                inputs.append(replace(prepared, views=(view,)))
                moved.append(move_boxes(target, view.part))
            else:
                part = random_part(generator)
                inputs.append(show_part(prepared, part))
                moved.append(move_boxes(target, part))
        return inputs, moved

    @torch.inference_mode()
    def predict(
        self,
        prepared_inputs: Sequence[PreparedInput | PreparedFrames],
        adapters: Sequence[str | None],
        bank: BatchAdapters,
        cache: FeatureCache,
    ) -> Sequence[Contract]:
        """Find the boxes in each picture, or in frames of each video; see `Family.predict`."""
        pairs = list(zip(prepared_inputs, adapters, strict=True))
        pictures = [(each, adapter) for each, adapter in pairs if isinstance(each, PreparedInput)]
        answers = iter(
            self._found([each for each, _ in pictures], [adapter for _, adapter in pictures], bank, cache)
        )
        return [
            self._found_in_frames(each, adapter, bank, cache)
            if isinstance(each, PreparedFrames)
            else next(answers)
            for each, adapter in pairs
        ]

    def _found(
        self,
        prepared_inputs: Sequence[PreparedInput],
        adapters: Sequence[str | None],
        bank: BatchAdapters,
        cache: FeatureCache,
    ) -> list[Contract]:
        states = self._states(prepared_inputs, adapters, bank, cache)
        asked = [
            Asked(own_states, prepared.picture, prepared.question.labels)
            for prepared, own_states in zip(prepared_inputs, states, strict=True)
        ]
        limits = BoxLimits.of(self.settings)
        answers = self.module.ask(asked, adapters, bank, cache)
        return [
            self._answer(prepared, places, limits)
            for prepared, places in zip(prepared_inputs, answers, strict=True)
        ]

    def _found_in_frames(
        self, prepared: PreparedFrames, adapter: str | None, bank: BatchAdapters, cache: FeatureCache
    ) -> Contract:
        """What is in the frames of a window. Their states are forgotten at once."""
        pictures, adapters = prepared.pictures, [adapter] * len(prepared.pictures)
        states = self._encode_once([picture.pixels for picture in pictures], adapters, bank)
        asked = [
            Asked(own_states, picture.picture, picture.question.labels)
            for picture, own_states in zip(pictures, states, strict=True)
        ]
        answers = self.module.ask(asked, adapters, bank, cache)
        limits = BoxLimits.of(self.settings)
        headed = [replace(picture, fitted_head=prepared.fitted_head) for picture in pictures]
        outputs = [self._answer(picture, places, limits) for picture, places in zip(headed, answers, strict=True)]
        if isinstance(prepared.question, TrackFeaturesInput):
            return joined_features(prepared.question, [Features.model_validate(output) for output in outputs])
        extents = [torch.tensor([*picture.picture.extent, *picture.picture.extent]) for picture in pictures]
        return frame_boxes(
            prepared,
            [Boxes.model_validate(output) for output in outputs],
            [(places.corners.cpu() / extent).clamp(0, 1) for places, extent in zip(answers, extents, strict=True)],
            [self.module.directions(places.features()).cpu() for places in answers],
            self.settings,
        )

    def loss(self, prepared_inputs: Sequence[PreparedInput], targets: Sequence[BoxTarget]) -> Tensor:
        """Compute the matching loss of each picture, the mean of the model's attempts; see `Family.loss`."""
        nobody = [None] * len(prepared_inputs)
        if all(prepared.views for prepared in prepared_inputs):
            states = [prepared.views[0].states.float() for prepared in prepared_inputs]
        else:
            states = self._encode([prepared.pixels for prepared in prepared_inputs], nobody, NO_BATCH_ADAPTERS)
        asked = [
            Asked(own_states, prepared.picture, prepared.question.labels)
            for prepared, own_states in zip(prepared_inputs, states, strict=True)
        ]
        answers = self.module.ask(asked, nobody, NO_BATCH_ADAPTERS, FeatureCache({}))
        losses = []
        for prepared, target, places in zip(prepared_inputs, targets, answers, strict=True):
            extent = torch.tensor([*prepared.picture.extent, *prepared.picture.extent])
            corners, unlabelled = (
                (torch.tensor(boxes).reshape(-1, 4) * extent).to(self.device)
                for boxes in ([box for box, _ in target.boxes], target.unlabelled)
            )
            true_labels = torch.tensor([label for _, label in target.boxes], dtype=torch.long).to(self.device)
            with torch.autocast(self.device.type, enabled=False):
                attempts = [
                    matching_loss(logits, stage_corners, corners, true_labels, unlabelled, target.incomplete)
                    for logits, stage_corners in (*places.stages, (places.logits, places.corners))
                ]
            losses.append(torch.stack(attempts).mean())
        return torch.stack(losses)

    def lora_layers(self) -> list[str]:
        """Return the linear layers that boxes depend on."""
        model = self.module
        return model.layers(*model.text_layers, *model.encoder_layers, *model.head_layers)

    def int8_layers(self) -> list[str]:
        """Return the layers of the tower for pictures, in which nearly all time goes."""
        return sorted(self._encoder_layers)

    def trained_layers(self, question: Input) -> list[str]:
        """Return the layers for label texts and the heads; with LORA_TOWERS=both also the tower for pictures."""
        if trains_all_towers(self.settings.lora_towers):
            return self.lora_layers()
        return self.module.layers(*self.module.text_layers, *self.module.head_layers)

    def _answer(self, prepared: PreparedInput, places: Places, limits: BoxLimits) -> Contract:
        """The boxes in a picture; or those like the examples of the question, without these."""
        picture, corners = prepared.picture, places.corners.cpu()
        if isinstance(prepared.question, BoxFeaturesInput):
            return self._features(prepared.question, picture, places)
        examples = prepared.question.examples
        if examples:
            features = places.features().cpu()
            directions = self.module.directions(features)
            prototypes = example_features(corners, directions, picture.extent, examples)
            cosines = directions @ torch.stack(list(prototypes.values())).T
            logits = self.module.logits_of_likeness(features, cosines)
            boxes = find_boxes(corners, logits.sigmoid(), picture.extent, picture.size, limits)
            return others_than(boxes, examples, tuple(prototypes))
        head = prepared.fitted_head
        logits = places.logits if head is None else with_head(head, places.features(), places.logits)
        nearness = nearness_of(prepared.question, logits, places.logits, head)
        return find_boxes(corners, logits.sigmoid().cpu(), picture.extent, picture.size, limits, nearness)

    def _features(self, question: BoxFeaturesInput, picture: Picture, places: Places) -> Features:
        """What a head is fitted on."""
        corners, features, logits = (part.cpu() for part in (places.corners, places.features(), places.logits))
        likeness = partial(self.module.likeness, features)
        chosen = chosen_places(corners, logits, likeness, question, picture.extent)
        rows = features[chosen].numpy().astype("<f2")
        return Features(
            space=self.space,
            dim=rows.shape[1],
            float16=base64.b64encode(rows.tobytes()).decode(),
            logits=tuple(logits[chosen].flatten().tolist()),
        )

    @cached_property
    def _encoder_layers(self) -> frozenset[str]:
        return frozenset(self.module.layers(*self.module.encoder_layers))

    def _states(
        self,
        prepared_inputs: Sequence[PreparedInput],
        adapters: Sequence[str | None],
        bank: BatchAdapters,
        cache: FeatureCache,
    ) -> list[Tensor]:
        """(patches, width) float16 on the CPU for each input; each distinct picture is encoded once."""
        keys = [
            (prepared.digest, bank.effective_adapter(adapter, self._encoder_layers))
            for prepared, adapter in zip(prepared_inputs, adapters, strict=True)
        ]
        states = {
            key: prepared.views[0].states
            for key, prepared in zip(keys, prepared_inputs, strict=True)
            if prepared.views
        }
        missing = {key: prepared for key, prepared in zip(keys, prepared_inputs, strict=True) if key not in states}
        computed = self._encode_once(
            [prepared.pixels for prepared in missing.values()], [adapter for _, adapter in missing], bank
        )
        for (key, prepared), picture_states in zip(missing.items(), computed, strict=True):
            states[key] = picture_states
            cache.put(FEATURES, key, KnownPicture(prepared.picture, picture_states))
        return [states[key] for key in keys]

    def _encode_once(
        self, pixels: Sequence[Tensor | None], adapters: Sequence[str | None], bank: BatchAdapters
    ) -> list[Tensor]:
        """(positions, width) float16 on the CPU for each picture. Half precision halves what is remembered."""
        # Each is cloned: a view of a row would keep the whole batch in memory.
        return [states.half().cpu().clone() for states in self._encode(pixels, adapters, bank)]

    def _encode(
        self, pixels: Sequence[Tensor | None], adapters: Sequence[str | None], bank: BatchAdapters
    ) -> list[Tensor]:
        """(positions, width) on the device for each picture."""
        given = [picture for picture in pixels if picture is not None]
        states: dict[int, Tensor] = {}
        for rows in batches([picture.shape for picture in given], self.module.most_rows):
            used = [bank.effective_adapter(adapters[row], self._encoder_layers) for row in rows]
            shown = torch.stack([given[row] for row in rows]).to(self.device)
            encoded = with_adapters(self.module.encode_pictures, shown, used, bank, self.device)
            states.update(zip(rows, encoded, strict=True))
        return [states[row] for row in range(len(given))]
