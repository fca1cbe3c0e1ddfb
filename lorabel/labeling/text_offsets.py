"""A text as one flat string, and the offsets by which Label Studio's results name a part of it (1.23.2).

A model reads a flat string; a result names a place in what the editor shows:

    <Text>        {"start": 0, "end": 3}: code points
    <HyperText>   {"start": "/p[1]/text()[1]", "startOffset": 0, "end": "/p[1]/text()[1]", "endOffset": 3,
                   "globalOffsets": {"start": 0, "end": 3}}: the offsets are UTF-16 units in a text node, which the
                   XPath names; where the XPath names an element, its first text node is meant. `globalOffsets` are
                   code points of all text nodes together, in which a <br> counts one
    <Paragraphs>  {"start": "0", "startOffset": 0, "end": "1", "endOffset": 3}: UTF-16 units in a phrase, whose
                   number (from 0) is written as a string

Every end is exclusive.
"""

import re
import reprlib
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any
from xml.etree.ElementTree import Element

from lorabel.errors import MissingTargetError, UnreadableError
from lorabel.labeling.label_config import ObjectTag
from lorabel.media.html import Start, Text, parse_document, parse_fragment, walk
from lorabel.media.javascript_text import as_react_text, as_text, has_objects

TAGS = ("Text", "HyperText", "Paragraphs")
# The editor counts the characters of style sheets, but no annotator sees them.
STYLE = "style"
# Elements inside a line of text; any other begins a new line.
INLINE = frozenset(
    ("a", "abbr", "acronym", "b", "bdi", "bdo", "big", "cite", "code", "data", "del", "dfn", "em", "font", "i")
    + ("ins", "kbd", "label", "mark", "q", "s", "samp", "small", "span", "strike", "strong", "sub", "sup", "time")
    + ("tt", "u", "var", "wbr")
)

# All XPaths of a page together: a text that is nested 500 deep has one of 3,500 characters.
MOST_PATH_CHARACTERS = 10_000_000


class FlatText(ABC):
    """A text of a task, and the way between its characters and the offsets in results.

    `text` is what a model reads.
    """

    text: str

    @abstractmethod
    def value(self, start: int, end: int) -> dict[str, Any]:
        """What a result's value says of a span of the flat text: its offsets, and its `text`."""

    @abstractmethod
    def span(self, value: Mapping[str, Any]) -> tuple[int, int]:
        """The span of the flat text that a result's value names, the end exclusive.

        Raises:
            MissingTargetError: the text has no such place.
        """


@dataclass(frozen=True)
class PlainText(FlatText):
    """The text of a `<Text>`: its offsets are those of the flat text."""

    text: str

    def value(self, start: int, end: int) -> dict[str, Any]:
        return {"start": start, "end": end, "text": _on_one_line(self.text[start:end])}

    def span(self, value: Mapping[str, Any]) -> tuple[int, int]:
        start, end = value.get("start"), value.get("end")
        if not isinstance(start, int) or not isinstance(end, int):
            raise MissingTargetError(
                f"a span goes from {reprlib.repr(start)} to {reprlib.repr(end)}, expected numbers"
            )
        return _checked(start, end, len(self.text), value)


@dataclass(frozen=True)
class Piece:
    """A text node of a page, or a phrase of a dialogue.

    Args:
        path: how results name it: an XPath, or the phrase's number.
        start: offset of its first character in the flat text.
        global_offset: offset of its first character in `globalOffsets`; pages only.
    """

    path: str
    text: str
    start: int
    global_offset: int = 0

    @property
    def end(self) -> int:
        return self.start + len(self.text)


