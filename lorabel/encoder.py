"""Models that put contents and label texts into one space: the nearest label is the answer.

What all of them do alike: features that were computed before are found again, each content of a batch goes through
its tower once, label texts are read once for each adapter, and the loss is over the same nearness that predicts.
A family says how a content is read from a file and which tower computes it. New and renamed labels work at once,
since a label is only a text.
"""

import base64
from abc import abstractmethod
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from lorabel.contracts import (
    Content,
    Contract,
    Embedding,
    EmbedInput,
    Input,
    LabelScores,
    LabelsInput,
    LabelTarget,
    Modality,
    RowAdapters,
)
from lorabel.errors import UnreadableError
from lorabel.families import DigestOf, Family, Fetch
from lorabel.label_logits import label_logits, label_losses, label_scores
from lorabel.media import digest
from lorabel.memo import FEATURES, PIXELS, TEXTS, Memo
from lorabel.texts import read_text_file

TEXT_BATCH = 256
# With several labels allowed, a label is chosen if the content is nearer to it than to this text.
NEUTRAL_TEXT = "something else"
# Of a content whose features are precomputed: the content itself, then augmented ones.
VIEWS = 4
FEATURE_BATCH = 64
# The model's own scale (28 for the demo model, 100 and more for CLIP) saturates the loss as soon as a training
# example is right, and little is learned for others. docs/decisions/0009 has the figures.
TRAINING_SCALE = 10.0


@dataclass(frozen=True)
class Item:
    """One content.

    Args:
        data: as the family read it, a tensor on the CPU or a text. None where features are enough.
        features: (views, dim) float32 of length 1, the first of the content itself.
        digest: names the content, where it is known.
    """

    modality: Modality
    data: Any = None
    features: Tensor | None = None
    digest: str | None = None


@dataclass(frozen=True)
class Example:
    """A question, of a class among the family's `inputs`, with an item for each of its contents."""

    question: Any
    items: tuple[Item, ...]


