"""The text that a model reads, made from plain text, HTML, or the turns of a dialogue.

A `TextFormat` says which of them it is, both for texts in a task and for texts in a file (`valueType="url"`):
`<Paragraphs nameKey="who" textKey="said">` reads [{"who": "Ann", "said": "Hello."}] as "Ann: Hello.".
"""

import base64
import json
import reprlib
from collections.abc import Callable
from typing import Any

from lorabel.content_formats import TextFormat
from lorabel.errors import UnreadableError
from lorabel.media.html import read_html
from lorabel.media.javascript_text import as_react_text, as_text, has_objects


def read_text(value: Any, text_format: TextFormat) -> str:
    """The text of a value in a task's data.

    Raises:
        UnreadableError: for good; the value has another type than `text_format` says, or holds no text.
    """
    return _text(value, text_format, reprlib.repr)


def read_text_file(file: bytes, text_format: TextFormat) -> str:
    """The text of a file in UTF-8, with or without a byte order mark.

    Raises:
        UnreadableError: for good; the file is not UTF-8, not JSON where JSON is expected, or holds no text. The
            message quotes nothing of the file.
    """
    try:
        text = file.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UnreadableError(
            f"a text of {len(file)} bytes is not UTF-8: {error.reason} at byte {error.start}", is_permanent=True
        ) from error
    if text_format.markup != "paragraphs":
        return _text(text, text_format, _kind)
    try:
        turns = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UnreadableError(
            f"a text of {len(file)} bytes is not JSON ({type(error).__name__}), which a list of paragraphs is",
            is_permanent=True,
        ) from error
    return _text(turns, text_format, _kind)


def _kind(value: Any) -> str:
    """How messages name a value of a file: by its type alone."""
    return f"{len(value)} characters" if isinstance(value, str) else f"a {type(value).__name__}"


def _text(value: Any, text_format: TextFormat, describe: Callable[[Any], str]) -> str:
    if text_format.markup == "paragraphs":
        text = _dialogue(value, text_format, describe)
    elif value is None or has_objects(value):
        raise UnreadableError(f"found {describe(value)} where a text was expected", is_permanent=True)
    else:
        text = _decoded(as_text(value), text_format, describe)
        text = read_html(text).text if text_format.markup == "html" else text
    if not text.strip():
        raise UnreadableError(f"no text is in {describe(value)}", is_permanent=True)
    return text


def _dialogue(value: Any, text_format: TextFormat, describe: Callable[[Any], str]) -> str:
    if not isinstance(value, list) or not all(isinstance(turn, dict) for turn in value):
        raise UnreadableError(
            f"found {describe(value)} where a list of paragraphs was expected", is_permanent=True
        )
    keys = (text_format.name_key, text_format.text_key)
    turns = ([as_react_text(turn.get(key)) for key in keys] for turn in value)
    texts = [f"{name}: {text}" if name else text for name, text in turns if text.strip()]
    if value and not texts:
        raise UnreadableError(f"no paragraph has a text under {text_format.text_key!r}", is_permanent=True)
    return "\n".join(texts)


def _decoded(value: str, text_format: TextFormat, describe: Callable[[Any], str]) -> str:
    """Decode base64: in `base64` each byte is a character, as in JavaScript's `atob`; `base64unicode` is UTF-8."""
    if text_format.encoding == "none":
        return value
    try:
        return base64.b64decode("".join(value.split()), validate=True).decode(
            "latin-1" if text_format.encoding == "base64" else "utf-8"
        )
    except ValueError as error:  # binascii.Error and UnicodeDecodeError are ValueErrors, too
        raise UnreadableError(f"{describe(value)} is not {text_format.encoding}", is_permanent=True) from error
