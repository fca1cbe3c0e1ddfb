"""What a text says, whatever it is written in: plain, HTML, or the turns of a dialogue.

A `Layout` says in what, for texts that come as a file (`valueType="url"`) as for those in the task itself:
`<Paragraphs nameKey="who" textKey="said">` reads [{"who": "Ann", "said": "Hello."}] as "Ann: Hello.".
"""

import base64
import binascii
import json
import re
from html.parser import HTMLParser
from typing import Any

from lorabel.contracts import Layout
from lorabel.errors import UnreadableError

# Their content is not shown.
# Not the head: its end may be left out, and what is in it is hidden one by one.
HIDDEN = frozenset({"script", "style", "title", "template", "iframe"})
# Around others, words go on: "un<b>do</b>" is one.
BLOCKS = re.compile(
    "address|article|aside|blockquote|br|dd|div|dl|dt|fieldset|figcaption|figure|footer|form|h[1-6]|header|hr|li|main"
    "|nav|ol|option|p|pre|section|table|t[dhr]|ul"
)


def read_text(value: Any, layout: Layout) -> str:
    """The text of what stands in a task.

    Raises:
        UnreadableError: for good; it is something else, or says nothing.
    """
    if layout.markup == "paragraphs":
        text = _dialogue(value, layout)
    elif isinstance(value, str):
        text = _decoded(value, layout)
        text = html_text(text) if layout.markup == "html" else text
    else:
        raise UnreadableError(f"found {value!r} where a text was expected", is_permanent=True)
    if not text.strip():
        raise UnreadableError(f"no text is in {value!r}", is_permanent=True)
    return text


def read_text_file(file: bytes, layout: Layout) -> str:
    """The text of a file in UTF-8. Raises UnreadableError, for good."""
    try:
        text = file.decode("utf-8-sig")
        return read_text(json.loads(text) if layout.markup == "paragraphs" else text, layout)
    except ValueError as error:
        raise UnreadableError(
            f"a text of {len(file)} bytes that begins {file[:40]!r} cannot be read: {error}", is_permanent=True
        ) from error


def html_text(html: str) -> str:
    """What a browser shows as text: a line for each block, white space as one space."""
    parser = _Shown()
    parser.feed(html)
    parser.close()
    lines = (" ".join(line.split()) for line in "".join(parser.parts).split("\0"))
    return "\n".join(line for line in lines if line)


class _Shown(HTMLParser):
    """Collects text; a block begins and ends with a zero character, which HTML cannot hold."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.parts: list[str] = []
        self._hidden: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in HIDDEN:
            self._hidden.append(tag)
        self._end_block(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in self._hidden:
            del self._hidden[self._hidden.index(tag) :]
        self._end_block(tag)

    def handle_data(self, data: str) -> None:
        if not self._hidden:
            self.parts.append(data)

    def _end_block(self, tag: str) -> None:
        if BLOCKS.fullmatch(tag):
            self.parts.append("\0")


def _dialogue(value: Any, layout: Layout) -> str:
    if not isinstance(value, list) or not all(isinstance(turn, dict) for turn in value):
        raise UnreadableError(f"found {value!r} where a list of paragraphs was expected", is_permanent=True)
    lacking = [turn for turn in value if not isinstance(turn.get(layout.text_key), str)]
    if lacking:
        raise UnreadableError(f"paragraph {lacking[0]!r} has no text under {layout.text_key!r}", is_permanent=True)
    return "\n".join(_turn(turn.get(layout.name_key), turn[layout.text_key]) for turn in value)


def _turn(name: Any, text: str) -> str:
    return text if name in (None, "") else f"{name}: {text}"


def _decoded(value: str, layout: Layout) -> str:
    """As JavaScript's `atob` does, of which each byte is a character, or as UTF-8 for `base64unicode`."""
    if layout.encoding == "none":
        return value
    try:
        return base64.b64decode("".join(value.split()), validate=True).decode(
            "latin-1" if layout.encoding == "base64" else "utf-8"
        )
    except (binascii.Error, UnicodeDecodeError) as error:
        raise UnreadableError(f"{value[:40]!r} is not {layout.encoding}: {error}", is_permanent=True) from error
