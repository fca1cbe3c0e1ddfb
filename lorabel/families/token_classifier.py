"""transformers encoders that find entities: a span gets the label whose text is most similar to its words.

A bi-encoder in the manner of GLiNER (https://arxiv.org/abs/2311.08526), reduced to words. For each word and label
there is a logit that a span of the label begins there, and a logit that a span goes on there; the logit of "no
span" is 0. New and renamed labels need no new head, since a label is only a text.

An encoder knows nothing of spans, so nothing is predicted until an adapter has been trained.
"""

import base64
import copy
import math
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoModel, AutoTokenizer

from lorabel.contracts import BatchAdapters, Contract, Input, Modality, SpansInput, SpanTarget
from lorabel.errors import SettingsError
from lorabel.families.base import LOAD_DTYPE, NO_BATCH_ADAPTERS, DigestOf, Family, Fetch, transformers_name
from lorabel.families.cache import FEATURES, TEXTS, FeatureCache
from lorabel.families.encoders.heads.head_answers import head_word_logits, related
from lorabel.families.encoders.heads.linear_head import Array
from lorabel.families.lora_layers import trains_all_towers
from lorabel.families.spans.prepared_text import PreparedInput, Question
from lorabel.families.spans.tagger import HEAD, Tagger, word_logits
from lorabel.families.spans.tiny_encoder import write_tiny_encoder
from lorabel.families.spans.windows import Window, cut_windows
from lorabel.families.spans.word_spans import span_losses, span_scores
from lorabel.feature_contracts import HEADED_ALONE, Features, RelationFeaturesInput, SpanFeaturesInput
from lorabel.labeling.words import find_words
from lorabel.media.fetching import digest
from lorabel.relation_contracts import RelationsInput
from lorabel.settings import Settings

# Most tokens that the encoder reads at once; longer texts are cut into windows.
MAX_TOKENS = 384
MAX_LABEL_TOKENS = 64
# Most windows in a batch of the encoder, and most texts in a batch of the head.
MAX_ROWS = 32
# Most words in a batch of the head, padding included.
MAX_WORDS = 16_384