@dataclass(frozen=True)
class PiecedText(FlatText):
    """The text of a dialogue: pieces in order.

    Between pieces the flat text may have line ends that belong to no piece: they are there for the model alone.
    """

    text: str
    pieces: tuple[Piece, ...]

    def value(self, start: int, end: int) -> dict[str, Any]:
        first = next(piece for piece in self.pieces if piece.end > start)
        last = next(piece for piece in reversed(self.pieces) if piece.start < end)
        start_in_first = max(start - first.start, 0)
        end_in_last = min(end - last.start, len(last.text))
        return {
            "start": first.path,
            "end": last.path,
            "startOffset": utf16_length(first.text[:start_in_first]),
            "endOffset": utf16_length(last.text[:end_in_last]),
            **self._global_offsets(first.global_offset + start_in_first, last.global_offset + end_in_last),
            "text": self.text[first.start + start_in_first : last.start + end_in_last],
        }

    def span(self, value: Mapping[str, Any]) -> tuple[int, int]:
        start = self._offset(value, "start", "startOffset")
        end = self._offset(value, "end", "endOffset")
        if start is None or end is None:
            start, end = self._global_span(value)
        return _checked(start, end, len(self.text), value)

    def _offset(self, value: Mapping[str, Any], path_key: str, units_key: str) -> int | None:
        """The offset in the flat text of a span's start or end; None if no piece has that path or is that long."""
        path = str(value.get(path_key))
        pieces = (piece for piece in self.pieces if piece.path == path or piece.path.startswith(f"{path}/"))
        piece = next(pieces, None)
        units = value.get(units_key)
        if piece is None or not isinstance(units, int) or not 0 <= units <= utf16_length(piece.text):
            return None
        return piece.start + code_points(piece.text, units)

    def _global_offsets(self, start: int, end: int) -> dict[str, Any]:
        """What the result's value says of the span in `globalOffsets`; nothing for a dialogue."""
        return {}

    def _global_span(self, value: Mapping[str, Any]) -> tuple[int, int]:
        """The span that `globalOffsets` name; a dialogue has none."""
        raise MissingTargetError(f"a span is outside of the text: {_described(value)}")


@dataclass(frozen=True)
class Page(PiecedText):
    """The text of a `<HyperText>`: the pieces are its text nodes.

    Where the page has not the XPath of a result, its `globalOffsets` are used, as in the editor.
    """

    def _global_offsets(self, start: int, end: int) -> dict[str, Any]:
        return {"globalOffsets": {"start": start, "end": end}}

    def _global_span(self, value: Mapping[str, Any]) -> tuple[int, int]:
        offsets = value.get("globalOffsets")
        if not isinstance(offsets, Mapping):
            return super()._global_span(value)
        start, end = offsets.get("start"), offsets.get("end")
        if not self.pieces or not isinstance(start, int) or not isinstance(end, int):
            return super()._global_span(value)
        piece_offsets = [piece.global_offset for piece in self.pieces]
        first = self.pieces[max(bisect_right(piece_offsets, start) - 1, 0)]
        last = self.pieces[max(bisect_right(piece_offsets, end - 1) - 1, 0)]
        return first.start + start - first.global_offset, last.start + end - last.global_offset


def flat_text(tag: ObjectTag, data: Mapping[str, Any]) -> FlatText:
    """The text that the object tag shows of a task.

    Raises:
        UnreadableError: for good; the data has no text under the tag's key, or its page cannot be read.
    """
    value = tag.shown(data)
    if tag.tag == "Paragraphs":
        return _dialogue(tag, value)
    text = "" if has_objects(value) else as_text(value)
    if not text.strip():
        raise UnreadableError(_missing(tag, "text", value), is_permanent=True)
    if tag.tag == "HyperText":
        try:
            return _page(text, tag.attributes.get("inline", "false") == "true")
        except UnreadableError as error:
            raise UnreadableError(
                f"the page of {tag.name!r} cannot be read: {error}", is_permanent=error.is_permanent
            ) from error
    return PlainText(text)


def _on_one_line(text: str) -> str:
    """A result's `text` as the editor writes it: a line end is a backslash and an n."""
    return re.sub("[\n\r]", r"\\n", text)


