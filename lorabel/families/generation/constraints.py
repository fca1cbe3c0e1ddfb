"""Answers that may not be any text: a span of the task's text, spans with labels, a number.

A grammar says in bytes of UTF-8 how an answer may go on. The logits of all tokens that do not go on so are -inf,
and the probabilities are those of the tokens that are left. A grammar has no state: what was written says all, so
rows may join, leave, begin anew, or be several hypotheses of one row.

    context  Ada lives in London        written  "Lon"        may go on with "don", or end
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from lorabel.families.generation.text_spans import Spans
from lorabel.families.generation.vocabulary import LONGEST_TOKEN, Vocabulary

# Most digits of a number without bounds.
MOST_DIGITS = 12
# Digits that one token may have.
TOKEN_DIGITS = 3
BETWEEN, SPACE = b":", b" "


class AnySpan(NamedTuple):
    """A place in an answer where any span of a text may come next.

    `before`: what is written before the span. `after`: byte offset in the text at which the span may begin first.
    """

    before: bytes
    after: int


class Grammar(ABC):
    """The answers that are allowed.

    Attributes:
        before_spans: each `AnySpan.before` that `any_span` may return.
    """

    before_spans: ClassVar[tuple[bytes, ...]] = ()

    @property
    def spans(self) -> "Spans | None":
        """The spans of which any may come next at some places; None if there are no such places."""
        return None

    def any_span(self, written: bytes) -> AnySpan | None:
        """Return the place at which the answer is, if any span may come next there; else None."""
        return None

    @abstractmethod
    def continuations(self, written: bytes) -> Iterable[bytes]:
        """Return how the answer may go on where not any span may: beginnings of each possible rest, of at least
        one byte.

        They need not be longer than `LONGEST_TOKEN`.
        """

    @abstractmethod
    def may_end(self, written: bytes) -> bool:
        """Whether the answer may be what is written."""


@dataclass(frozen=True)
class Constraint:
    """A grammar for the tokens of a model."""

    grammar: Grammar
    vocabulary: Vocabulary

    def prepare(self) -> None:
        """Compute what takes long for a long text, so that `allowed` takes no time of the thread that writes."""
        self.vocabulary.prepare()
        if self.grammar.spans is not None:
            self.grammar.spans.prepare()
            _ = self._beginnings

    def allowed(self, tokens: Sequence[int], ends: Collection[int]) -> list[int]:
        """Return the tokens that may come next, at least one.

        Args:
            tokens: what was written so far.
            ends: the tokens that end an answer.
        """
        written = self.vocabulary.written(tokens)
        place = self.grammar.any_span(written)
        if place is None:
            allowed_tokens = list(self.vocabulary.beginnings(self.grammar.continuations(written)))
        else:
            allowed_tokens = self._beginnings[place.before].after(place.after)
        # Where the vocabulary lacks a byte, nothing goes on, and the answer is what there is.
        return sorted(
            {*allowed_tokens, *ends} if not allowed_tokens or self.grammar.may_end(written) else allowed_tokens
        )

    @cached_property
    def _beginnings(self) -> "dict[bytes, _Beginnings]":
        """The tokens with which any span may begin, by what is written before it."""
        spans, befores = self.grammar.spans, self.grammar.before_spans
        if spans is None:
            return {}
        return {before: _Beginnings.of(spans, before, self.vocabulary) for before in befores}


@dataclass(frozen=True)
class _Beginnings:
    """The tokens with which a span of a text may begin.

    Args:
        tokens: (tokens,) int32, in the order of `last`.
        last: (tokens,) int32: the last byte offset at which a span begins so, ascending.
    """

    tokens: Tensor
    last: Tensor

    @classmethod
    def of(cls, spans: "Spans", before: bytes, vocabulary: Vocabulary) -> "_Beginnings":
        last: dict[int, int] = {}
        for start in spans.starts:
            text = before + spans.context[start : start + LONGEST_TOKEN - len(before)]
            last |= dict.fromkeys(vocabulary.beginnings([text]), start)
        in_order = sorted(last, key=last.__getitem__)
        places = [last[token] for token in in_order]
        return cls(torch.tensor(in_order, dtype=torch.int32), torch.tensor(places, dtype=torch.int32))

    def after(self, offset: int) -> list[int]:
        """The tokens with which a span may begin at an offset, or later."""
        first = int(torch.searchsorted(self.last, offset)) if offset else 0
        tokens: list[int] = self.tokens[first:].tolist()
        return tokens


def constrained(
    logits: Tensor, rows: Sequence[tuple[Constraint | None, Sequence[int]]], ends: Collection[int]
) -> Tensor:
    """Return the logits with -inf for each token that may not come next.

    Args:
        logits: (rows, vocabulary).
        rows: of each row its constraint, if it has one, and the tokens that were written so far.
        ends: the tokens that end an answer.
    """
    if all(constraint is None for constraint, _ in rows):
        return logits
    limited = logits.clone()
    for index, (constraint, tokens) in enumerate(rows):
        if constraint is not None:
            allowed = torch.tensor(constraint.allowed(tokens, ends), device=logits.device)
            limited[index] = -torch.inf
            limited[index, allowed] = logits[index, allowed]
    return limited


@dataclass(frozen=True)
class SpanGrammar(Grammar):
    """An answer that is a span of a text, letter by letter."""

    before_spans: ClassVar[tuple[bytes, ...]] = (b"",)

    text: str

    @cached_property
    def spans(self) -> Spans:
        """The spans that may be named."""
        return Spans(self.text)

    def any_span(self, written: bytes) -> AnySpan | None:
        """Return the beginning."""
        return None if written else AnySpan(b"", 0)

    def continuations(self, written: bytes) -> Iterable[bytes]:
        """Return what follows each place where the text has what is written."""
        return self.spans.rests(written)

    def may_end(self, written: bytes) -> bool:
        """Whether what is written is a whole span."""
        return self.spans.place(written) is not None


@dataclass(frozen=True)
class LabelledSpansGrammar(Grammar):
    r"""An answer that lists spans with their labels, each on a line, in the order of the text; empty for none.

        Person: Ada
        City: London

    Line breaks of the text are spaces here. Spans do not overlap.

    Args:
        labels: without line breaks.
    """

    before_spans: ClassVar[tuple[bytes, ...]] = (b"", SPACE)

    text: str
    labels: tuple[str, ...]

    @cached_property
    def spans(self) -> Spans:
        """The spans that may be named."""
        return Spans(one_line(self.text))

    def any_span(self, written: bytes) -> AnySpan | None:
        """Return the place after a label, or after the space behind it."""
        *lines, line = written.split(b"\n")
        label = self._label_of(line)
        rest = None if label is None else line[len(label) + len(BETWEEN) :]
        return AnySpan(b"" if rest else SPACE, self._end_of(lines)) if rest in (b"", SPACE) else None

    def continuations(self, written: bytes) -> Iterable[bytes]:
        """Return the rest of a label, or of a span, or the next line."""
        *lines, line = written.split(b"\n")
        after = self._end_of(lines)
        label = self._label_of(line)
        if label is None:
            if self.spans.has_start(after):
                names = (name.encode() + BETWEEN for name in self.labels)
                yield from (name[len(line) :] for name in names if name.startswith(line))
            return
        span = line[len(label) + len(BETWEEN) + len(SPACE) :]
        yield from self.spans.rests(span, after)
        if self.spans.place(span, after) is not None:
            yield b"\n"

    def may_end(self, written: bytes) -> bool:
        """Whether nothing is written, or the last line has a whole span."""
        *lines, line = written.split(b"\n")
        label = self._label_of(line)
        if label is None:
            return not written
        return self.spans.place(line[len(label) + len(BETWEEN) + len(SPACE) :], self._end_of(lines)) is not None

    def read(self, written: bytes) -> list[tuple[int, int, int]]:
        """Return the spans that are written as (start, end, label), in characters. A line that was cut off is not
        a span if it ends where none can."""
        spans, after = [], 0
        for line in written.split(b"\n"):
            label = self._label_of(line)
            if label is None:
                continue
            place = self.spans.place(line[len(label) + len(BETWEEN) + len(SPACE) :].rstrip(), after)
            if place is not None:
                spans.append((*self.spans.characters(place), self.labels.index(label.decode())))
                after = place[1]
        return spans

    def _end_of(self, lines: Sequence[bytes]) -> int:
        """Byte offset after the last span of lines that are complete."""
        after = 0
        for line in lines:
            label = self._label_of(line)
            place = (
                None if label is None else self.spans.place(line[len(label) + len(BETWEEN) + len(SPACE) :], after)
            )
            after = after if place is None else place[1]
        return after

    def _label_of(self, line: bytes) -> bytes | None:
        """The label of a line, if it is there to its end. Of two that begin alike, the longer."""
        names = [name.encode() for name in self.labels if line.startswith(name.encode() + BETWEEN)]
        return max(names, key=len, default=None)


@dataclass(frozen=True)
class NumberGrammar(Grammar):
    """An answer that is a number in decimal digits, without an exponent.

    Args:
        minimum: the smallest number allowed, or None.
        maximum: the largest number allowed, or None.
        decimals: most digits after the point.
    """

    minimum: float | None
    maximum: float | None
    decimals: int

    def continuations(self, written: bytes) -> Iterable[bytes]:
        """Return the next digits with which a number in the bounds begins, up to as many as a token may have."""
        fitting = [written]
        for _ in range(TOKEN_DIGITS):
            fitting = [
                longer
                for each in fitting
                for sign in b"0123456789.-"
                if self._begins(longer := each + bytes([sign]))
            ]
            yield from (each[len(written) :] for each in fitting)

    def may_end(self, written: bytes) -> bool:
        """Whether what is written is a number in the bounds."""
        return self.read(written) is not None

    def read(self, written: bytes) -> float | None:
        """Return the number; None if what is written is none, or out of the bounds."""
        text = written.decode(errors="replace")
        match = re.fullmatch(r"-?(0|[1-9]\d*)(?:\.(\d+))?", text, re.ASCII)
        if match is None or len(match[2] or "") > self.decimals:
            return None
        value = float(text)
        is_low = self.minimum is not None and value < self.minimum
        return None if is_low or (self.maximum is not None and value > self.maximum) else value

    def _begins(self, written: bytes) -> bool:
        """Whether some number in the bounds begins so."""
        match = re.fullmatch(r"(-?)(|0|[1-9]\d*)(\.\d*)?", written.decode(), re.ASCII)
        if match is None:
            return False
        sign, whole, fraction = match.groups()
        if fraction is not None and (not whole or not self.decimals or len(fraction) - 1 > self.decimals):
            return False
        return any(self._overlaps(sign, low, high) for low, high in self._ranges(whole, fraction))

    def _ranges(self, whole: str, fraction: str | None) -> Iterator[tuple[float, float]]:
        """Ranges of absolute values with these first digits; a range has its ends only if they are equal."""
        finest = 10.0**-self.decimals
        if fraction is not None:
            value = float(f"{whole}{fraction}0")
            yield value, value + 10.0 ** -(len(fraction) - 1) - finest
            return
        if not whole:
            yield 0.0, 10.0**MOST_DIGITS
            return
        more = 0 if whole == "0" else MOST_DIGITS - len(whole)
        for digits in range(more + 1):
            yield int(whole) * 10.0**digits, (int(whole) + 1) * 10.0**digits - finest

    def _overlaps(self, sign: str, low: float, high: float) -> bool:
        low, high = (-high, -low) if sign else (low, high)
        # Decimal fractions are not exact in binary, so bounds that are met exactly need a little room.
        room = 10.0**-self.decimals / 4
        is_below = self.minimum is not None and high < self.minimum - room
        return not is_below and (self.maximum is None or low <= self.maximum + room)


def one_line(text: str) -> str:
    """The text with a space for each line break, so that offsets stay."""
    return re.sub(r"[\r\n]", " ", text)
