"""The `value` of an object tag and a task's data -> what the editor shows.

    value="$image"             data["image"], of any type
    value="$chat[0].text"      a part of data["chat"]
    value="$title by $author"  a text with parts of the data in it
    value="Read this."         the same in every task

It follows Label Studio 1.23.2's editor, also in what surprises: a variable is the longest run of
[A-Za-z0-9_[].{}] after a $, so the dot in "$title. $body" belongs to the name and is not shown, and what is
missing in a text is shown as "undefined" (`parseValue` in libs/editor/src/utils/data.js, `get` and `toPath` of
es-toolkit).
"""

import re
from typing import Any

from lorabel.media.javascript_text import as_text

VARIABLE = re.compile(r"\$[A-Za-z0-9_[\].{}]+")
# The value of a key that is not there.
UNDEFINED = object()


def has_variable(value: str) -> bool:
    """Whether what is shown depends on the task."""
    return VARIABLE.search(value) is not None


def shown_value(value: str, data: Any) -> Any:
    """What the editor shows of a task.

    Returns:
        A JSON value if `value` is a single variable, else a text. "" if the task has nothing of what is named;
        there the editor shows at most the text around it.
    """
    names = VARIABLE.findall(value)
    if not names:
        return value
    parts = {name: _get(data, name.removeprefix("$")) for name in names}
    if all(part is UNDEFINED or part is None for part in parts.values()):
        return ""
    if names[0] == value:
        return parts[value]
    return VARIABLE.sub(lambda match: _replaced(parts[match.group()]), value)


def value_at(data: Any, name: str) -> Any:
    """What a task's data has under a name or a path, such as `chat[0].text`; None if it has nothing there."""
    value = _get(data, name)
    return None if value is UNDEFINED else value


def _replaced(part: Any) -> str:
    return "undefined" if part is UNDEFINED else as_text(part)


def _get(data: Any, name: str) -> Any:
    """The key itself if the data has it, else the part that the path leads to."""
    if isinstance(data, dict) and name in data:
        return data[name]
    if not re.search(r"[.[\]]", name):
        return UNDEFINED
    for key in _path(name):
        data = _part(data, key)
    return data


def _part(data: Any, key: str) -> Any:
    if isinstance(data, dict):
        return data.get(key, UNDEFINED)
    is_index = isinstance(data, list | str) and key.isascii() and key.isdecimal() and str(int(key)) == key
    return data[int(key)] if is_index and int(key) < len(data) else UNDEFINED


def _path(name: str) -> list[str]:
    """The keys of a path: ["chat", "0", "text"] for "chat[0].text". Brackets that are not closed are ignored."""
    keys = [""] if name.startswith(".") else []
    key, is_in_brackets = "", False
    for char in name.removeprefix("."):
        if is_in_brackets and char != "]":
            key += char
        elif is_in_brackets:
            keys.append(key)
            key, is_in_brackets = "", False
        elif char in ".[":
            keys += [key] if key else []
            key, is_in_brackets = "", char == "["
        else:
            key += char
    return [*keys, key] if key else keys
