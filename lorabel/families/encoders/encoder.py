"""Models that put contents and texts into one space: answers come from their features.

What all of them do alike: features that were computed before are found again, each content of a batch goes through
its tower once, texts that are asked about are read once for each adapter, and the loss is over the same figures
that predict. How features become an answer is said by a head, one for each kind of question (`HEADS`); how a
content is read from a file and which tower computes it is said by a family.
"""

import base64
from abc import abstractmethod
from collections import defaultdict
from collections.abc import Callable, Collection, Hashable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from lorabel.contracts import (
    BatchAdapters,
    Content,
    Contract,
    Embedding,
    EmbedInput,
    Input,
    Modality,
)
from lorabel.errors import UnreadableError
from lorabel.families.base import DigestOf, Family, Fetch
from lorabel.families.cache import DECODED, FEATURES, TEXTS, FeatureCache
from lorabel.families.encoders.heads.base import Basis, Head, fresh_layer, weights_of
from lorabel.families.encoders.heads.by_question import HEAD_LAYERS, HEADS, layer_of
from lorabel.families.encoders.items import Item, name_of, parts
from lorabel.media.fetching import digest
from lorabel.media.text import read_text_file

TEXT_BATCH = 256
# Many times what the models read of a text: to cut it into tokens takes time on the device's thread.
MOST_CHARACTERS = 20_000
# Of a content that is no text, where features are precomputed: the content itself, then augmented ones.
VIEWS = 4
FEATURE_BATCH = 64


@dataclass(frozen=True)
class Example:
    """A question, of a class among the family's `inputs`, with an item for each of its contents."""

    question: Input
    items: tuple[Item, ...]

    @property
    def head(self) -> Head:
        return HEADS[type(self.question)]


@dataclass(frozen=True)
class _BasisKey:
    """What a head's basis depends on: with the adapters that change what the text tower computes of the texts
    (`reader`) and what the head's layer has learned (`learner`)."""

    head: Head
    texts: tuple[str, ...]
    reader: str | None
    learner: str | None


