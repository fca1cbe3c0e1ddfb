"""Decoding in steps: rows with different adapters in one batch, which join and leave between steps.

It is greedy, or a beam search (`lorabel/families/generation/beams.py`): a row then has several lines in the batch.

Rows are padded on the left, so the last column is the newest token of each row. The prompts of rows that join are
computed by themselves, a part in each step, and then join the batch: a long prompt keeps nobody
waiting for longer than that. Keys and values lie in the cache classes of transformers.
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import DynamicCache

from lorabel.contracts import BatchAdapters, Contract
from lorabel.families.generation.beams import BeamSearch
from lorabel.families.generation.constraints import Constraint, constrained
from lorabel.families.generation.stepwise import Steps


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


@dataclass(frozen=True)
class Decoder:
    """A causal language model of transformers.

    Args:
        module: the model.
        ends: the tokens that end an answer.
        token_bytes: bytes of the keys and values of one token.
        memory_bytes: most bytes of the keys and values of all rows.
        step_tokens: tokens of prompts that one step computes, at most, except that it has one of each row.
        inputs: returns what the model reads beside tokens and mask: for prepared inputs, their mask (rows, length)
            int64, and the first column that is read now.
        beams: lines of a row in a beam search; 1 for greedy decoding.
    """

    module: Any
    device: torch.device
    ends: frozenset[int]
    token_bytes: int
    memory_bytes: int
    step_tokens: int
    inputs: Callable[[Sequence[Any], Tensor, int], Mapping[str, Any]]
    beams: int = 1


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
class _Batch:
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


class Decoding(Steps):
    """Rows that are written together; see `Steps`.

    Args:
        output: makes the output of a row.
    """

    def __init__(self, decoder: Decoder, bank: BatchAdapters, output: Callable[[Draft], Contract]) -> None:
        self._decoder, self._bank, self._output = decoder, bank, output
        self._sequences: dict[Hashable, Draft] = {}
        self._new: list[Draft] = []
        self._joining: _Batch | None = None
        self._running: _Batch | None = None

    @property
    def rows(self) -> Sequence[Hashable]:
        """The rows that are in; see `Steps.rows`."""
        return tuple(self._sequences)

    def has_room(self, prepared_input: Prompted) -> bool:
        """Whether keys and values of all rows would fit, padded to the longest that they can become."""
        return not self._sequences or self.most_bytes(prepared_input) <= self._decoder.memory_bytes

    def most_bytes(self, *more: Prompted) -> int:
        """Return the most bytes that the keys and values of all rows and some more can take."""
        lengths = [sequence.largest_length for sequence in self._sequences.values()]
        lengths += [len(prepared.prompt) + prepared.max_new_tokens for prepared in more]
        return len(lengths) * self._decoder.beams * max(lengths, default=0) * self._decoder.token_bytes

    def begin(self, row: Hashable, prepared_input: Prompted, adapter: str | None) -> None:
        """Let a row join; see `Steps.begin`."""
        decoder, search = self._decoder, None
        if decoder.beams > 1:
            search = BeamSearch(decoder.beams, prepared_input.max_new_tokens, decoder.ends)
        self._sequences[row] = sequence = Draft(row, prepared_input, adapter, search=search)
        self._new.append(sequence)

    @torch.inference_mode()
    def step(self) -> Sequence[Hashable]:
        """Read the next part of the prompts of rows that join; if none joins, write a token of each row."""
        if self._joining is not None and self._joining.is_begun:
            joined = self._joining if self._running is None else _merged(self._running, self._joining)
            self._running, self._joining = joined, None
        if self._joining is None and self._new:
            self._joining, self._new = self._prompts(self._new), []
        batch = self._joining or self._running
        if batch is None:
            return ()
        columns = max(1, self._decoder.step_tokens // len(batch.sequences))
        logits = self._forward(batch, columns)
        if logits is None:
            return ()
        append = self._append if self._decoder.beams == 1 else self._append_to_lines
        done = append(batch, logits)
        self._take_out(done)
        return done

    def finish(self, row: Hashable) -> Contract:
        """Return what a row has written, which leaves; see `Steps.finish`."""
        self._sequences[row].settle()
        output = self._output(self._sequences[row])
        self.leave(row)
        return output

    @torch.inference_mode()
    def leave(self, row: Hashable) -> None:
        """Let a row leave; see `Steps.leave`."""
        self._take_out([row])
        del self._sequences[row]

    def _take_out(self, rows: Sequence[Hashable]) -> None:
        """Take rows out of the batch that each is in, if it is still in one."""
        self._new = [sequence for sequence in self._new if sequence.row not in rows]
        self._joining, self._running = _without(self._joining, rows), _without(self._running, rows)

    def _prompts(self, sequences: list[Draft]) -> _Batch:
        """A batch of rows of which nothing is computed yet."""
        longest = max(len(sequence.prepared.prompt) for sequence in sequences)
        paddings = [longest - len(sequence.prepared.prompt) for sequence in sequences]
        tokens = [[0] * n + [*s.prepared.prompt] for n, s in zip(paddings, sequences, strict=True)]
        mask = [[0] * n + [1] * (longest - n) for n in paddings]
        waiting = torch.tensor(tokens, device=self._decoder.device)
        waiting_mask = torch.tensor(mask, device=self._decoder.device)
        return _Batch(sequences, DynamicCache(), waiting[:, :0], waiting, waiting_mask)

    def _forward(self, batch: _Batch, columns: int) -> Tensor | None:
        """Read the next tokens that wait.

        Returns:
            The logits after the last token: (rows, vocabulary) float32; None while other tokens wait.
        """
        length, module = batch.mask.shape[1], self._decoder.module
        is_last = columns >= batch.waiting.shape[1]
        # The last layer is as wide as the vocabulary, so it is left out where nobody needs its logits.
        model, logits_only = (module, {"logits_to_keep": 1}) if is_last else (module.base_model, {})
        new_mask = batch.waiting_mask[:, :columns]
        mask = torch.cat([batch.mask, new_mask], dim=1)
        inputs = self._decoder.inputs([sequence.prepared for sequence in batch.sequences], mask, length)
        try:
            with self._bank.use([sequence.adapter for sequence in batch.sequences]):
                output = model(
                    input_ids=batch.waiting[:, :columns],
                    attention_mask=mask,
                    past_key_values=batch.cache,
                    use_cache=True,
                    **inputs,
                    **logits_only,
                )
        except Exception:
            _cut(batch.cache, length)
            raise
        batch.mask = mask
        batch.waiting, batch.waiting_mask = batch.waiting[:, columns:], batch.waiting_mask[:, columns:]
        return output.logits[:, -1].float() if is_last else None

    def _append(self, batch: _Batch, logits: Tensor) -> list[Hashable]:
        """Append the likeliest token to each row. Returns the rows that are done."""
        rows = [(sequence.prepared.constraint, sequence.tokens) for sequence in batch.sequences]
        logits = constrained(logits, rows, self._decoder.ends)
        values, tokens = logits.max(-1)
        probabilities = (values - logits.logsumexp(-1)).exp().tolist()
        for sequence, token, probability in zip(batch.sequences, tokens.tolist(), probabilities, strict=True):
            sequence.probabilities.append(probability)
            if token in self._decoder.ends:
                sequence.is_ended = True
            else:
                sequence.tokens.append(token)
        batch.waiting = tokens[:, None]
        batch.waiting_mask = torch.ones_like(batch.waiting)
        return [sequence.row for sequence in batch.sequences if sequence.is_done]

    def _append_to_lines(self, batch: _Batch, logits: Tensor) -> list[Hashable]:
        """Append a token to the lines of each row, as its beam search chooses. Returns the rows that are done."""
        lines = [
            (sequence.prepared.constraint, line.tokens)
            for sequence in dict.fromkeys(batch.sequences)
            for line in cast(BeamSearch, sequence.search).lines
        ]
        log_probabilities = constrained(logits, lines, self._decoder.ends).log_softmax(-1)
        sequences: list[Draft] = []
        order: list[int] = []
        tokens: list[int] = []
        first = 0
        for sequence in dict.fromkeys(batch.sequences):
            search = cast(BeamSearch, sequence.search)
            after = first + len(search.lines)
            origins = search.advance(log_probabilities[first:after])
            # A row that is done keeps one line until it is taken out.
            order += [first + origin for origin in origins] or [first]
            tokens += [line.tokens[-1] for line in search.lines[: len(origins)]] or [0]
            sequences += [sequence] * max(1, len(origins))
            sequence.settle()
            first = after
        if order != list(range(len(batch.sequences))):
            index = torch.tensor(order, device=self._decoder.device)
            batch.cache.reorder_cache(index)
            batch.mask = batch.mask[index]
        batch.sequences = sequences
        batch.waiting = torch.tensor(tokens, device=self._decoder.device)[:, None]
        batch.waiting_mask = torch.ones_like(batch.waiting)
        return [sequence.row for sequence in dict.fromkeys(sequences) if sequence.is_done]


def _cut(cache: DynamicCache, length: int) -> None:
    """Take what a failed step has left out of the cache, of which some layers may have read the new tokens."""
    for layer in cache.layers:
        excess = layer.get_seq_length() - length
        if excess > 0:
            layer.crop(-excess)


def _merged(first: _Batch, second: _Batch) -> _Batch:
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
    return _Batch(
        [*first.sequences, *second.sequences],
        _cache(both),
        torch.cat(masks),
        torch.cat([first.waiting, second.waiting]),
        torch.cat([first.waiting_mask, second.waiting_mask]),
    )


def _without(batch: _Batch | None, rows: Sequence[Hashable]) -> _Batch | None:
    """The batch without some rows, and without columns that are padding in all others; None if no row is left."""
    if batch is None:
        return None
    kept = [index for index, sequence in enumerate(batch.sequences) if sequence.row not in rows]
    if len(kept) == len(batch.sequences):
        return batch
    if not kept:
        return None
    mask, waiting_mask = batch.mask[kept], batch.waiting_mask[kept]
    is_used = torch.cat([mask, waiting_mask], dim=1).any(0)
    first = int(is_used.int().argmax())
    in_cache = min(first, mask.shape[1])
    return _Batch(
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