class Encoder(Family):
    """The subclass sets what `Family` names, and says how its model reads and encodes each modality."""

    inputs: ClassVar[tuple[type[Input], ...]] = (LabelsInput, EmbedInput)

    def read(self, modality: Modality, file: bytes) -> Tensor:
        """A file's content, on the CPU, as small as the model can use it; never asked about a text.

        Raises:
            UnreadableError: for good.
        """
        raise NotImplementedError(f"{self.name} reads no files of {modality}")

    @abstractmethod
    def encode(self, modality: Modality, data: Sequence[Any]) -> Tensor:
        """(len(data), dim) float32 of length 1, on the device. `data`: what `read` made, or texts."""

    @abstractmethod
    def jitter(self, modality: Modality, data: Any, generator: torch.Generator) -> Any:
        """The same changed a little, so that it still means the same."""

    @abstractmethod
    def tower(self, modality: Modality) -> frozenset[str]:
        """The layers of `lora_layers` that compute this modality's features."""

    def rows(self, modality: Modality, data: Any) -> int:
        """How many rows of its tower one content takes: a video has a row for each frame."""
        return 1

    @property
    @abstractmethod
    def scale(self) -> float:
        """What the model multiplies cosines with for logits."""

    @property
    def bias(self) -> float | None:
        """What the model adds to a logit so that 0 is the border between fitting and not, if it learned that."""
        return None

    def prepare(self, question: LabelsInput | EmbedInput, fetch: Fetch) -> Example:
        return Example(question, tuple(self._read(content, fetch) for content in question.contents))

    def recall(
        self,
        question: LabelsInput | EmbedInput,
        digest_of: DigestOf,
        adapter: str | None,
        adapters: RowAdapters,
        memo: Memo,
    ) -> Example | None:
        found = self._recall(question, digest_of, adapter, adapters, memo)
        is_whole = found is not None and all(item.features is not None for item in found.items)
        if isinstance(question, EmbedInput) and question.is_only_recalled and not is_whole:
            raise UnreadableError("its features are not in memory", is_permanent=False)
        return found

    def _recall(
        self, question: Input, digest_of: DigestOf, adapter: str | None, adapters: RowAdapters, memo: Memo
    ) -> Example | None:
        items = []
        for content in question.contents:
            name = _name(content, digest_of)
            if name is None:
                return None
            key = self._key(content.modality, name, adapter, adapters)
            features, data = memo.get(FEATURES, key), content.text
            if features is None and data is None:
                data = memo.get(PIXELS, name)
                if data is None:
                    return None
            items.append(Item(content.modality, data, None if features is None else features[None], name))
        return Example(question, tuple(items))

    @torch.inference_mode()
    def answer(self, example: Example, adapter: str | None, adapters: RowAdapters, memo: Memo) -> Contract | None:
        if any(item.features is None for item in example.items):
            return None
        if isinstance(example.question, EmbedInput):
            return self._embedding(example)
        texts = memo.get(TEXTS, (adapters.changing(adapter, self.tower(Modality.TEXT)), example.question.labels))
        return None if texts is None else self._scores(example, texts)

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
        self, examples: Sequence[Example], adapters: Sequence[str | None], bank: RowAdapters, memo: Memo
    ) -> Sequence[Contract]:
        seen = self._see(examples, adapters, bank, memo)
        outputs: list[Contract] = []
        texts: dict[Any, Tensor] = {}
        for adapter, example in zip(adapters, seen, strict=True):
            if isinstance(example.question, EmbedInput):
                outputs.append(self._embedding(example))
                continue
            key = bank.changing(adapter, self.tower(Modality.TEXT)), example.question.labels
            if key not in texts:
                texts[key] = self._label_features(*key, bank, memo)
            outputs.append(self._scores(example, texts[key]))
        return outputs

    def loss(self, examples: Sequence[Example], targets: Sequence[LabelTarget]) -> Tensor:
        """Cross-entropy over the labels, or a sigmoid loss over each of them if several are allowed."""
        losses: dict[int, Tensor] = {}
        for labels, members in _by_labels(examples).items():
            question = examples[members[0]].question
            contents = self._encode_items([examples[i] for i in members])
            logits = self._logits(contents, self._encode_labels(labels), question)
            logits = logits * min(1.0, TRAINING_SCALE / self.scale)
            found = label_losses(logits, question, [targets[i] for i in members])
            losses |= dict(zip(members, found, strict=True))
        return torch.stack([losses[i] for i in range(len(examples))])

    def _read(self, content: Content, fetch: Fetch) -> Item:
        if content.media is None:
            return Item(content.modality, content.text, digest=_name(content, lambda _: None))
        file = fetch(content.media)
        layout = content.layout
        data = self.read(content.modality, file) if layout is None else read_text_file(file, layout)
        return Item(content.modality, data, digest=_name(content, lambda _: digest(file)))

    def _key(self, modality: Modality, name: str, adapter: str | None, adapters: RowAdapters) -> Any:
        return modality, name, adapters.changing(adapter, self.tower(modality))

    def _see(
        self, examples: Sequence[Example], adapters: Sequence[str | None], bank: RowAdapters, memo: Memo
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
            found |= self._compute(modality, rows, some, bank, memo)
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
        bank: RowAdapters,
        memo: Memo,
    ) -> dict[Any, Tensor]:
        """Of contents that take as many rows each, so that the bank can tell whose each row is."""
        found: dict[Any, Tensor] = {}
        for part in _parts(list(new.items()), max(1, FEATURE_BATCH // rows)):
            with bank.rows([adapter for _, (_, adapter) in part]):
                features = self.encode(modality, [item.data for _, (item, _) in part]).cpu()
            # Copies: a row alone would keep its whole batch in memory.
            found |= {key: own.clone() for (key, _), own in zip(part, features, strict=True)}
        for key, (item, _) in new.items():
            if item.digest is not None:
                memo.put(FEATURES, key, found[key])
                if isinstance(item.data, Tensor):
                    memo.put(PIXELS, item.digest, item.data)
        return found

    def _label_features(
        self, adapter: str | None, labels: tuple[tuple[str, ...], ...], bank: RowAdapters, memo: Memo
    ) -> Tensor:
        known = memo.get(TEXTS, (adapter, labels))
        if known is None:
            known = self._encode_labels(labels, lambda count: bank.rows([adapter] * count)).cpu()
            memo.put(TEXTS, (adapter, labels), known)
        return known

    def _encode_labels(
        self,
        labels: tuple[tuple[str, ...], ...],
        around: Callable[[int], AbstractContextManager[Any]] = nullcontext,
    ) -> Tensor:
        """(texts + 1, dim) float32, of length 1; the last one is the neutral text.

        Args:
            around: given the number of texts in a batch, the context that it is computed in.
        """
        features = []
        for part in _parts([*(text for texts in labels for text in texts), NEUTRAL_TEXT], TEXT_BATCH):
            with around(len(part)):
                features.append(self.encode(Modality.TEXT, part))
        return torch.cat(features)

    def _scores(self, example: Example, texts: Tensor) -> LabelScores:
        question = example.question
        contents = [item.features[:1].to(texts.device) for item in example.items if item.features is not None]
        return label_scores(self._logits(contents, texts, question)[0], question)

    def _embedding(self, example: Example) -> Embedding:
        middle = torch.stack([item.features[0] for item in example.items if item.features is not None]).mean(0)
        vector = functional.normalize(middle.float(), dim=0).cpu().numpy().astype("<f2")
        return Embedding(space=f"{self.name} {self.source}", float16=base64.b64encode(vector.tobytes()).decode())

    def _logits(self, contents: Sequence[Tensor], texts: Tensor, question: LabelsInput) -> Tensor:
        """(batch, labels): of several contents the mean, so that each has its say.

        Args:
            contents: for each content of the question its features (batch, dim).
            texts: from `_encode_labels`.
        """
        each = [label_logits(self.scale * one @ texts.T, question, self.bias) for one in contents]
        return torch.stack(each).mean(0)

    def _encode_items(self, examples: Sequence[Example]) -> list[Tensor]:
        """For each content of the question its features (batch, dim), with the adapter that PEFT has active."""
        columns = zip(*(example.items for example in examples), strict=True)
        return [self._encode_column(column) for column in columns]

    def _encode_column(self, items: Sequence[Item]) -> Tensor:
        known = [item.features[0] for item in items if item.features is not None]
        if known:
            return torch.stack(known)
        return self.encode(items[0].modality, [item.data for item in items])

    def _views(self, items: Sequence[Item], generator: torch.Generator) -> Iterator[Item]:
        rows = max(self.rows(item.modality, item.data) for item in items)
        for part in _parts(items, max(1, FEATURE_BATCH // (VIEWS * rows))):
            data = [
                view
                for item in part
                for view in (
                    item.data,
                    *(self.jitter(item.modality, item.data, generator) for _ in range(VIEWS - 1)),
                )
            ]
            features = self.encode(part[0].modality, data).view(len(part), VIEWS, -1)
            yield from (replace(item, data=None, features=own) for item, own in zip(part, features, strict=True))

    def _augmented(self, item: Item, generator: torch.Generator) -> Item:
        if item.features is not None:
            view = int(torch.randint(len(item.features), (), generator=generator))
            return replace(item, features=item.features[view, None])
        return replace(item, data=self.jitter(item.modality, item.data, generator))


def _name(content: Content, digest_of: DigestOf) -> str | None:
    """What tells contents of a modality apart; None if the file's digest is not known."""
    if content.media is None:
        return digest((content.text or "").encode())
    name = digest_of(content.media)
    return name if name is None or content.layout is None else f"{name} {content.layout.model_dump_json()}"


def _by_labels(examples: Sequence[Example]) -> dict[tuple[tuple[str, ...], ...], list[int]]:
    """Places in the batch of those that are asked about the same labels."""
    groups: dict[tuple[tuple[str, ...], ...], list[int]] = defaultdict(list)
    for place, example in enumerate(examples):
        groups[example.question.labels].append(place)
    return groups


def _parts(values: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    return (values[start : start + size] for start in range(0, len(values), size))
