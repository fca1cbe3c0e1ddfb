"""Where a text's characters stand on Label Studio's screen, and how its results say so (Label Studio 1.23.2).

A family reads one flat string; a result names a place of what the editor shows:

    <Text>        {"start": 0, "end": 3}: characters, as code points
    <HyperText>   {"start": "/p[1]/text()[1]", "startOffset": 0, "end": ..., "endOffset": 3,
                   "globalOffsets": {"start": 0, "end": 3}}: UTF-16 units inside a text node of the page (or
                   inside the first one of an element), and
                   code points of all text nodes together, where a <br> counts one
    <Paragraphs>  {"start": "0", "startOffset": 0, "end": "1", "endOffset": 3}: UTF-16 units inside a phrase

Every end is exclusive.
"""

import re
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any
from xml.etree.ElementTree import Element

import html5lib

from lorabel.errors import MissingTargetError, UnreadableError
from lorabel.labeling.label_config import ObjectTag

TAGS = ("Text", "HyperText", "Paragraphs")
# What Label Studio's sanitizer leaves nothing of.
SANITIZED = ("script", "iframe")
# Has text that the editor counts and nobody reads.
UNREAD = "style"
# Elements inside a line of text; any other begins a new one.
INLINE = frozenset(
    ("a", "abbr", "acronym", "b", "bdi", "bdo", "big", "cite", "code", "data", "del", "dfn", "em", "font", "i")
    + ("ins", "kbd", "label", "mark", "q", "s", "samp", "small", "span", "strike", "strong", "sub", "sup", "time")
    + ("tt", "u", "var", "wbr")
)


class FlatText(ABC):
    """`text` is what a family reads."""

    text: str

    @abstractmethod
    def value(self, start: int, end: int) -> dict[str, Any]:
        """A span of the flat text as a result's value names it, with its `text`."""

    @abstractmethod
    def span(self, value: Mapping[str, Any]) -> tuple[int, int]:
        """The span of the flat text that a result's value names.

        Raises:
            MissingTargetError: there is no such place in the text.
        """


@dataclass(frozen=True)
class PlainText(FlatText):
    text: str

    def value(self, start: int, end: int) -> dict[str, Any]:
        return {"start": start, "end": end, "text": _on_one_line(self.text[start:end])}

    def span(self, value: Mapping[str, Any]) -> tuple[int, int]:
        start, end = value.get("start"), value.get("end")
        if not isinstance(start, int) or not isinstance(end, int):
            raise MissingTargetError(f"a span goes from {start!r} to {end!r}, expected numbers")
        return _checked(start, end, len(self.text), value)


@dataclass(frozen=True)
class Piece:
    """A text node of a page, or a phrase.

    Args:
        start: its place in the flat text.
        counted: its place in the editor's count.
    """

    path: str
    text: str
    start: int
    counted: int = 0

    @property
    def end(self) -> int:
        return self.start + len(self.text)


@dataclass(frozen=True)
class PiecedText(FlatText):
    """Pieces in order; between them may stand line ends that the flat text has for its reader alone."""

    text: str
    pieces: tuple[Piece, ...]

    def value(self, start: int, end: int) -> dict[str, Any]:
        first = next(piece for piece in self.pieces if piece.end > start)
        last = next(piece for piece in reversed(self.pieces) if piece.start < end)
        begins, ends = max(start - first.start, 0), min(end - last.start, len(last.text))
        return {
            "start": first.path,
            "end": last.path,
            "startOffset": utf16_length(first.text[:begins]),
            "endOffset": utf16_length(last.text[:ends]),
            **self._counted(first.counted + begins, last.counted + ends),
            "text": self.text[first.start + begins : last.start + ends],
        }

    def span(self, value: Mapping[str, Any]) -> tuple[int, int]:
        start = self._place(value, "start", "startOffset")
        end = self._place(value, "end", "endOffset")
        if start is None or end is None:
            start, end = self._uncounted(value)
        return _checked(start, end, len(self.text), value)

    def _place(self, value: Mapping[str, Any], path: str, offset: str) -> int | None:
        wanted = str(value.get(path))
        named = next((one for one in self.pieces if one.path == wanted or one.path.startswith(f"{wanted}/")), None)
        units = value.get(offset)
        if named is None or not isinstance(units, int) or not 0 <= units <= utf16_length(named.text):
            return None
        return named.start + code_points(named.text, units)

    def _counted(self, start: int, end: int) -> dict[str, Any]:
        return {}

    def _uncounted(self, value: Mapping[str, Any]) -> tuple[int, int]:
        raise MissingTargetError(f"a span is outside of the text: {_described(value)}")


@dataclass(frozen=True)
class Page(PiecedText):
    """Where a result's XPath is not in the page, `globalOffsets` count, as in the editor."""

    def _counted(self, start: int, end: int) -> dict[str, Any]:
        return {"globalOffsets": {"start": start, "end": end}}

    def _uncounted(self, value: Mapping[str, Any]) -> tuple[int, int]:
        found = value.get("globalOffsets") or {}
        start, end = found.get("start"), found.get("end")
        if not self.pieces or not isinstance(start, int) or not isinstance(end, int):
            return super()._uncounted(value)
        counted = [piece.counted for piece in self.pieces]
        first = self.pieces[max(bisect_right(counted, start) - 1, 0)]
        last = self.pieces[max(bisect_right(counted, end - 1) - 1, 0)]
        return first.start + start - first.counted, last.start + end - last.counted


