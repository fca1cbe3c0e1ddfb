"""Fields of a task's data as texts, by which rules decide and figures are grouped."""

import math
from typing import Any

from lorabel.labeling.shown_value import value_at


def field_text(data: Any, name: str) -> str | None:
    """The value of a field as a text; None if the task has no such field, or a list or an object in it.

    Args:
        data: of the task, as decoded from JSON.
        name: of the field; `meta.country` for a field in a field, unless the data has a field of that name.
    """
    return as_field_text(value_at(data, name))


def as_field_text(value: Any) -> str | None:
    """A value as a text: `1` and `1.0` are the same, and the same as "1". None for what is no single value."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and math.isfinite(value) and value.is_integer():
        value = int(value)
    if isinstance(value, int | float):
        return str(value)
    return value.strip() if isinstance(value, str) else None
