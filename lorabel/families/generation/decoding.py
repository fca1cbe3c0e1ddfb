"""Decoding in steps: rows with different adapters in one batch, which join and leave between steps.

It is greedy, or a beam search (`lorabel/families/generation/beams.py`): a row then has several lines in the batch.

The prompts of rows that join are computed by themselves, a part in each step, and then join the batch: a long
prompt keeps nobody waiting for longer than that. The rows may be divided into several such batches.
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor
from transformers import DynamicCache

from lorabel.contracts import BatchAdapters, Contract
from lorabel.families.core_threads import all_at_once
from lorabel.families.generation.beams import BeamSearch
from lorabel.families.generation.constraints import constrained
from lorabel.families.generation.drafts import Batch, Draft, Prompted, divided, without
from lorabel.families.generation.stepwise import Steps


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
        parts: batches into which the rows are divided; on a CPU each is computed on cores of its own.
    """

    module: Any
    device: torch.device
    ends: frozenset[int]
    token_bytes: int
    memory_bytes: int
    step_tokens: int
    inputs: Callable[[Sequence[Any], Tensor, int], Mapping[str, Any]]
    beams: int = 1
    parts: int = 1


class Decoding(Steps):
    """Rows that are written together; see `Steps`.

    Args:
        output: makes the output of a row.
    """

    def __init__(self, decoder: Decoder, bank: BatchAdapters, output: Callable[[Draft], Contract]) -> None:
        self._decoder, self._bank, self._output = decoder, bank, output
        self._sequences: dict[Hashable, Draft] = {}
        self._new: list[Draft] = []
        self._joining: list[Batch] = []
        self._running: list[Batch] = []

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
        if self._joining and all(batch.is_begun for batch in self._joining):
            self._running = divided([*self._running, *self._joining], self._decoder.parts)
            self._joining = []
        if not self._joining and self._new:
            self._joining, self._new = divided([self._prompts(self._new)], self._decoder.parts), []
        batches = [batch for batch in self._joining if not batch.is_begun] or self._running
        if not batches:
            return ()
        columns = max(1, self._decoder.step_tokens // sum(len(batch.sequences) for batch in batches))
        append = self._append if self._decoder.beams == 1 else self._append_to_lines
        done: list[Hashable] = []
        for batch, logits in zip(batches, self._read(batches, columns), strict=True):
            if logits is not None:
                done += append(batch, logits)
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
        self._joining = [rest for batch in self._joining if (rest := without(batch, rows)) is not None]
        self._running = [rest for batch in self._running if (rest := without(batch, rows)) is not None]
        self._running = divided(self._running, self._decoder.parts)

    def _prompts(self, sequences: list[Draft]) -> Batch:
        """A batch of rows of which nothing is computed yet."""
        longest = max(len(sequence.prepared.prompt) for sequence in sequences)
        paddings = [longest - len(sequence.prepared.prompt) for sequence in sequences]
        tokens = [[0] * n + [*s.prepared.prompt] for n, s in zip(paddings, sequences, strict=True)]
        mask = [[0] * n + [1] * (longest - n) for n in paddings]
        waiting = torch.tensor(tokens, device=self._decoder.device)
        waiting_mask = torch.tensor(mask, device=self._decoder.device)
        return Batch(sequences, DynamicCache(), waiting[:, :0], waiting, waiting_mask)

    def _read(self, batches: list[Batch], columns: int) -> list[Tensor | None]:
        """Read the next tokens that wait, of all batches at once.

        Returns:
            For each batch the logits after the last token: (rows, vocabulary) float32; None while others wait.
        """
        adapters = [sequence.adapter for batch in batches for sequence in batch.sequences]
        forward = partial(self._forward, columns=columns, has_several_adapters=len(set(adapters)) > 1)
        try:
            with self._bank.use(adapters):
                logits = all_at_once(forward, batches, self._decoder.device)
        except Exception:
            for batch in batches:
                batch.undo()
            raise
        for batch in batches:
            batch.take_as_read(columns)
        return logits

    def _forward(self, batch: Batch, columns: int, has_several_adapters: bool) -> Tensor | None:
        module = self._decoder.module
        is_last = columns >= batch.waiting.shape[1]
        # The last layer is as wide as the vocabulary, so it is left out where nobody needs its logits.
        model, logits_only = (module, {"logits_to_keep": 1}) if is_last else (module.base_model, {})
        mask = torch.cat([batch.mask, batch.waiting_mask[:, :columns]], dim=1)
        prepared = [sequence.prepared for sequence in batch.sequences]
        inputs = self._decoder.inputs(prepared, mask, batch.mask.shape[1])
        adapters = [sequence.adapter for sequence in batch.sequences]
        # Adapters go by the place of a row: in all batches together, or in this one.
        with self._bank.use(adapters) if has_several_adapters else nullcontext():
            output = model(
                input_ids=batch.waiting[:, :columns],
                attention_mask=mask,
                past_key_values=batch.cache,
                use_cache=True,
                **inputs,
                **logits_only,
            )
        return output.logits[:, -1].float() if is_last else None

    def _append(self, batch: Batch, logits: Tensor) -> list[Hashable]:
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

    def _append_to_lines(self, batch: Batch, logits: Tensor) -> list[Hashable]:
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
