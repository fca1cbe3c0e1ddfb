"""JSON values as the text that Label Studio's editor shows for them.

    [0.10, 3.0, null, true]  ->  "0.1,3,,true"

The editor is JavaScript, so this is JavaScript's `String(value)` (ECMAScript 2024, 7.1.17 and 6.1.6.1.20).
"""

import math
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

OBJECT = "[object Object]"
# JavaScript writes numbers from 1e-6 to below 1e21 without an exponent.
SMALLEST_EXPONENT, LARGEST_EXPONENT = -6, 20


def as_text(value: Any) -> str:
    """JavaScript's `String(value)` for a value from JSON."""
    if isinstance(value, list):
        return ",".join("" if part is None else _scalar(part) for part in _flat(value))
    return _scalar(value)


def as_react_text(value: Any) -> str:
    """The text that React shows for `{value}` in an element: nothing for a boolean, null, or an object."""
    shown = (part for part in _flat(value) if isinstance(part, str | int | float) and not isinstance(part, bool))
    return "".join(_scalar(part) for part in shown)


def has_objects(value: Any) -> bool:
    """Whether a part of the text would be OBJECT, which says nothing."""
    return any(isinstance(part, dict) for part in _flat(value))


def _flat(value: Any) -> Iterator[Any]:
    """The parts of a list and of the lists in it, however deeply nested; null for an empty list."""
    parts = [value]
    while parts:
        part = parts.pop()
        if isinstance(part, list) and part:
            parts += reversed(part)
        else:
            yield None if part == [] else part


def _scalar(value: Any) -> str:
    if isinstance(value, str):
        return value
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    return _number(value) if isinstance(value, int | float) else OBJECT


def _number(value: float) -> str:
    try:
        number = float(value)
    except OverflowError:
        number = math.inf if value > 0 else -math.inf
    if math.isnan(number):
        return "NaN"
    if math.isinf(number):
        return "Infinity" if number > 0 else "-Infinity"
    if number == 0:
        return "0"
    # Python's repr has the same digits as JavaScript: the fewest that name this float64.
    decimal = Decimal(repr(number)).normalize()
    exponent = decimal.adjusted()
    if SMALLEST_EXPONENT <= exponent <= LARGEST_EXPONENT:
        return f"{decimal:f}"
    mantissa = decimal.scaleb(-exponent)
    return f"{mantissa:f}e{exponent:+d}"
