"""The base class of families whose model puts contents and texts into one space; answers come from the features.

All these families work alike: features are cached, label texts are encoded once for each adapter, and the loss is
computed from the same logits as predictions. A head computes the answer from the features, one head for each kind
of question (`HEADS`). The family itself only says how its model decodes and encodes each modality.
"""

import base64
from abc import abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from lorabel.contracts import (
    BatchAdapters,
    Contract,
    Embedding,
    EmbedInput,
    Input,
    LabelsInput,
    LabelTarget,
    Modality,
)
from lorabel.errors import UnreadableError
from lorabel.families.base import NO_BATCH_ADAPTERS, DigestOf
from lorabel.families.cache import TEXTS, FeatureCache
from lorabel.families.encoders.content_encoder import ContentEncoder
from lorabel.families.encoders.contrastive_loss import contrastive_losses
from lorabel.families.encoders.heads.base import Head, HeadParameters, read_weights, zero_layer
from lorabel.families.encoders.heads.by_question import HEAD_LAYERS, HEADS, layer_name
from lorabel.families.encoders.heads.each import EachLabelHead, each_content, mean_of_each
from lorabel.families.encoders.heads.head_answers import answer_with_head, check_head
from lorabel.families.encoders.heads.labels import LabelHead
from lorabel.families.encoders.heads.linear_head import LinearHead
from lorabel.families.encoders.prepared_input import PreparedInput, batches, group_by_question
from lorabel.families.lora_layers import encoder_layers
from lorabel.feature_contracts import Features, FeaturesInput, space_with
from lorabel.region_contracts import EachTarget
from lorabel.time_contracts import SegmentsInput

# Most label texts that are encoded at once.
TEXT_BATCH = 256


@dataclass(frozen=True)
class _ParametersKey:
    """What the parameters of a head depend on.

    Args:
        texts: see `Head.texts`.
        wordings: see `Head.wordings`.
        text_adapter: the adapter if it changes the features of the texts, else None.
        head_adapter: the adapter if it has trained the head's layer and the question uses it, else None.
    """

    head: Head
    texts: tuple[str, ...]
    wordings: tuple[str, ...]
    text_adapter: str | None
    head_adapter: str | None

    @property
    def features_key(self) -> tuple[str | None, tuple[str, ...]]:
        """The cache key of the features of the texts."""
        return self.text_adapter, self.texts

    @property
    def temperature_key(self) -> tuple[str | None, str, tuple[str, ...]]:
        """The cache key of the temperature."""
        return self.text_adapter, "temperature", self.wordings

    @property
    def weights_key(self) -> tuple[str | None, str]:
        """The cache key of the weights of the head's layer."""
        return self.head_adapter, self.head.layer


