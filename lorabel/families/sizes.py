"""Bytes that prepared inputs hold, whatever the family."""

from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from torch import Tensor


def prepared_bytes(prepared_input: Any) -> int:
    """Return the bytes of the tensors and texts in a prepared input."""
    sizes: dict[int, int] = {}
    add_sizes(prepared_input, sizes)
    return sum(sizes.values())


def add_sizes(value: Any, sizes: dict[int, int]) -> None:
    """Add the sizes in bytes of the tensors and texts in a value.

    Args:
        value: dataclasses, lists, tuples and mappings by name are searched; other things are not.
        sizes: by `id`, since inputs may share tensors, and what says which answers are allowed. What is in it is
            not searched again.
    """
    if id(value) in sizes:
        return
    children: Iterable[Any] = ()
    if isinstance(value, Tensor):
        sizes[id(value)] = value.nbytes
    elif isinstance(value, str | bytes):
        sizes[id(value)] = len(value)
    elif is_dataclass(value) and not isinstance(value, type):
        sizes[id(value)] = 0
        children = [getattr(value, column.name) for column in fields(value)]
    elif isinstance(value, Mapping) and isinstance(next(iter(value), None), str):
        children = value.values()
    elif isinstance(value, list | tuple) and value and not isinstance(value[0], int | float):
        children = value
    for child in children:
        add_sizes(child, sizes)