def utf16_length(text: str) -> int:
    """JavaScript's `length`, in UTF-16 units: a character beyond the first plane (an emoji) counts two."""
    return len(text) + sum(char > "\uffff" for char in text)


def code_points(text: str, units: int) -> int:
    """How many characters the first `units` UTF-16 units are; a character that is cut counts."""
    for index, char in enumerate(text):
        if units <= 0:
            return index
        units -= 1 + (char > "\uffff")
    return len(text)


def _dialogue(tag: ObjectTag, phrases: Any) -> PiecedText:
    key = tag.attributes.get("textKey", "text")
    if not isinstance(phrases, list) or not phrases:
        raise UnreadableError(_missing(tag, "list of phrases", phrases), is_permanent=True)
    pieces: list[Piece] = []
    for number, phrase in enumerate(phrases):
        if not isinstance(phrase, dict):
            raise UnreadableError(_missing(tag, f"object as phrase {number}", phrase), is_permanent=True)
        text = as_react_text(phrase.get(key))
        pieces.append(Piece(str(number), text, pieces[-1].end + 1 if pieces else 0))
    if not any(piece.text.strip() for piece in pieces):
        raise UnreadableError(_missing(tag, f"text {key!r} in any phrase", phrases), is_permanent=True)
    return PiecedText("\n".join(piece.text for piece in pieces), tuple(pieces))


@lru_cache(maxsize=64)
def _page(html: str, is_inline: bool) -> Page:
    """Parse as the editor does: an inline page inside a <div>, any other page as a document."""
    body = parse_fragment(html) if is_inline else parse_document(html)
    if body is None:
        raise UnreadableError("the page is a frameset and has no text of its own", is_permanent=True)
    builder = _PageBuilder()
    builder.add_all(body)
    return Page("".join(builder.parts), tuple(builder.pieces))


class _PageBuilder:
    """Collects the flat text and the pieces of a page, and counts as the editor does (`domManager.ts`)."""

    def __init__(self) -> None:
        self.parts: list[str] = []
        self.pieces: list[Piece] = []
        self._length = 0
        self._global_offset = 0
        self._path_length = 0

    def add_all(self, body: Element) -> None:
        for node in walk(body):
            if isinstance(node, Text):
                self._add_text(node)
            elif node.name == "br":
                # A <br> is a Start and an End, and counts once.
                if isinstance(node, Start):
                    self._append("\n")
                    self._global_offset += 1
            elif node.name != STYLE and node.name not in INLINE:
                self._end_line()

    def _add_text(self, node: Text) -> None:
        self._path_length += len(node.path)
        if self._path_length > MOST_PATH_CHARACTERS:
            raise UnreadableError("the page has too many texts that are nested deeply", is_permanent=True)
        if node.parent != STYLE:
            self.pieces.append(Piece(node.path, node.text, self._length, self._global_offset))
            self._append(node.text)
        self._global_offset += len(node.text)

    def _end_line(self) -> None:
        if self.parts and not self.parts[-1].endswith("\n"):
            self._append("\n")

    def _append(self, text: str) -> None:
        self.parts.append(text)
        self._length += len(text)


def _checked(start: int, end: int, length: int, value: Mapping[str, Any]) -> tuple[int, int]:
    if not 0 <= start < end <= length:
        raise MissingTargetError(f"a span is outside of the text or empty: {_described(value)}")
    return start, end


def _described(value: Mapping[str, Any]) -> str:
    keys: Sequence[str] = ("start", "startOffset", "end", "endOffset", "globalOffsets")
    return ", ".join(f"{key} {reprlib.repr(value[key])}" for key in keys if key in value)


def _missing(tag: ObjectTag, expected: str, value: Any) -> str:
    return (
        f"task data has no {expected} under {tag.data_key!r} (found {reprlib.repr(value)}), "
        f"which the label config names for {tag.name!r}"
    )
