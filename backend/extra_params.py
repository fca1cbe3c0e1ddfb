"""Reads the extra params of an ML backend, which Label Studio sends with /setup.

Over the API they are any JSON. The form of Label Studio 1.23.2 has a text field for them, so what a person types
there arrives as a text that holds JSON: "{\\"train_after_annotations\\": 2}".
"""

import json
from typing import Any


def read_extra_params(value: Any) -> dict[str, Any] | None:
    """Return the extra params; None if the value is neither a JSON object nor a text of one."""
    if isinstance(value, str):
        try:
            value = json.loads(value, parse_constant=_refuse)
        except (ValueError, RecursionError):
            return None
    return value if isinstance(value, dict) else None


def _refuse(constant: str) -> None:
    """Python reads NaN and Infinity, which are no JSON and which PostgreSQL does not store."""
    raise ValueError(f"{constant} is no JSON")
