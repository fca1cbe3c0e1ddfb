"""Texts that are being written, and batches of them that are computed together.

Rows are padded on the left, so the last column is the newest token of each row. Keys and values lie in the cache
classes of transformers.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import DynamicCache

from lorabel.families.generation.beams import BeamSearch
from lorabel.families.generation.constraints import Constraint


class Prompted(Protocol):
    """What decoding reads of a prepared input."""

    @property
    def prompt(self) -> Sequence[int]:
        """Return all tokens up to where the model writes."""

    @property
    def max_new_tokens(self) -> int:
        """Return the most tokens of the answer."""

    @property
    def constraint(self) -> Constraint | None:
        """Return what may be written; None for any text."""


@dataclass(eq=False)
class Draft:
    """A row that is being written.

    Args:
        tokens: what was written so far, without its end.
        probabilities: of these tokens, and of the end.
        is_ended: whether the model has ended it.
        search: its beam search, of whose best line the tokens are; None for greedy decoding.
    """

    row: Hashable
    prepared: Prompted
    adapter: str | None
    tokens: list[int] = field(default_factory=list)
    probabilities: list[float] = field(default_factory=list)
    is_ended: bool = False
    search: BeamSearch | None = None

    @property
    def is_done(self) -> bool:
        """Whether the text has an end, or as many tokens as it may have."""
        if self.search is not None:
            return self.search.is_done
        return self.is_ended or len(self.tokens) >= self.prepared.max_new_tokens

    def settle(self) -> None:
        """Take what the beam search has found to be the best so far."""
        if self.search is not None:
            best = self.search.best
            self.tokens, self.probabilities = [*best.tokens], [*best.probabilities]
            self.is_ended = best.is_ended

    @property
    def largest_length(self) -> int:
        """Tokens of the prompt and of the longest answer."""
        return len(self.prepared.prompt) + self.prepared.max_new_tokens


@dataclass
class Batch:
    """Sequences whose keys and values have the same length.

    Args:
        sequences: of each line; the lines of a row in a beam search follow each other.
        cache: keys and values of `mask`; None before the first step.
        mask: (lines, length) int64: 0 for padding on the left.
        waiting: (lines, tokens) int64: tokens that the model has not read yet, padded on the left.
        waiting_mask: (lines, tokens) int64.
    """

    sequences: list[Draft]
    cache: DynamicCache
    mask: Tensor
    waiting: Tensor
    waiting_mask: Tensor

    @property
    def is_begun(self) -> bool:
        """Whether each row has its first token."""
        return all(sequence.probabilities for sequence in self.sequences)

    def take_as_read(self, columns: int) -> None:
        """Note that the model has read the first columns of what waits."""
        self.mask = torch.cat([self.mask, self.waiting_mask[:, :columns]], dim=1)
        self.waiting, self.waiting_mask = self.waiting[:, columns:], self.waiting_mask[:, columns:]

    def undo(self) -> None:
        """Take what a failed step has left out of the cache, of which some layers may have read the new tokens."""
        for layer in self.cache.layers:
            excess = layer.get_seq_length() - self.mask.shape[1]
            if excess > 0:
                layer.crop(-excess)


def divided(batches: Sequence[Batch], parts: int) -> list[Batch]:
    """Return the rows of all batches in `parts` batches of about as many rows; in fewer, if there are fewer rows.

    Args:
        batches: each row of them has one token waiting, unless there is a single batch.
    """
    batches = sorted(batches, key=_size)
    while len(batches) > parts:
        batches = sorted([_merged(*batches[:2]), *batches[2:]], key=_size)
    while parts > 1 and batches:
        smallest = batches[0] if len(batches) == parts else None
        *others, largest = batches if smallest is None else batches[1:]
        size = _size(largest)
        first = size - (size - _size(smallest)) // 2
        if first == size:
            break
        rest, moved = _of_lines(largest, range(first)), _of_lines(largest, range(first, size))
        batches = sorted([*others, rest, moved if smallest is None else _merged(smallest, moved)], key=_size)
    return batches


def _size(batch: Batch | None) -> int:
    return 0 if batch is None else len(batch.sequences)


def _merged(first: Batch, second: Batch) -> Batch:
    """One batch of both, each of which has one token waiting for each row."""
    length = max(first.mask.shape[1], second.mask.shape[1])
    both = [
        tuple(
            torch.cat([pad(a, (0, 0, length - a.shape[2], 0)), pad(b, (0, 0, length - b.shape[2], 0))])
            for a, b in zip(layers[0], layers[1], strict=True)
        )
        for layers in zip(_layers(first.cache), _layers(second.cache), strict=True)
    ]
    masks = [pad(batch.mask, (length - batch.mask.shape[1], 0)) for batch in (first, second)]
    return Batch(
        [*first.sequences, *second.sequences],
        _cache(both),
        torch.cat(masks),
        torch.cat([first.waiting, second.waiting]),
        torch.cat([first.waiting_mask, second.waiting_mask]),
    )


def without(batch: Batch, rows: Sequence[Hashable]) -> Batch | None:
    """Return the batch without some rows; None if no row is left."""
    kept = [index for index, sequence in enumerate(batch.sequences) if sequence.row not in rows]
    if len(kept) == len(batch.sequences):
        return batch
    return _of_lines(batch, kept) if kept else None


def _of_lines(batch: Batch, lines: Sequence[int]) -> Batch:
    """Some lines of a batch, without columns that are padding in all of them."""
    kept = list(lines)
    mask, waiting_mask = batch.mask[kept], batch.waiting_mask[kept]
    is_used = torch.cat([mask, waiting_mask], dim=1).any(0)
    first = int(is_used.int().argmax())
    in_cache = min(first, mask.shape[1])
    return Batch(
        [batch.sequences[index] for index in kept],
        _cache([(keys[kept, :, in_cache:], values[kept, :, in_cache:]) for keys, values in _layers(batch.cache)]),
        mask[:, in_cache:],
        batch.waiting[kept, first - in_cache :],
        waiting_mask[:, first - in_cache :],
    )


def _layers(cache: DynamicCache) -> list[tuple[Tensor, Tensor]]:
    """Keys and values (rows, heads, length, dim) of each layer."""
    return [(layer.keys, layer.values) for layer in cache.layers]


def _cache(layers: Sequence[tuple[Tensor, ...]]) -> DynamicCache:
    cache = DynamicCache()
    for index, (keys, values) in enumerate(layers):
        cache.update(keys, values, index)
    return cache
