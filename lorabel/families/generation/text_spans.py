"""Where spans of a text may begin and end, in bytes of UTF-8, and where the text has what is written so far."""

import unicodedata
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from lorabel.families.generation.vocabulary import LONGEST_TOKEN

# Joins two emoji into one.
JOINER = "\u200d"


@dataclass(frozen=True)
class Spans:
    """The places of a text where a span may begin and end: between characters that are seen as two, not at spaces.

    Args:
        text: of the context.
    """

    text: str

    def prepare(self) -> None:
        """Compute the places, which takes long for a long text."""
        _ = self.context, self.starts, self._start_set, self.ends

    @cached_property
    def context(self) -> bytes:
        """The text in UTF-8. Half characters (lone surrogates) become "?", as in prompts."""
        return self.text.encode(errors="replace")

    @cached_property
    def starts(self) -> list[int]:
        """Byte offsets at which a span may begin, ascending."""
        text, starts, offset = self.text, [], 0
        for index, character in enumerate(text):
            if not character.isspace() and not _is_joined(text, index):
                starts.append(offset)
            offset += len(character.encode(errors="replace"))
        return starts

    @cached_property
    def ends(self) -> frozenset[int]:
        """Byte offsets after the last byte at which a span may end."""
        text = self.text
        lengths = [0]
        for character in text:
            lengths.append(lengths[-1] + len(character.encode(errors="replace")))
        return frozenset(
            lengths[index]
            for index in range(1, len(text) + 1)
            if not text[index - 1].isspace() and (index == len(text) or not _is_joined(text, index))
        )

    def has_start(self, after: int) -> bool:
        """Whether a span may begin at a byte offset, or later."""
        return bisect_left(self.starts, after) < len(self.starts)

    def occurrences(self, span: bytes, after: int = 0) -> Iterator[int]:
        """Byte offsets after `after` at which a span that begins like this, with a byte at least, may begin."""
        offset = self.context.find(span, after) if span else -1
        while offset >= 0:
            if offset in self._start_set:
                yield offset
            offset = self.context.find(span, offset + 1)

    def rests(self, span: bytes, after: int = 0) -> Iterator[bytes]:
        """What comes after each occurrence of the beginning of a span."""
        for start in self.occurrences(span, after):
            end = start + len(span)
            if rest := self.context[end : end + LONGEST_TOKEN]:
                yield rest

    def place(self, span: bytes, after: int = 0) -> tuple[int, int] | None:
        """The first occurrence of a whole span as (start, end) in bytes; None if there is none."""
        for start in self.occurrences(span, after):
            if start + len(span) in self.ends:
                return start, start + len(span)
        return None

    def characters(self, place: tuple[int, int]) -> tuple[int, int]:
        """A place in bytes as one in characters (code points)."""
        start, end = (len(self.context[:offset].decode()) for offset in place)
        return start, end

    @cached_property
    def _start_set(self) -> frozenset[int]:
        return frozenset(self.starts)


def _is_joined(text: str, index: int) -> bool:
    """Whether a character is seen as one with that before it: an accent, a skin tone, a part of a family."""
    if index == 0:
        return False
    character = text[index]
    is_tone = "\U0001f3fb" <= character <= "\U0001f3ff"
    is_mark = unicodedata.category(character) in ("Mn", "Me", "Mc")
    return is_mark or is_tone or JOINER in (character, text[index - 1])
