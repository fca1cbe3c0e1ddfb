"""OWLv2: boxes around what texts describe, and around what annotators have taught a label to mean.

The states of a picture's patches cost the most. They do not depend on the labels, nor on any adapter by default:
adapters go on the tower for label texts and on the heads, unless LORA_TOWERS is `both`. So the states are
remembered by content, for all projects, and a run computes them once.
"""

import base64
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from tokenizers import pre_tokenizers
from torch import Tensor, nn
from torch.nn import functional
from torchvision.transforms.functional import pil_to_tensor
from transformers import AutoTokenizer, Owlv2ForObjectDetection, Owlv2ImageProcessor

from lorabel.contracts import BatchAdapters, Contract, Input, Modality
from lorabel.errors import SettingsError
from lorabel.families.base import LOAD_DTYPE, NO_BATCH_ADAPTERS, DigestOf, Family, Fetch, transformers_name
from lorabel.families.cache import FEATURES, TEXTS, FeatureCache
from lorabel.families.detection.examples import example_features, others_than
from lorabel.families.detection.found_boxes import BoxLimits, find_boxes
from lorabel.families.detection.matching_loss import matching_loss
from lorabel.families.detection.owlv2 import (
    ENCODER_LAYERS,
    HEAD_LAYERS,
    TEXT_LAYERS,
    Owlv2Parts,
    PatchAnswers,
    byte_level_tokenizer,
    layers_of,
    random_model,
    tokenize,
)
from lorabel.families.detection.places import chosen_places, place_features, with_head
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
from lorabel.media.image import decoded_image, shown_size
from lorabel.settings import Settings
from lorabel.space_contracts import BoxesInput, BoxTarget

# JPEGs are decoded at a reduced scale, but at no less than this many times the model's resolution.
DRAFT_SCALE = 2
# Pictures in a batch of the encoder: OWLv2 cuts each into 3600 patches.
MAX_PICTURES = 8
# Views of a picture that a run precomputes: the picture itself, and parts of it.
VIEWS = 2