def flat_text(tag: ObjectTag, data: Mapping[str, Any]) -> FlatText:
    """What the object tag shows of a task.

    Raises:
        UnreadableError: for good; the data lacks it.
    """
    value = data.get(tag.data_key)
    if tag.tag == "Paragraphs":
        return _dialogue(tag, value)
    if not isinstance(value, str) or not value:
        raise UnreadableError(_missing(tag, "text", value), is_permanent=True)
    if tag.tag == "HyperText":
        try:
            return _page(value, tag.attributes.get("inline", "false") == "true")
        except RecursionError as error:
            raise UnreadableError(f"the page of {tag.name!r} is nested too deep", is_permanent=True) from error
    return PlainText(value)


def _on_one_line(text: str) -> str:
    """As the editor writes a result's text."""
    return re.sub("[\n\r]", r"\\n", text)


def utf16_length(text: str) -> int:
    """JavaScript's `length`: a character beyond the first plane (an emoji) counts two."""
    return len(text) + sum(char > "\uffff" for char in text)


def code_points(text: str, units: int) -> int:
    """How many characters the first `units` UTF-16 units are; one that is cut counts."""
    for place, char in enumerate(text):
        if units <= 0:
            return place
        units -= 1 + (char > "\uffff")
    return len(text)


def _dialogue(tag: ObjectTag, phrases: Any) -> PiecedText:
    key = tag.attributes.get("textKey", tag.attributes.get("textkey", "text"))
    if not isinstance(phrases, list) or not phrases:
        raise UnreadableError(_missing(tag, "list of phrases", phrases), is_permanent=True)
    pieces: list[Piece] = []
    for number, phrase in enumerate(phrases):
        text = phrase.get(key) if isinstance(phrase, dict) else None
        if not isinstance(text, str):
            raise UnreadableError(_missing(tag, f"text {key!r} in phrase {number}", phrase), is_permanent=True)
        pieces.append(Piece(str(number), text, pieces[-1].end + 1 if pieces else 0))
    return PiecedText("\n".join(piece.text for piece in pieces), tuple(pieces))


@lru_cache(maxsize=64)
def _page(html: str, is_inline: bool) -> Page:
    """As a browser parses it: an inline page inside a <div> of the editor's, any other as a document."""
    if is_inline:
        root = html5lib.parseFragment(html, container="div", namespaceHTMLElements=False)
    else:
        document = html5lib.parse(f"<!DOCTYPE html>{html}", namespaceHTMLElements=False)
        root = document.find("body")
        if root is None:
            raise UnreadableError("the page is a frameset and has no text of its own", is_permanent=True)
    page = _Walk()
    page.enter(root, "")
    return Page("".join(page.parts), tuple(page.pieces))


class _Walk:
    """Through a page in the order of its text, as the editor's own (`domManager.ts`)."""

    def __init__(self) -> None:
        self.parts: list[str] = []
        self.pieces: list[Piece] = []
        self._length = 0
        self._counted = 0

    def enter(self, element: Element, path: str) -> None:
        """Paths count each kind of node among its siblings, from 1; comments and what is left out are none, and
        the texts around them are one."""
        numbers: dict[str, int] = {}
        text = element.text or ""
        for child in element:
            if isinstance(child.tag, str) and child.tag not in SANITIZED:
                self._add(text, path, numbers)
                text = ""
                name = child.tag.lower()
                numbers[name] = numbers.get(name, 0) + 1
                self._step(child, name, f"{path}/{name}[{numbers[name]}]")
            text += child.tail or ""
        self._add(text, path, numbers)

    def _step(self, child: Element, name: str, path: str) -> None:
        if name == "br":
            self._append("\n")
            self._counted += 1
            return
        if name == UNREAD:
            self._counted += len(child.text or "")
            return
        if name not in INLINE:
            self._end_line()
        self.enter(child, path)
        if name not in INLINE:
            self._end_line()

    def _add(self, text: str, path: str, numbers: dict[str, int]) -> None:
        if text:
            numbers["text()"] = numbers.get("text()", 0) + 1
            place = f"{path}/text()[{numbers['text()']}]"
            self.pieces.append(Piece(place, text, self._length, self._counted))
            self._append(text)
            self._counted += len(text)

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
    kept: Sequence[str] = ("start", "startOffset", "end", "endOffset", "globalOffsets")
    return ", ".join(f"{key} {value[key]!r}" for key in kept if key in value)


def _missing(tag: ObjectTag, wanted: str, found: Any) -> str:
    return (
        f"task data has no {wanted} under {tag.data_key!r} (found {found!r}), "
        f"which the label config names for {tag.name!r}"
    )
