"""transformers encoders that find entities: each word and each label text becomes a vector, and where they fit
a span is.

A bi-encoder as GLiNER (https://arxiv.org/abs/2311.08526) is one, reduced to words: for each word and label a
logit that a span of that label begins there, and one that it goes on, against 0 for neither. New and renamed
labels need no new head, since a label is only a text.

An encoder alone knows nothing of spans: until an adapter has learned, nothing is predicted.
"""

import copy
import math
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoModel, AutoTokenizer, BertConfig, BertModel, PreTrainedTokenizerFast

from lorabel.contracts import BatchAdapters, Input, Modality, SpanScores, SpansInput, SpanTarget
from lorabel.errors import SettingsError
from lorabel.families.base import DigestOf, Family, Fetch, NoBatchAdapters
from lorabel.families.cache import FEATURES, TEXTS, FeatureCache
from lorabel.families.spans.word_spans import span_losses, span_scores
from lorabel.families.spans.words import words
from lorabel.media.fetching import digest
from lorabel.settings import Settings

# Tokens that the model reads at once; of longer texts a sixth of them twice, so that each word has context.
WINDOW = 384
OVERLAPS = 6
ROWS = 32
# Of one pass through the head, padding included.
MOST_WORDS = 16_384
HEAD = "head"
# What a word's logits start with, so that an encoder which has learned nothing is silent.
SILENCE = 2.0
# Cosines times this are logits' size.
SCALE = 16.0


@dataclass(frozen=True)
class Window:
    """Some of a text's tokens, special ones included.

    Args:
        tokens: (seq,) int64.
        places: (words, 2) int64, each word's first token in the window and the one after its last.
        words: indices of those words in the text.
    """

    tokens: Tensor
    places: Tensor
    words: tuple[int, ...]


@dataclass(frozen=True)
class Example:
    """A question about a text.

    Args:
        spans: of its words, in characters.
        windows: empty where the states are known.
        states: (words, dim) float32, what the encoder makes of each word.
        texts: (labels, dim) float32, what it makes of the labels, where that is known.
    """

    question: SpansInput
    spans: tuple[tuple[int, int], ...]
    digest: str
    windows: tuple[Window, ...] = ()
    states: Tensor | None = None
    texts: Tensor | None = None