@dataclass(frozen=True)
class TokenClassifier(Family):
    """Encoders of transformers with a fast tokenizer.

    Attributes:
        module: the encoder with the head.
        tokenizer: for texts, used in any thread.
        label_tokenizer: for label texts, used in the thread of the device.
        lora_towers: the setting LORA_TOWERS; `both` also puts adapters on the encoder.
    """

    name: ClassVar[str] = "token_classifier"
    inputs: ClassVar[tuple[type[Input], ...]] = (
        SpansInput,
        SpanFeaturesInput,
        RelationsInput,
        RelationFeaturesInput,
    )
    modalities: ClassVar[frozenset[Modality]] = frozenset({Modality.TEXT})
    default_source: ClassVar[str] = "hf-hub:intfloat/multilingual-e5-base"

    source: str
    module: Tagger
    device: torch.device
    dtype: torch.dtype
    tokenizer: Any
    label_tokenizer: Any
    lora_towers: str

    @classmethod
    def load(cls, source: str, device: torch.device, dtype: torch.dtype, settings: Settings) -> Self:
        """Load `hf-hub:owner/name` or `local-dir:folder`; see `Family.load`."""
        name = transformers_name(source)
        try:
            tokenizer = AutoTokenizer.from_pretrained(name, use_fast=True, trust_remote_code=False)
            encoder = AutoModel.from_pretrained(
                name, dtype=LOAD_DTYPE, use_safetensors=True, trust_remote_code=False
            )
            if not tokenizer.is_fast:
                raise ValueError("its tokenizer is slow and knows no offsets")
        except Exception as error:
            raise SettingsError(
                f"MODEL_TOKEN_CLASSIFIER={source!r} cannot be loaded: {error}; expected hf-hub:owner/name or "
                "local-dir:folder of a transformers encoder with safetensors and a fast tokenizer"
            ) from error
        if hasattr(encoder, "pooler"):
            encoder.pooler = None
        module = Tagger(encoder, encoder.config.hidden_size).requires_grad_(False).eval()
        module.to(device=device, dtype=dtype)
        # A fast tokenizer keeps the padding of its last call as state, and label texts have a thread of their own.
        label_tokenizer = copy.deepcopy(tokenizer)
        return cls(source, module, device, dtype, tokenizer, label_tokenizer, settings.lora_towers)

    @classmethod
    def tiny(cls, folder: Path) -> str:
        """Write a tiny BERT with a tokenizer of single bytes; see `Family.tiny`."""
        write_tiny_encoder(folder)
        return f"local-dir:{folder}"

    def prepare(self, question: Question, fetch: Fetch) -> PreparedInput:
        """Find the words of the text and tokenize it; nothing is fetched."""
        text = question.contents[0].text or ""
        words = tuple(find_words(text))
        windows = cut_windows(text, words, self.tokenizer, self._max_tokens)
        return PreparedInput(question, words, digest(text.encode()), tuple(windows))

    def recall(
        self,
        question: Question,
        digest_of: DigestOf,
        adapter: str | None,
        bank: BatchAdapters,
        cache: FeatureCache,
    ) -> PreparedInput | None:
        """Take the states of the words from the cache; see `Family.recall`."""
        text = question.contents[0].text or ""
        text_digest = digest(text.encode())
        states = cache.get(FEATURES, (text_digest, bank.effective_adapter(adapter, self._encoder_layers)))
        if states is None:
            return None
        return PreparedInput(question, tuple(find_words(text)), text_digest, word_states=states)

    @property
    def head_dim(self) -> int:
        """Return the number of features; see `Family.head_dim`."""
        return int(self.module.head.in_features)

    @torch.no_grad()
    def precompute(
        self, prepared_inputs: Sequence[PreparedInput], trained: Collection[str], generator: torch.Generator | None
    ) -> Sequence[PreparedInput]:
        """Compute the states of the words and the features of the labels if only the head is trained."""
        if not self._encoder_layers.isdisjoint(trained):
            return prepared_inputs
        word_states = self._encode_words(prepared_inputs, [None] * len(prepared_inputs), NO_BATCH_ADAPTERS)
        label_sets = {prepared.question.labels for prepared in prepared_inputs if not prepared.is_about_relations}
        label_features = {labels: self._encode_labels(labels).cpu() for labels in label_sets}
        return [
            replace(
                prepared,
                windows=(),
                word_states=states,
                label_features=label_features.get(prepared.question.labels),
            )
            for prepared, states in zip(prepared_inputs, word_states, strict=True)
        ]

    def augment(
        self, prepared_inputs: Sequence[PreparedInput], targets: Sequence[Any], generator: torch.Generator
    ) -> tuple[Sequence[PreparedInput], Sequence[Any]]:
        """Choose one window at random of each text that has several; shorter texts are not changed."""
        return [_choose_window(prepared, generator) for prepared in prepared_inputs], targets

    @torch.inference_mode()
    def predict(
        self,
        prepared_inputs: Sequence[PreparedInput],
        adapters: Sequence[str | None],
        bank: BatchAdapters,
        cache: FeatureCache,
    ) -> Sequence[Contract]:
        """Find spans, or relations between them, or return features of texts; see `Family.predict`."""
        encoder_adapters = [bank.effective_adapter(adapter, self._encoder_layers) for adapter in adapters]
        word_states = self._encode_words(prepared_inputs, encoder_adapters, bank)
        for prepared, adapter, states in zip(prepared_inputs, encoder_adapters, word_states, strict=True):
            cache.put(FEATURES, (prepared.digest, adapter), states)
        rows = list(zip(prepared_inputs, adapters, encoder_adapters, word_states, strict=True))
        of_spans = iter(self._of_spans([row for row in rows if not row[0].is_about_relations], bank, cache))
        return [
            _about_relations(prepared, states, self.space) if prepared.is_about_relations else next(of_spans)
            for prepared, _, _, states in rows
        ]

    def _of_spans(
        self,
        rows: Sequence[tuple[PreparedInput, str | None, str | None, Tensor]],
        bank: BatchAdapters,
        cache: FeatureCache,
    ) -> list[Contract]:
        """Answer questions about spans.

        Args:
            rows: the input, its adapter, this adapter if it changes the encoder, and the states of the words.
        """
        if not rows:
            return []
        prepared_inputs, adapters, encoder_adapters, word_states = zip(*rows, strict=True)
        label_keys = [
            (adapter, prepared.question.labels)
            for adapter, prepared in zip(encoder_adapters, prepared_inputs, strict=True)
        ]
        label_features = {key: self._label_features(*key, bank, cache) for key in dict.fromkeys(label_keys)}
        outputs: list[Contract] = []
        for batch in _head_batches(word_states):
            with bank.use(adapters[batch]):
                padded_states = pad_sequence(list(word_states[batch]), batch_first=True).to(self.device)
                tags = self.module.tag(padded_states).cpu()
            for tag_rows, key, prepared, states in zip(
                tags, label_keys[batch], prepared_inputs[batch], word_states[batch], strict=True
            ):
                logits = word_logits(tag_rows[: len(prepared.words)], label_features[key])
                outputs.append(self._output(prepared, states, logits, has_tags=bool(tag_rows.any())))
        return outputs

    def loss(self, prepared_inputs: Sequence[PreparedInput], targets: Sequence[SpanTarget]) -> Tensor:
        """Compute the loss of each text over the words of its windows; see `Family.loss`."""
        known_features = {prepared.question.labels: prepared.label_features for prepared in prepared_inputs}
        label_features = {
            labels: self._encode_labels(labels) if features is None else features.to(self.device)
            for labels, features in known_features.items()
        }
        word_states, words = self._states_for_training(prepared_inputs)
        # The head gets the words of all texts in one row: padding to the longest text could take all memory.
        tags = torch.split(self.module.tag(torch.cat(word_states)), [len(states) for states in word_states])
        return torch.stack(
            [
                span_losses(word_logits(text_tags, label_features[prepared.question.labels]), text_words, target)
                for text_tags, text_words, prepared, target in zip(
                    tags, words, prepared_inputs, targets, strict=True
                )
            ]
        )

    def trained_layers(self, question: Input) -> list[str]:
        """Return the head; with LORA_TOWERS=both also the encoder's layers. None for relations."""
        if isinstance(question, HEADED_ALONE):
            return []
        return self.lora_layers() if trains_all_towers(self.lora_towers) else [HEAD]

    def _output(self, prepared: PreparedInput, states: Tensor, logits: Tensor, has_tags: bool) -> Contract:
        """Make the answer to one question.

        Args:
            states: (words, dim) float32 on the CPU.
            logits: (words, 2, labels) float32 on the CPU, without a fitted head.
            has_tags: whether an adapter has trained the head's layer; otherwise the logits say nothing.
        """
        features = _features(states)
        if isinstance(prepared.question, SpanFeaturesInput):
            return _answered(features, self.space, tuple(logits.flatten().tolist()) if has_tags else ())
        if prepared.fitted_head is not None and prepared.words:
            learned = logits.flatten(1) if has_tags else torch.zeros(len(logits), logits[0].numel())
            fitted = head_word_logits(prepared.fitted_head, features, learned.numpy())
            logits = torch.from_numpy(fitted).view_as(logits)
        return span_scores(logits, prepared.words)

    @cached_property
    def _encoder_layers(self) -> frozenset[str]:
        return frozenset(self.lora_layers()) - {HEAD}

    @cached_property
    def _max_tokens(self) -> int:
        # RoBERTa's positions begin at 2.
        positions = self.module.encoder.config.max_position_embeddings - 2
        return int(min(MAX_TOKENS, self.tokenizer.model_max_length, positions))

    @property
    def _no_words(self) -> Tensor:
        """(0, dim) float32 on the CPU."""
        return torch.zeros(0, self.module.head.in_features)

    def _encode_words(
        self, prepared_inputs: Sequence[PreparedInput], encoder_adapters: Sequence[str | None], bank: BatchAdapters
    ) -> list[Tensor]:
        """(words, dim) float32 on the CPU for each input; zeros for a word without tokens."""
        word_states = [
            torch.zeros(len(prepared.words), self.module.head.in_features)
            if prepared.word_states is None
            else prepared.word_states
            for prepared in prepared_inputs
        ]
        rows = [(index, window) for index, prepared in enumerate(prepared_inputs) for window in prepared.windows]
        for start in range(0, len(rows), MAX_ROWS):
            batch = rows[start : start + MAX_ROWS]
            with bank.use([encoder_adapters[index] for index, _ in batch]):
                window_states = self._encode_windows([window for _, window in batch]).cpu()
            for (index, window), states in zip(batch, window_states, strict=True):
                word_states[index][list(window.words)] = states[: len(window.words)]
        return word_states

    def _states_for_training(
        self, prepared_inputs: Sequence[PreparedInput]
    ) -> tuple[list[Tensor], list[tuple[tuple[int, int], ...]]]:
        """For each input, the states (words, dim) of the words in its windows, on the device; and these words."""
        windows = [window for prepared in prepared_inputs for window in prepared.windows]
        window_states = iter(self._encode_windows(windows))
        word_states, words = [], []
        for prepared in prepared_inputs:
            if prepared.word_states is not None:
                word_states.append(prepared.word_states.to(self.device))
                words.append(prepared.words)
                continue
            parts = [next(window_states)[: len(window.words)] for window in prepared.windows]
            word_states.append(torch.cat([*parts, self._no_words.to(self.device)]))
            words.append(tuple(prepared.words[word] for window in prepared.windows for word in window.words))
        return word_states, words

    def _encode_windows(self, windows: Sequence[Window]) -> Tensor:
        """(windows, words, dim) float32 on the device; windows with fewer words are padded."""
        if not windows:
            return self._no_words[None]
        pad_token = int(self.tokenizer.pad_token_id or 0)
        tokens = pad_sequence([window.tokens for window in windows], batch_first=True, padding_value=pad_token)
        mask = pad_sequence([torch.ones_like(window.tokens) for window in windows], batch_first=True)
        token_ranges = pad_sequence([window.token_ranges for window in windows], batch_first=True)
        return self.module.encode_words(tokens.to(self.device), mask.to(self.device), token_ranges.to(self.device))

    def _label_features(
        self, adapter: str | None, labels: tuple[tuple[str, ...], ...], bank: BatchAdapters, cache: FeatureCache
    ) -> Tensor:
        """(labels, dim) float32 on the CPU, from the cache if possible."""
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
        """(labels, dim) float32 of length 1, on the device: for each label the mean of its texts.

        Args:
            adapter_context: returns the context in which the texts are encoded, given their number.
        """
        texts = [text for label_texts in labels for text in label_texts]
        encoding = self.label_tokenizer(
            texts, padding=True, truncation=True, max_length=MAX_LABEL_TOKENS, return_tensors="pt"
        )
        tokens, mask = encoding["input_ids"].to(self.device), encoding["attention_mask"].to(self.device)
        with adapter_context(len(texts)):
            features = self.module.encode_texts(tokens, mask)
        features_by_label = torch.split(features, [len(label_texts) for label_texts in labels])
        return functional.normalize(
            torch.stack([text_features.mean(0) for text_features in features_by_label]), dim=-1
        )