@dataclass(frozen=True)
class Detector(Family):
    """Open-vocabulary detectors of transformers: OWLv2.

    Attributes:
        module: the base model.
        processor: transformers' own preparation of pictures.
        tokenizer: for label texts, used in the thread of the device.
    """

    name: ClassVar[str] = "detector"
    inputs: ClassVar[tuple[type[Input], ...]] = (BoxesInput, BoxFeaturesInput)
    modalities: ClassVar[frozenset[Modality]] = frozenset({Modality.IMAGE})
    default_source: ClassVar[str] = "hf-hub:google/owlv2-base-patch16-ensemble"
    adapters_rival_heads: ClassVar[bool] = True

    source: str
    module: Owlv2Parts
    device: torch.device
    dtype: torch.dtype
    processor: Any
    tokenizer: Any
    settings: Settings

    @classmethod
    def load(cls, source: str, device: torch.device, dtype: torch.dtype, settings: Settings) -> Self:
        """Load `hf-hub:owner/name` or `local-dir:folder`; see `Family.load`."""
        name = transformers_name(source)
        try:
            processor = Owlv2ImageProcessor.from_pretrained(name)
            tokenizer = AutoTokenizer.from_pretrained(name, use_fast=True, trust_remote_code=False)
            model = Owlv2ForObjectDetection.from_pretrained(name, use_safetensors=True, dtype=LOAD_DTYPE)
        except Exception as error:
            raise SettingsError(
                f"MODEL_DETECTOR={source!r} cannot be loaded: {error}; expected hf-hub:owner/name or "
                "local-dir:folder of an OWLv2 model with safetensors, preprocessor_config.json and a tokenizer"
            ) from error
        module = Owlv2Parts(model).requires_grad_(False).eval()
        return cls(source, module.to(device=device, dtype=dtype), device, dtype, processor, tokenizer, settings)

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

    def prepare(self, question: BoxesInput | BoxFeaturesInput, fetch: Fetch) -> PreparedInput:
        """Read the picture at the model's resolution; see `Family.prepare`."""
        media = question.contents[0].media
        file = b"" if media is None else fetch(media)
        memory = decode_memory(self.settings.media_decode_mb)
        enough_px = DRAFT_SCALE * self._side_px
        with decoded_image(file, self.settings.media_max_megapixels, enough_px, memory) as image:
            pixels = pil_to_tensor(image)
        prepared = self.processor(pixels, do_normalize=False, return_tensors="pt")["pixel_values"][0]
        height, width = pixels.shape[1:]
        extent = width / max(width, height), height / max(width, height)
        square = (prepared * 255).round().clamp(0, 255).to(torch.uint8)
        return PreparedInput(question, digest(file), Picture(shown_size(file), extent), square)

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
        content_id = None if media is None else digest_of(media)
        if content_id is None:
            return None
        known = cache.get(FEATURES, (content_id, bank.effective_adapter(adapter, self._encoder_layers)))
        if known is None:
            return None
        return PreparedInput(question, content_id, known.picture, views=(View(known.states),))

    @property
    def head_dim(self) -> int:
        """Return the number of features; see `Family.head_dim`."""
        return self.module.embedding_width + 1

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
        states = iter(self._encode([part.pixels for part in shown], [None] * len(shown), NO_BATCH_ADAPTERS))
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
        prepared_inputs: Sequence[PreparedInput],
        adapters: Sequence[str | None],
        bank: BatchAdapters,
        cache: FeatureCache,
    ) -> Sequence[Contract]:
        """Find the boxes in each picture; see `Family.predict`."""
        states = self._states(prepared_inputs, adapters, bank, cache)
        label_features = [
            self._label_features(adapter, prepared.question.labels, bank, cache)
            for prepared, adapter in zip(prepared_inputs, adapters, strict=True)
        ]
        limits, outputs = BoxLimits.of(self.settings), []
        for start in range(0, len(states), MAX_PICTURES):
            batch = slice(start, start + MAX_PICTURES)
            with bank.use(adapters[batch]):
                answers = self.module.ask_patches(torch.stack(states[batch]).to(self.device))
            for row, (prepared, features) in enumerate(
                zip(prepared_inputs[batch], label_features[batch], strict=True)
            ):
                outputs.append(self._answer(prepared, answers, row, features.to(self.device), limits))
        return outputs

    def loss(self, prepared_inputs: Sequence[PreparedInput], targets: Sequence[BoxTarget]) -> Tensor:
        """Compute the matching loss of each picture; see `Family.loss`."""
        labels = list(dict.fromkeys(prepared.question.labels for prepared in prepared_inputs))
        label_features = {question_labels: self._encode_labels(question_labels) for question_labels in labels}
        known = all(prepared.views for prepared in prepared_inputs)
        if known:
            states = torch.stack([prepared.views[0].states.float() for prepared in prepared_inputs]).to(
                self.device
            )
        else:
            states = self.module.encode_pictures(
                self._normalised([prepared.pixels for prepared in prepared_inputs])
            )
        answers = self.module.ask_patches(states)
        losses = []
        for row, (prepared, target) in enumerate(zip(prepared_inputs, targets, strict=True)):
            extent = torch.tensor([*prepared.picture.extent, *prepared.picture.extent])
            corners, unlabelled = (
                (torch.tensor(boxes).reshape(-1, 4) * extent).to(self.device)
                for boxes in ([box for box, _ in target.boxes], target.unlabelled)
            )
            true_labels = torch.tensor([label for _, label in target.boxes], dtype=torch.long).to(self.device)
            with torch.autocast(self.device.type, enabled=False):
                logits = answers.logits(row, label_features[prepared.question.labels])
                losses.append(
                    matching_loss(
                        logits, answers.corners[row], corners, true_labels, unlabelled, target.incomplete
                    )
                )
        return torch.stack(losses)

    def lora_layers(self) -> list[str]:
        """Return the linear layers that boxes depend on."""
        return layers_of(super().lora_layers(), (*TEXT_LAYERS, *ENCODER_LAYERS, *HEAD_LAYERS))

    def trained_layers(self, question: Input) -> list[str]:
        """Return the tower for label texts and the heads; with LORA_TOWERS=both also the tower for pictures."""
        if trains_all_towers(self.settings.lora_towers):
            return self.lora_layers()
        return layers_of(self.lora_layers(), (*TEXT_LAYERS, *HEAD_LAYERS))

    def _answer(
        self, prepared: PreparedInput, answers: PatchAnswers, row: int, label_features: Tensor, limits: BoxLimits
    ) -> Contract:
        """The boxes in a picture; or those like the examples of the question, without these."""
        picture, corners = prepared.picture, answers.corners[row].cpu()
        if isinstance(prepared.question, BoxFeaturesInput):
            return self._features(prepared.question, picture, answers, row, label_features)
        examples = prepared.question.examples
        if examples:
            prototypes = example_features(corners, answers.embeddings[row].cpu(), picture.extent, examples)
            label_features = torch.stack(list(prototypes.values())).to(self.device)
        logits = answers.logits(row, label_features)
        if prepared.fitted_head is not None and not examples:
            logits = with_head(prepared.fitted_head, place_features(answers, row), logits)
        probabilities = logits.sigmoid().cpu()
        found = find_boxes(corners, probabilities, picture.extent, picture.size, limits)
        return others_than(found, examples, tuple(prototypes)) if examples else found

    def _features(
        self, question: BoxFeaturesInput, picture: Picture, answers: PatchAnswers, row: int, label_features: Tensor
    ) -> Features:
        """What a head is fitted on."""
        features, logits = place_features(answers, row).cpu(), answers.logits(row, label_features).cpu()
        corners = answers.corners[row].cpu()
        chosen = chosen_places(corners, features, logits, question, picture.extent)
        rows = features[chosen].numpy().astype("<f2")
        return Features(
            space=self.space,
            dim=rows.shape[1],
            float16=base64.b64encode(rows.tobytes()).decode(),
            logits=tuple(logits[chosen].flatten().tolist()),
        )

    @cached_property
    def _encoder_layers(self) -> frozenset[str]:
        return frozenset(layers_of(self.lora_layers(), ENCODER_LAYERS))

    @cached_property
    def _text_layers(self) -> frozenset[str]:
        return frozenset(layers_of(self.lora_layers(), TEXT_LAYERS))

    @cached_property
    def _side_px(self) -> int:
        return int(self.processor.size["height"])

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
        computed = self._encode(
            [prepared.pixels for prepared in missing.values()], [adapter for _, adapter in missing], bank
        )
        for (key, prepared), picture_states in zip(missing.items(), computed, strict=True):
            states[key] = picture_states
            cache.put(FEATURES, key, KnownPicture(prepared.picture, picture_states))
        return [states[key] for key in keys]

    def _encode(
        self, pixels: Sequence[Tensor | None], adapters: Sequence[str | None], bank: BatchAdapters
    ) -> list[Tensor]:
        """(patches, width) float16 on the CPU for each picture. Half precision halves what is remembered."""
        states: list[Tensor] = []
        for start in range(0, len(pixels), MAX_PICTURES):
            batch = slice(start, start + MAX_PICTURES)
            with bank.use(adapters[batch]):
                encoded = self.module.encode_pictures(self._normalised(pixels[batch]))
            # Rows are cloned: a view of a row would keep the whole batch in memory.
            states += [row.clone() for row in encoded.half().cpu()]
        return states

    def _normalised(self, pixels: Sequence[Tensor | None]) -> Tensor:
        """(pictures, 3, side, side) in the module's precision, on the device."""
        batch = torch.stack([picture for picture in pixels if picture is not None]).to(self.device)
        mean, std = (
            torch.tensor(numbers, device=self.device)[:, None, None]
            for numbers in (self.processor.image_mean, self.processor.image_std)
        )
        return ((batch.float() / 255 - mean) / std).to(self.dtype)

    def _label_features(
        self, adapter: str | None, labels: tuple[tuple[str, ...], ...], bank: BatchAdapters, cache: FeatureCache
    ) -> Tensor:
        """(labels, dim) float32 on the CPU, from the cache if possible."""
        adapter = bank.effective_adapter(adapter, self._text_layers)
        features = cache.get(TEXTS, (adapter, labels))
        if features is None:
            features = self._encode_labels(labels, lambda count: bank.use([adapter] * count)).cpu()
            cache.put(TEXTS, (adapter, labels), features)
        return features

    def _encode_labels(
        self,
        labels: tuple[tuple[str, ...], ...],
        adapter_context: Callable[[int], AbstractContextManager[Any]] = nullcontext,
    ) -> Tensor:
        """(labels, dim) float32 of length 1, on the device: for each label the mean of its texts."""
        texts = [text for label_texts in labels for text in label_texts]
        max_tokens = self.module.model.config.text_config.max_position_embeddings
        tokens, mask = tokenize(self.tokenizer, texts, max_tokens)
        with adapter_context(len(texts)):
            features = self.module.encode_texts(tokens.to(self.device), mask.to(self.device))
        by_label = torch.split(features, [len(label_texts) for label_texts in labels])
        return functional.normalize(torch.stack([of_label.mean(0) for of_label in by_label]), dim=-1)