class Tagger(nn.Module):
    """`head` starts with nothing, so that LoRA's delta is all there is of it."""

    encoder: Any

    def __init__(self, encoder: nn.Module, dim: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = nn.Linear(dim, 2 * dim, bias=False)
        nn.init.zeros_(self.head.weight)

    def words(self, tokens: Tensor, mask: Tensor, places: Tensor) -> Tensor:
        """(rows, words, dim) float32: of each word its tokens' mean in the middle of the encoder, where it is
        still the word; at the end a sentence encoder has the sentence everywhere. Padding has places (0, 0)."""
        states = self.encoder(input_ids=tokens, attention_mask=mask, output_hidden_states=True).hidden_states
        means = _means(states[len(states) // 2].float(), places)
        return functional.layer_norm(means, means.shape[-1:])

    def tag(self, states: Tensor) -> Tensor:
        """(rows, words, 2, dim) float32 of such words."""
        made: Tensor = self.head(states.to(self.head.weight.dtype))
        return made.float().view(*made.shape[:-1], 2, made.shape[-1] // 2)

    def texts(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """(rows, dim) float32 of length 1: the tokens' mean."""
        states = self.encoder(input_ids=tokens, attention_mask=mask).last_hidden_state.float() * mask[..., None]
        return functional.normalize(states.sum(1), dim=-1)


@dataclass(frozen=True)
class TokenClassifier(Family):
    name: ClassVar[str] = "token_classifier"
    inputs: ClassVar[tuple[type[Input], ...]] = (SpansInput,)
    modalities: ClassVar[frozenset[Modality]] = frozenset({Modality.TEXT})
    default_source: ClassVar[str] = "hf-hub:intfloat/multilingual-e5-base"

    source: str
    module: Tagger
    device: torch.device
    dtype: torch.dtype
    tokenizer: Any
    label_tokenizer: Any
    towers: str

    @classmethod
    def load(cls, source: str, device: torch.device, dtype: torch.dtype, settings: Settings) -> Self:
        name = source.removeprefix("hf-hub:").removeprefix("local-dir:")
        try:
            tokenizer = AutoTokenizer.from_pretrained(name, use_fast=True, trust_remote_code=False)
            encoder = AutoModel.from_pretrained(name, use_safetensors=True, trust_remote_code=False)
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
        # One for each thread: a fast tokenizer keeps padding and truncation of its last call as state.
        labels = copy.deepcopy(tokenizer)
        return cls(source, module, device, dtype, tokenizer, labels, settings.lora_towers)

    @classmethod
    def tiny(cls, folder: Path) -> str:
        special = ["[PAD]", "[CLS]", "[SEP]", "[MASK]"]
        letters = sorted(pre_tokenizers.ByteLevel.alphabet())
        vocabulary = {token: number for number, token in enumerate([*special, *letters])}
        tokenizer = Tokenizer(models.BPE(vocabulary, []))
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        tokenizer.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
        )
        PreTrainedTokenizerFast(
            tokenizer_object=tokenizer,
            pad_token="[PAD]",
            cls_token="[CLS]",
            sep_token="[SEP]",
            mask_token="[MASK]",
            model_max_length=64,
        ).save_pretrained(folder)
        config = BertConfig(
            vocab_size=len(vocabulary),
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=64,
            max_position_embeddings=64,
        )
        BertModel(config).save_pretrained(folder)
        return f"local-dir:{folder}"

    def prepare(self, question: SpansInput, fetch: Fetch) -> Example:
        text = question.contents[0].text or ""
        spans = tuple(words(text))
        return Example(question, spans, digest(text.encode()), tuple(self._windows(text, spans)))

    def recall(
        self,
        question: SpansInput,
        digest_of: DigestOf,
        adapter: str | None,
        adapters: BatchAdapters,
        cache: FeatureCache,
    ) -> Example | None:
        text = question.contents[0].text or ""
        name = digest(text.encode())
        states = cache.get(FEATURES, (name, adapters.effective_adapter(adapter, self._encoder_layers)))
        return None if states is None else Example(question, tuple(words(text)), name, states=states)

    @torch.no_grad()
    def precompute(
        self, examples: Sequence[Example], trained: Collection[str], generator: torch.Generator
    ) -> Sequence[Example]:
        """Where only the head learns, the encoder's work is done once."""
        if not self._encoder_layers.isdisjoint(trained):
            return examples
        states = self._states(examples, [None] * len(examples), NoBatchAdapters())
        asked = {example.question.labels for example in examples}
        texts = {labels: self._encode_labels(labels).cpu() for labels in asked}
        return [
            replace(example, windows=(), states=own, texts=texts[example.question.labels])
            for example, own in zip(examples, states, strict=True)
        ]

    def augment(self, examples: Sequence[Example], generator: torch.Generator) -> Sequence[Example]:
        """Of a text that is longer than the model reads at once, one window."""
        return [_one_window(example, generator) for example in examples]

    @torch.inference_mode()
    def predict(
        self, examples: Sequence[Example], adapters: Sequence[str | None], bank: BatchAdapters, cache: FeatureCache
    ) -> Sequence[SpanScores]:
        owners = [bank.effective_adapter(adapter, self._encoder_layers) for adapter in adapters]
        states = self._states(examples, owners, bank)
        for example, owner, own in zip(examples, owners, states, strict=True):
            cache.put(FEATURES, (example.digest, owner), own)
        keys = [(owner, example.question.labels) for owner, example in zip(owners, examples, strict=True)]
        texts = {key: self._label_features(*key, bank, cache) for key in dict.fromkeys(keys)}
        outputs: list[SpanScores] = []
        for part in _by_words(states):
            with bank.use(adapters[part]):
                tagged = self._tag(states[part]).cpu()
            outputs += [
                span_scores(_logits(own[: len(example.spans)], texts[key]), example.spans)
                for own, key, example in zip(tagged, keys[part], examples[part], strict=True)
            ]
        return outputs

    def loss(self, examples: Sequence[Example], targets: Sequence[SpanTarget]) -> Tensor:
        """Cross-entropy over the words that the windows hold."""
        asked = {example.question.labels: example.texts for example in examples}
        labels = {
            key: self._encode_labels(key) if known is None else known.to(self.device)
            for key, known in asked.items()
        }
        encoded = iter(self._encode([window for example in examples for window in example.windows]))
        states, spans = [], []
        for example in examples:
            if example.states is not None:
                states.append(example.states.to(self.device))
                spans.append(example.spans)
                continue
            parts = [next(encoded)[: len(window.words)] for window in example.windows]
            states.append(torch.cat([*parts, self._no_words.to(self.device)]))
            spans.append(tuple(example.spans[i] for window in example.windows for i in window.words))
        # All words in a row: padded to the longest text, a few long ones would take all memory.
        words_of = torch.split(self.module.tag(torch.cat(states)), [len(own) for own in states])
        found = zip(words_of, spans, examples, targets, strict=True)
        return torch.stack(
            [
                span_losses(_logits(tagged, labels[example.question.labels]), own, target)
                for tagged, own, example, target in found
            ]
        )

    def trained_layers(self, question: Input) -> list[str]:
        return self.lora_layers() if self.towers == "both" else [HEAD]

    @cached_property
    def _encoder_layers(self) -> frozenset[str]:
        return frozenset(self.lora_layers()) - {HEAD}

    @property
    def _no_words(self) -> Tensor:
        return torch.zeros(0, self.module.head.in_features)

    def _states(
        self, examples: Sequence[Example], owners: Sequence[str | None], bank: BatchAdapters
    ) -> list[Tensor]:
        """For each (words, dim) float32 on the CPU; zeros for a word that the tokenizer has nothing for."""
        states = [
            torch.zeros(len(example.spans), self.module.head.in_features)
            if example.states is None
            else example.states
            for example in examples
        ]
        rows = [(i, window) for i, example in enumerate(examples) for window in example.windows]
        for start in range(0, len(rows), ROWS):
            part = rows[start : start + ROWS]
            with bank.use([owners[i] for i, _ in part]):
                found = self._encode([window for _, window in part]).cpu()
            for (i, window), own in zip(part, found, strict=True):
                states[i][list(window.words)] = own[: len(window.words)]
        return states

    def _windows(self, text: str, spans: Sequence[tuple[int, int]]) -> list[Window]:
        """Each word is in one of them: where it is furthest from a cut."""
        # RoBERTa's places begin at 2.
        most = min(WINDOW, self.tokenizer.model_max_length, self.module.encoder.config.max_position_embeddings - 2)
        made = self.tokenizer(
            text,
            truncation=True,
            max_length=most,
            stride=most // OVERLAPS,
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
        )
        best: dict[int, tuple[float, int, int, int]] = {}
        last = len(made["input_ids"]) - 1
        for number, offsets in enumerate(made["offset_mapping"]):
            for word, first, end in _tokens_of(spans, offsets):
                before = first if number > 0 else math.inf
                after = len(offsets) - end if number < last else math.inf
                best[word] = max(best.get(word, (-1.0, 0, 0, 0)), (min(before, after), number, first, end))
        windows = []
        for number, tokens in enumerate(made["input_ids"]):
            own = {word: places for word, (_, chosen, *places) in best.items() if chosen == number}
            if own:
                windows.append(Window(torch.tensor(tokens), torch.tensor(list(own.values())), tuple(own)))
        return windows

    def _encode(self, windows: Sequence[Window]) -> Tensor:
        """(len(windows), words, dim) float32, on the device; rows with fewer words are padded."""
        if not windows:
            return self._no_words[None]
        tokens = pad_sequence([window.tokens for window in windows], True, int(self.tokenizer.pad_token_id or 0))
        mask = pad_sequence([torch.ones_like(window.tokens) for window in windows], True)
        places = pad_sequence([window.places for window in windows], True)
        return self.module.words(tokens.to(self.device), mask.to(self.device), places.to(self.device))

    def _tag(self, states: Sequence[Tensor]) -> Tensor:
        """(len(states), words, 2, dim), padded as well."""
        return self.module.tag(pad_sequence(list(states), True).to(self.device))

    def _label_features(
        self, adapter: str | None, labels: tuple[tuple[str, ...], ...], bank: BatchAdapters, cache: FeatureCache
    ) -> Tensor:
        known = cache.get(TEXTS, (adapter, labels))
        if known is None:
            known = self._encode_labels(labels, lambda count: bank.use([adapter] * count)).cpu()
            cache.put(TEXTS, (adapter, labels), known)
        return known

    def _encode_labels(
        self,
        labels: tuple[tuple[str, ...], ...],
        around: Callable[[int], AbstractContextManager[Any]] = nullcontext,
    ) -> Tensor:
        """(labels, dim) float32 of length 1: of several texts of a label their mean.

        Args:
            around: given the number of texts in a batch, the context that it is computed in.
        """
        texts = [text for own in labels for text in own]
        made = self.label_tokenizer(texts, padding=True, truncation=True, max_length=64, return_tensors="pt")
        with around(len(texts)):
            found = self.module.texts(made["input_ids"].to(self.device), made["attention_mask"].to(self.device))
        means = torch.stack([part.mean(0) for part in torch.split(found, [len(own) for own in labels])])
        return functional.normalize(means, dim=-1)


def _logits(features: Tensor, labels: Tensor) -> Tensor:
    """(words, 2, labels) of a text's features and the labels'."""
    return SCALE * features @ labels.T - SILENCE


def _by_words(states: Sequence[Tensor]) -> Iterator[slice]:
    """Places of texts that go through the head together, padded to the longest."""
    start, longest = 0, 0
    for place, own in enumerate(states):
        longest = max(longest, len(own))
        if place > start and (place - start == ROWS or (place + 1 - start) * longest > MOST_WORDS):
            yield slice(start, place)
            start, longest = place, len(own)
    if states:
        yield slice(start, len(states))


def _one_window(example: Example, generator: torch.Generator) -> Example:
    if len(example.windows) < 2:
        return example
    chosen = int(torch.randint(len(example.windows), (), generator=generator))
    return replace(example, windows=(example.windows[chosen],))


def _tokens_of(
    spans: Sequence[tuple[int, int]], tokens: Sequence[tuple[int, int]]
) -> Iterator[tuple[int, int, int]]:
    """(word, first token, token after its last) for each word that has one. Both are in the text's order; special
    tokens are empty."""
    real = [place for place, (start, end) in enumerate(tokens) if end > start]
    starts, ends = [tokens[place][0] for place in real], [tokens[place][1] for place in real]
    for word, (start, end) in enumerate(spans):
        first, after = bisect_right(ends, start), bisect_left(starts, end)
        if first < after:
            yield word, real[first], real[after - 1] + 1


def _means(states: Tensor, places: Tensor) -> Tensor:
    """(rows, words, dim) of (rows, seq, dim), over the tokens from each place to the other."""
    sums = functional.pad(states.cumsum(1), (0, 0, 1, 0))
    first, end = (sums.gather(1, place[..., None].expand(-1, -1, states.shape[-1])) for place in places.unbind(-1))
    means: Tensor = (end - first) / (places[..., 1:] - places[..., :1]).clamp(min=1)
    return means