def _features(states: Tensor) -> Array:
    """(words, dim): what heads are fitted on; each row has a length of about 1."""
    features: Array = (states / math.sqrt(states.shape[1])).numpy()
    return features


def _answered(features: Array, space: str, logits: tuple[float, ...] = ()) -> Features:
    float16 = base64.b64encode(features.astype("<f2").tobytes()).decode()
    return Features(space=space, dim=features.shape[1], float16=float16, logits=logits)


def _about_relations(prepared: PreparedInput, states: Tensor, space: str) -> Contract:
    """The relations between spans of a text, or what their head is fitted on."""
    if isinstance(prepared.question, RelationsInput):
        return related(prepared.fitted_head, prepared.question, _features(states))
    return _answered(_features(states), space)


def _head_batches(word_states: Sequence[Tensor]) -> Iterator[slice]:
    """Yield slices of consecutive texts that go through the head together, padded to the longest."""
    start, longest = 0, 0
    for index, states in enumerate(word_states):
        longest = max(longest, len(states))
        is_full = index - start == MAX_ROWS or (index + 1 - start) * longest > MAX_WORDS
        if index > start and is_full:
            yield slice(start, index)
            start, longest = index, len(states)
    if word_states:
        yield slice(start, len(word_states))


def _choose_window(prepared: PreparedInput, generator: torch.Generator) -> PreparedInput:
    if len(prepared.windows) < 2:
        return prepared
    chosen = int(torch.randint(len(prepared.windows), (), generator=generator))
    return replace(prepared, windows=(prepared.windows[chosen],))