class Encoder(ContentEncoder):
    """A model with towers for contents and for label texts, and a layer for each head.

    The subclass is a dataclass that sets the attributes of `Family`. The layers of the heads are added to its
    `module`.
    """

    inputs: ClassVar[tuple[type[Input], ...]] = (*HEADS, EmbedInput)
    divides_rows: ClassVar[bool] = True
    has_int8: ClassVar[bool] = True

    def __post_init__(self) -> None:
        layers = {head.layer: zero_layer(head.size(self._dim)) for head in HEADS.values()}
        self.module.add_module(HEAD_LAYERS, nn.ModuleDict(layers).to(self.device))

    @property
    @abstractmethod
    def trained_modalities(self) -> frozenset[Modality]:
        """The modalities of contents whose towers are trained. The tower for label texts is always trained."""

    def encode_labels(self, texts: Sequence[str]) -> Tensor:
        """Compute the features of label texts. Overridden if they have a tower of their own.

        Returns:
            (len(texts), dim) float32 of length 1, on the device.
        """
        return self.encode(Modality.TEXT, texts)

    @property
    def label_tower(self) -> frozenset[str]:
        """The names of the layers that compute the features of label texts."""
        return self.tower(Modality.TEXT)

    @property
    @abstractmethod
    def scale(self) -> float:
        """The model multiplies cosines with this number to get logits."""

    @property
    def bias(self) -> float | None:
        """The model adds this number so that logits above 0 mean "fits"; None if it has not learned one."""
        return None

    def tower_layers(self) -> list[str]:
        """Return the `lora_layers` of all towers, that is without the layers of the heads."""
        return [name for name in self.lora_layers() if not name.startswith(f"{HEAD_LAYERS}.")]

    def int8_layers(self) -> list[str]:
        """Return the layers of all towers; those of the heads are read as matrices, see `read_weights`."""
        return self.tower_layers()

    def trained_layers(self, question: Input) -> list[str]:
        """Return the layers that affect the answer to the question and are to be trained, sorted.

        These are the towers of `trained_modalities`, the tower for label texts, and the layer of the head.
        """
        head = HEADS[type(question)]
        return encoder_layers(
            [self.tower(modality) for modality in question.modalities & self.trained_modalities],
            self.label_tower if head.texts(question) else frozenset(),
            layer_name(head) if head.is_learned(question) else None,
        )

    def recall(
        self, question: Input, digest_of: DigestOf, adapter: str | None, bank: BatchAdapters, cache: FeatureCache
    ) -> PreparedInput | None:
        """Build a `PreparedInput` from the cache; see `Family.recall`.

        Raises:
            UnreadableError: the question may only be answered from the cache, which lacks features of a content.
        """
        prepared = self.recall_contents(question, digest_of, adapter, bank, cache)
        has_features = prepared is not None and prepared.has_features
        if isinstance(question, EmbedInput) and question.is_cache_only and not has_features:
            raise UnreadableError("its features are not in memory", is_permanent=False)
        if prepared is not None and prepared.is_for_head and self._is_frozen_lost(prepared, adapter, bank):
            return None
        return prepared

    def with_head(
        self,
        prepared_input: PreparedInput,
        head: LinearHead | None,
        adapter: str | None = None,
        bank: BatchAdapters = NO_BATCH_ADAPTERS,
    ) -> PreparedInput | None:
        """Return the input as one that is answered with a fitted head; see `Family.with_head`."""
        if head is None:
            return prepared_input
        space = space_with(self.space, self._content_adapter(prepared_input.question, adapter, bank))
        dim = self._dim if space == self.space else 2 * self._dim
        check_head(head, prepared_input.question, space, dim)
        if self._is_frozen_lost(prepared_input, adapter, bank):
            return None
        return replace(prepared_input, fitted_head=head)

    def for_features(self, prepared_input: PreparedInput, target: object) -> PreparedInput:
        """Return the input as one that is answered with its features; see `Family.for_features`."""
        return replace(prepared_input, question=FeaturesInput.of(prepared_input.question))

    @torch.inference_mode()
    def answer(
        self, prepared_input: PreparedInput, adapter: str | None, bank: BatchAdapters, cache: FeatureCache
    ) -> Contract | None:
        """Compute the output if the features and the parameters of the head are in the cache; else None."""
        is_frozen_missing = prepared_input.is_for_head and self.lacks_frozen(prepared_input, adapter, bank)
        if not prepared_input.has_features or is_frozen_missing:
            return None
        if not prepared_input.needs_parameters:
            return self._output(prepared_input, adapter, bank)
        key = self._parameters_key(prepared_input, adapter, bank)
        text_features, temperature = cache.get(TEXTS, key.features_key), cache.get(TEXTS, key.temperature_key)
        weights = None if key.head_adapter is None else cache.get(TEXTS, key.weights_key)
        if text_features is None or temperature is None or (weights is None and key.head_adapter is not None):
            return None
        parameters = HeadParameters(text_features, weights, self.scale, self.bias, float(temperature))
        return self._output(prepared_input, adapter, bank, parameters)

    @torch.inference_mode()
    def predict(
        self,
        prepared_inputs: Sequence[PreparedInput],
        adapters: Sequence[str | None],
        bank: BatchAdapters,
        cache: FeatureCache,
    ) -> Sequence[Contract]:
        """Compute one output per input; see `Family.predict`."""
        inputs_with_features = self.add_features(prepared_inputs, adapters, bank, cache)
        inputs_with_features = self.add_frozen(inputs_with_features, adapters, bank, cache)
        parameters: dict[_ParametersKey, HeadParameters] = {}
        outputs: list[Contract] = []
        for prepared, adapter in zip(inputs_with_features, adapters, strict=True):
            if not prepared.needs_parameters:
                outputs.append(self._output(prepared, adapter, bank))
                continue
            key = self._parameters_key(prepared, adapter, bank)
            if key not in parameters:
                parameters[key] = self._parameters(key, bank, cache)
            outputs.append(self._output(prepared, adapter, bank, parameters[key]))
        return outputs

    def loss(self, prepared_inputs: Sequence[PreparedInput], targets: Sequence[Any]) -> Tensor:
        """Compute the loss of each input with its head; see `Family.loss`.

        Inputs that ask the same question go through their head together.
        """
        losses: dict[int, Tensor] = {}
        features = self.encode_contents([content for prepared in prepared_inputs for content in prepared.contents])
        for indices in group_by_question(prepared_inputs):
            head, question = prepared_inputs[indices[0]].head, prepared_inputs[indices[0]].question
            text_features = self._encode_label_batches(head.texts(question))
            weights = self._weights(head) if head.is_learned(question) else None
            contents = torch.stack(
                [
                    torch.stack([features[id(content)] for content in prepared_inputs[index].contents])
                    for index in indices
                ]
            )
            parameters = HeadParameters(text_features, weights, self.scale, self.bias)
            group_losses = head.losses(question, contents, parameters, [targets[index] for index in indices])
            losses |= dict(zip(indices, group_losses, strict=True))
        return torch.stack([losses[index] for index in range(len(prepared_inputs))])

    def contrastive_losses(
        self, prepared_inputs: Sequence[PreparedInput], targets: Sequence[LabelTarget | EachTarget]
    ) -> Tensor:
        """Compute the supervised contrastive loss of the contents' features; see `contrastive_losses`.

        Where each content is asked about by itself, its loss is the mean over the contents.
        """
        features = self.encode_contents([content for prepared in prepared_inputs for content in prepared.contents])
        contents = [
            torch.stack([features[id(content)] for content in prepared.contents]) for prepared in prepared_inputs
        ]
        rows, row_targets = each_content(contents, targets)
        return mean_of_each(contrastive_losses(rows, row_targets), targets)

    def content_layers(self, question: Input) -> list[str]:
        """Return the layers of the towers that read the contents, for questions about labels."""
        if not isinstance(question, LabelsInput) or isinstance(question, SegmentsInput):
            return []
        return encoder_layers([self.tower(modality) for modality in question.modalities], frozenset(), None)

    def _content_adapter(self, question: Input, adapter: str | None, bank: BatchAdapters) -> str | None:
        """The adapter if it changes the features of contents, else None."""
        layers = {layer for modality in question.modalities for layer in self.tower(modality)}
        return bank.effective_adapter(adapter, layers)

    def _is_frozen_lost(self, prepared: PreparedInput, adapter: str | None, bank: BatchAdapters) -> bool:
        """Whether the base model's features are needed beside an adapter's, and cannot be computed any more."""
        has_data = all(content.data is not None or content.frozen is not None for content in prepared.contents)
        return not has_data and self.lacks_frozen(prepared, adapter, bank)

    def _parameters_key(self, prepared: PreparedInput, adapter: str | None, bank: BatchAdapters) -> _ParametersKey:
        if prepared.is_for_head:
            adapter = None  # a head adds what was learned to the base model's logits
        head, question = prepared.head, prepared.question
        texts = head.texts(question)
        text_adapter = bank.effective_adapter(adapter, self.label_tower) if texts else None
        head_adapter = bank.effective_adapter(adapter, {layer_name(head)}) if head.is_learned(question) else None
        return _ParametersKey(head, texts, head.wordings(question), text_adapter, head_adapter)

    def _parameters(self, key: _ParametersKey, bank: BatchAdapters, cache: FeatureCache) -> HeadParameters:
        """Look the parameters up in the cache, and compute those that are missing; they are on the CPU."""
        text_features = cache.get(TEXTS, key.features_key)
        if text_features is None:
            text_features = self._text_features(key.texts, key.text_adapter, bank)
            cache.put(TEXTS, key.features_key, text_features)
        temperature = cache.get(TEXTS, key.temperature_key)
        if temperature is None:
            wording_features = self._text_features(key.wordings, key.text_adapter, bank)
            temperature = key.head.temperature(wording_features, self.scale)
            cache.put(TEXTS, key.temperature_key, temperature)
        weights = None if key.head_adapter is None else cache.get(TEXTS, key.weights_key)
        if weights is None and key.head_adapter is not None:
            with bank.use([key.head_adapter]):
                weights = self._weights(key.head).cpu()
            cache.put(TEXTS, key.weights_key, weights)
        return HeadParameters(text_features, weights, self.scale, self.bias, float(temperature))

    def _text_features(self, texts: Sequence[str], adapter: str | None, bank: BatchAdapters) -> Tensor:
        """(texts, dim) float32 of length 1, on the CPU."""
        return self._encode_label_batches(texts, lambda count: bank.use([adapter] * count)).cpu()

    def _weights(self, head: Head) -> Tensor:
        inputs, _ = head.size(self._dim)
        return read_weights(self.module.get_submodule(layer_name(head)), inputs, self.device)

    def _encode_label_batches(
        self,
        texts: Sequence[str],
        adapter_context: Callable[[int], AbstractContextManager[Any]] = nullcontext,
    ) -> Tensor:
        """(texts, dim) float32 of length 1, on the device; (0, dim) if there are no texts.

        Args:
            adapter_context: returns the context in which a batch is computed, given the number of its texts.
        """
        features = [torch.empty(0, self._dim, device=self.device)]
        for batch in batches(texts, TEXT_BATCH):
            with adapter_context(len(batch)):
                features.append(self.encode_labels(batch))
        return torch.cat(features)

    def _output(
        self,
        prepared: PreparedInput,
        adapter: str | None,
        bank: BatchAdapters,
        parameters: HeadParameters | None = None,
    ) -> Contract:
        """Compute the answer from the features. `parameters`: None if `needs_parameters` says so."""
        question, contents = prepared.question, _first_views(prepared)
        if isinstance(question, EmbedInput):
            return self._embedding(contents)
        if prepared.is_for_head:
            return self._output_for_head(prepared, self._content_adapter(question, adapter, bank), parameters)
        assert parameters is not None
        return prepared.head.output(question, contents.to(parameters.text_features.device), parameters)

    def _output_for_head(
        self, prepared: PreparedInput, adapter: str | None, parameters: HeadParameters | None
    ) -> Contract:
        """Compute the features, or the answer of the fitted head.

        Args:
            adapter: the adapter if it changes the features of contents. They are then beside the base model's.
        """
        question, contents = prepared.question, _first_views(prepared)
        frozen = contents if adapter is None else _frozen(prepared)
        contents = frozen if adapter is None else torch.cat([frozen, contents], 1)
        logits, temperature = torch.empty(0), 1.0
        head = prepared.head
        if isinstance(head, LabelHead | EachLabelHead) and parameters is not None:
            asked = cast(LabelsInput | FeaturesInput, question)
            logits = head.logits(asked, frozen.to(parameters.text_features.device), parameters)
            temperature = parameters.temperature
        if isinstance(question, FeaturesInput):
            return Features(
                space=space_with(self.space, adapter),
                dim=contents.shape[1],
                float16=_base64_of_float16(contents),
                logits=tuple(logits.tolist()),
            )
        assert prepared.fitted_head is not None
        return answer_with_head(
            prepared.fitted_head, question, contents.cpu().numpy(), logits.cpu().numpy(), temperature
        )

    def _embedding(self, contents: Tensor) -> Embedding:
        vector = functional.normalize(contents.mean(0).float(), dim=0)
        return Embedding(space=self.space, float16=_base64_of_float16(vector))

    @cached_property
    @torch.inference_mode()
    def _dim(self) -> int:
        return self.encode_labels(["a"]).shape[-1]


def _first_views(prepared: PreparedInput) -> Tensor:
    """(contents, dim): the features of the contents themselves, without augmented views."""
    return torch.stack([content.features[0] for content in prepared.contents if content.features is not None])


def _frozen(prepared: PreparedInput) -> Tensor:
    """(contents, dim): the base model's features; those that no adapter changes are in `features`."""
    return torch.stack(
        [
            content.features[0] if content.frozen is None else content.frozen
            for content in prepared.contents
            if content.features is not None
        ]
    )


def _base64_of_float16(values: Tensor) -> str:
    return base64.b64encode(values.cpu().numpy().astype("<f2").tobytes()).decode()
