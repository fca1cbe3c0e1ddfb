"""The text that a model reads, made from plain text, HTML, or the turns of a dialogue.

A `TextFormat` says which of them it is, both for texts in a task and for texts in a file (`valueType="url"`):
`<Paragraphs nameKey="who" textKey="said">` reads [{"who": "Ann", "said": "Hello."}] as "Ann: Hello.".
"""

import base64
import binascii
import json
from typing import Any

from lorabel.contracts import TextFormat
from lorabel.errors import UnreadableError
from lorabel.media.html import read_html


def read_text(value: Any, text_format: TextFormat) -> str:
    """The text of a value in a task's data.

    Raises:
        UnreadableError: for good; the value has another type than `text_format` says, or holds no text.
    """
    if text_format.markup == "paragraphs":
        text = _dialogue(value, text_format)
    elif isinstance(value, str):
        text = _decoded(value, text_format)
        text = read_html(text).text if text_format.markup == "html" else text
    else:
        raise UnreadableError(f"found {value!r} where a text was expected", is_permanent=True)
    if not text.strip():
        raise UnreadableError(f"no text is in {value!r}", is_permanent=True)
    return text


def read_text_file(file: bytes, text_format: TextFormat) -> str:
    """The text of a file in UTF-8, with or without a byte order mark.

    Raises:
        UnreadableError: for good; the file is not UTF-8, not JSON where JSON is expected, or holds no text.
    """
    try:
        text = file.decode("utf-8-sig")
        return read_text(json.loads(text) if text_format.markup == "paragraphs" else text, text_format)
    except ValueError as error:
        raise UnreadableError(
            f"a text of {len(file)} bytes that begins {file[:40]!r} cannot be read: {error}", is_permanent=True
        ) from error


def _dialogue(value: Any, text_format: TextFormat) -> str:
    if not isinstance(value, list) or not all(isinstance(turn, dict) for turn in value):
        raise UnreadableError(f"found {value!r} where a list of paragraphs was expected", is_permanent=True)
    turns_without_text = [turn for turn in value if not isinstance(turn.get(text_format.text_key), str)]
    if turns_without_text:
        raise UnreadableError(
            f"paragraph {turns_without_text[0]!r} has no text under {text_format.text_key!r}", is_permanent=True
        )
    return "\n".join(_turn(turn.get(text_format.name_key), turn[text_format.text_key]) for turn in value)


def _turn(name: Any, text: str) -> str:
    return text if name in (None, "") else f"{name}: {text}"


def _decoded(value: str, text_format: TextFormat) -> str:
    """Decode base64: in `base64` each byte is a character, as in JavaScript's `atob`; `base64unicode` is UTF-8."""
    if text_format.encoding == "none":
        return value
    try:
        return base64.b64decode("".join(value.split()), validate=True).decode(
            "latin-1" if text_format.encoding == "base64" else "utf-8"
        )
    except (binascii.Error, UnicodeDecodeError) as error:
        raise UnreadableError(
            f"{value[:40]!r} is not {text_format.encoding}: {error}", is_permanent=True
        ) from error