class Encoder(Family):
    """The subclass is a dataclass that sets what `Family` names, and says how its model reads and encodes each
    modality. The heads' layers are added to its `module`."""

    inputs: ClassVar[tuple[type[Input], ...]] = (*HEADS, EmbedInput)

    def __post_init__(self) -> None:
        layers = {head.layer: fresh_layer(head.size(self._dim)) for head in HEADS.values()}
        self.module.add_module(HEAD_LAYERS, nn.ModuleDict(layers).to(self.device))

    def read(self, modality: Modality, file: bytes) -> Tensor:
        """A file's content, on the CPU, as small as the model can use it; never asked about a text.

        Raises:
            UnreadableError: for good.
        """
        raise NotImplementedError(f"{self.name} reads no files of {modality}")

    @abstractmethod
    def encode(self, modality: Modality, data: Sequence[Any]) -> Tensor:
        """(len(data), dim) float32 of length 1, on the device. `data`: what `read` made, or texts."""

    def jitter(self, modality: Modality, data: Any, generator: torch.Generator) -> Any:
        """The same changed a little, so that it still means the same; texts stay as they are."""
        return data

    @abstractmethod
    def tower(self, modality: Modality) -> frozenset[str]:
        """Those of the `tower_layers` that compute features of contents of this modality."""

    def rows(self, modality: Modality, data: Any) -> int:
        """How many rows of its tower one content takes: a video has a row for each frame."""
        return 1

    @property
    @abstractmethod
    def learning(self) -> frozenset[Modality]:
        """The modalities of contents whose towers new adapters go on; on that for label texts they always do."""

    def encode_labels(self, texts: Sequence[str]) -> Tensor:
        """(texts, dim) float32 of length 1, on the device: label texts, where they are read by other layers."""
        return self.encode(Modality.TEXT, texts)

    @property
    def label_tower(self) -> frozenset[str]:
        """The layers that compute features of label texts."""
        return self.tower(Modality.TEXT)

    @property
    @abstractmethod
    def scale(self) -> float:
        """What the model multiplies cosines with for logits."""

    @property
    def bias(self) -> float | None:
        """What the model adds to a logit so that 0 is the border between fitting and not, if it learned that."""
        return None

    def tower_layers(self) -> list[str]:
        """The `lora_layers` of the model itself, without those of the heads."""
        return [name for name in self.lora_layers() if not name.startswith(f"{HEAD_LAYERS}.")]

    def trained_layers(self, question: Input) -> list[str]:
        """Of the towers that are to learn those that have a part in the answer; and the head's layer. Label texts
        are always to be learned."""
        head = HEADS[type(question)]
        layers = {layer for modality in question.modalities & self.learning for layer in self.tower(modality)}
        layers |= self.label_tower if head.texts(question) else frozenset()
        return sorted(layers | {layer_of(head)} if head.is_learned(question) else layers)

    def prepare(self, question: Input, fetch: Fetch) -> Example:
        return Example(question, tuple(self._read(content, fetch) for content in question.contents))

    def recall(
        self,
        question: Input,
        digest_of: DigestOf,
        adapter: str | None,
        adapters: BatchAdapters,
        cache: FeatureCache,
    ) -> Example | None:
        found = self._recall(question, digest_of, adapter, adapters, cache)
        is_whole = found is not None and all(item.features is not None for item in found.items)
        if isinstance(question, EmbedInput) and question.is_only_recalled and not is_whole:
            raise UnreadableError("its features are not in memory", is_permanent=False)
        return found

    def _recall(
        self,
        question: Input,
        digest_of: DigestOf,
        adapter: str | None,
        adapters: BatchAdapters,
        cache: FeatureCache,
    ) -> Example | None:
        items = []
        for content in question.contents:
            name = name_of(content, digest_of)
            if name is None:
                return None
            key = self._key(content.modality, name, adapter, adapters)
            features, data = cache.get(FEATURES, key), content.text and content.text[:MOST_CHARACTERS]
            if features is None and data is None:
                data = cache.get(DECODED, name)
                if data is None:
                    return None
            items.append(Item(content.modality, data, None if features is None else features[None], name))
        return Example(question, tuple(items))

    @torch.inference_mode()
    def answer(
        self, example: Example, adapter: str | None, adapters: BatchAdapters, cache: FeatureCache
    ) -> Contract | None:
        if any(item.features is None for item in example.items):
            return None
        if isinstance(example.question, EmbedInput):
            return self._embedding(example)
        key = self._basis_key(example, adapter, adapters)
        texts = cache.get(TEXTS, (key.reader, key.texts))
        weights = None if key.learner is None else cache.get(TEXTS, (key.learner, key.head.layer))
        if texts is None or (weights is None and key.learner is not None):
            return None
        return self._output(example, Basis(texts, weights, self.scale, self.bias))

    @torch.inference_mode()
    def precompute(
        self, examples: Sequence[Example], trained: Collection[str], generator: torch.Generator
    ) -> Sequence[Example]:
        """Where a modality's tower does not learn, contents become features: a step costs next to nothing."""
        made = {id(item): item for example in examples for item in example.items}
        for modality in {item.modality for item in made.values()}:
            if self.tower(modality).isdisjoint(trained):
                items = [item for item in made.values() if item.modality == modality]
                made |= {id(item): new for item, new in zip(items, self._views(items, generator), strict=True)}
        return [replace(example, items=tuple(made[id(item)] for item in example.items)) for example in examples]

    def augment(self, examples: Sequence[Example], generator: torch.Generator) -> Sequence[Example]:
        """Each content jittered, or one of the views that have been precomputed so."""
        return [
            replace(example, items=tuple(self._augmented(item, generator) for item in example.items))
            for example in examples
        ]

    @torch.inference_mode()
    def predict(
        self, examples: Sequence[Example], adapters: Sequence[str | None], bank: BatchAdapters, cache: FeatureCache
    ) -> Sequence[Contract]:
        seen = self._see(examples, adapters, bank, cache)
        bases: dict[_BasisKey, Basis] = {}
        outputs: list[Contract] = []
        for example, adapter in zip(seen, adapters, strict=True):
            if isinstance(example.question, EmbedInput):
                outputs.append(self._embedding(example))
                continue
            key = self._basis_key(example, adapter, bank)
            if key not in bases:
                bases[key] = self._basis(key, bank, cache)
            outputs.append(self._output(example, bases[key]))
        return outputs

    def loss(self, examples: Sequence[Example], targets: Sequence[Any]) -> Tensor:
        """Each head's own, for each group of examples in which it is asked the same."""
        losses: dict[int, Tensor] = {}
        features = self._encode_items([item for example in examples for item in example.items])
        for members in _alike(examples):
            first = examples[members[0]]
            texts = self._encode_texts(first.head.texts(first.question))
            weights = self._weights(first.head) if first.head.is_learned(first.question) else None
            contents = torch.stack(
                [torch.stack([features[id(item)] for item in examples[i].items]) for i in members]
            )
            basis = Basis(texts, weights, self.scale, self.bias)
            found = first.head.losses(first.question, contents, basis, [targets[i] for i in members])
            losses |= dict(zip(members, found, strict=True))
        return torch.stack([losses[i] for i in range(len(examples))])

    def _read(self, content: Content, fetch: Fetch) -> Item:
        if content.media is None:
            text = (content.text or "")[:MOST_CHARACTERS]
            return Item(content.modality, text, digest=name_of(content, lambda _: None))
        file = fetch(content.media)
        layout = content.layout
        data = (
            self.read(content.modality, file) if layout is None else read_text_file(file, layout)[:MOST_CHARACTERS]
        )
        return Item(content.modality, data, digest=name_of(content, lambda _: digest(file)))

    def _key(self, modality: Modality, name: str, adapter: str | None, adapters: BatchAdapters) -> Any:
        return modality, name, adapters.effective_adapter(adapter, self.tower(modality))

    def _see(
        self, examples: Sequence[Example], adapters: Sequence[str | None], bank: BatchAdapters, cache: FeatureCache
    ) -> list[Example]:
        """The same with features. Items that have none go through their tower, each content once."""
        new: dict[Any, tuple[Item, str | None]] = {}
        keys: dict[int, Any] = {}
        for example, adapter in zip(examples, adapters, strict=True):
            for item in example.items:
                if item.features is None:
                    key = self._key(item.modality, item.digest or str(id(item)), adapter, bank)
                    keys[id(item)] = key
                    new.setdefault(key, (item, adapter))
        found: dict[Any, Tensor] = {}
        kinds: dict[tuple[Modality, int], dict[Any, tuple[Item, str | None]]] = defaultdict(dict)
        for key, own in new.items():
            kinds[own[0].modality, self.rows(own[0].modality, own[0].data)][key] = own
        for (modality, rows), some in kinds.items():
            found |= self._compute(modality, rows, some, bank, cache)
        return [
            replace(
                example,
                items=tuple(
                    replace(item, features=found[keys[id(item)]][None]) if item.features is None else item
                    for item in example.items
                ),
            )
            for example in examples
        ]

    def _compute(
        self,
        modality: Modality,
        rows: int,
        new: Mapping[Any, tuple[Item, str | None]],
        bank: BatchAdapters,
        cache: FeatureCache,
    ) -> dict[Any, Tensor]:
        """Of contents that take as many rows each, so that the bank can tell whose each row is."""
        found: dict[Any, Tensor] = {}
        for part in parts(list(new.items()), max(1, FEATURE_BATCH // rows)):
            with bank.use([adapter for _, (_, adapter) in part]):
                features = self.encode(modality, [item.data for _, (item, _) in part]).cpu()
            # Copies: a row alone would keep its whole batch in memory.
            found |= {key: own.clone() for (key, _), own in zip(part, features, strict=True)}
        for key, (item, _) in new.items():
            if item.digest is not None:
                cache.put(FEATURES, key, found[key])
                if isinstance(item.data, Tensor):
                    cache.put(DECODED, item.digest, item.data)
        return found

    def _basis_key(self, example: Example, adapter: str | None, adapters: BatchAdapters) -> _BasisKey:
        head, question = example.head, example.question
        texts = head.texts(question)
        reader = adapters.effective_adapter(adapter, self.label_tower) if texts else None
        learner = adapters.effective_adapter(adapter, {layer_of(head)}) if head.is_learned(question) else None
        return _BasisKey(head, texts, reader, learner)

    def _basis(self, key: _BasisKey, bank: BatchAdapters, cache: FeatureCache) -> Basis:
        texts = cache.get(TEXTS, (key.reader, key.texts))
        if texts is None:
            texts = self._encode_texts(key.texts, lambda count: bank.use([key.reader] * count)).cpu()
            cache.put(TEXTS, (key.reader, key.texts), texts)
        weights = None if key.learner is None else cache.get(TEXTS, (key.learner, key.head.layer))
        if weights is None and key.learner is not None:
            with bank.use([key.learner]):
                weights = self._weights(key.head).cpu()
            cache.put(TEXTS, (key.learner, key.head.layer), weights)
        return Basis(texts, weights, self.scale, self.bias)

    def _weights(self, head: Head) -> Tensor:
        return weights_of(self.module.get_submodule(layer_of(head)), head.size(self._dim)[0], self.device)

    def _encode_texts(
        self,
        texts: Sequence[str],
        around: Callable[[int], AbstractContextManager[Any]] = nullcontext,
    ) -> Tensor:
        """(texts, dim) float32, of length 1.

        Args:
            around: given the number of texts in a batch, the context that it is computed in.
        """
        features = [torch.empty(0, self._dim, device=self.device)]
        for part in parts(texts, TEXT_BATCH):
            with around(len(part)):
                features.append(self.encode_labels(part))
        return torch.cat(features)

    def _output(self, example: Example, basis: Basis) -> Contract:
        contents = [item.features[0] for item in example.items if item.features is not None]
        return example.head.output(example.question, torch.stack(contents).to(basis.texts.device), basis)

    def _embedding(self, example: Example) -> Embedding:
        middle = torch.stack([item.features[0] for item in example.items if item.features is not None]).mean(0)
        vector = functional.normalize(middle.float(), dim=0).cpu().numpy().astype("<f2")
        return Embedding(space=f"{self.name} {self.source}", float16=base64.b64encode(vector.tobytes()).decode())

    def _encode_items(self, items: Sequence[Item]) -> dict[int, Tensor]:
        """The features (dim,) of each item by its id, with the adapter that PEFT has active."""
        found = {id(item): item.features[0] for item in items if item.features is not None}
        for modality in {item.modality for item in items}:
            new = [item for item in items if item.modality == modality and item.features is None]
            # A text that several contents have is read once; files have been jittered each in its own way.
            same = {id(item): item.data if modality == Modality.TEXT else id(item) for item in new}
            data = {same[id(item)]: item.data for item in new}
            if data:
                made = dict(zip(data, self.encode(modality, list(data.values())), strict=True))
                found |= {place: made[key] for place, key in same.items()}
        return found

    @cached_property
    @torch.inference_mode()
    def _dim(self) -> int:
        return self.encode_labels(["a"]).shape[-1]

    def _views(self, items: Sequence[Item], generator: torch.Generator) -> Iterator[Item]:
        modality = items[0].modality
        views = 1 if modality == Modality.TEXT else VIEWS
        rows = max(self.rows(modality, item.data) for item in items)
        for part in parts(items, max(1, FEATURE_BATCH // (views * rows))):
            data = [
                view
                for item in part
                for view in (
                    item.data,
                    *(self.jitter(item.modality, item.data, generator) for _ in range(views - 1)),
                )
            ]
            features = self.encode(part[0].modality, data).view(len(part), views, -1)
            yield from (replace(item, data=None, features=own) for item, own in zip(part, features, strict=True))

    def _augmented(self, item: Item, generator: torch.Generator) -> Item:
        if item.features is not None:
            view = int(torch.randint(len(item.features), (), generator=generator))
            return replace(item, features=item.features[view, None])
        return replace(item, data=self.jitter(item.modality, item.data, generator))


def _alike(examples: Sequence[Example]) -> list[list[int]]:
    """Places in the batch of those that are asked the same about their contents."""
    groups: dict[Hashable, list[int]] = defaultdict(list)
    for place, example in enumerate(examples):
        groups[example.question.group_key].append(place)
    return list(groups.values())
