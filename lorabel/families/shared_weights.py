"""Layers that share their weights, as the two towers of a sentence encoder do."""

from collections.abc import Iterable, Sequence
from typing import TypeVar

from torch import nn

L = TypeVar("L", bound=nn.Linear | nn.Conv2d)


def layers_by_weight(layers: Iterable[L]) -> Sequence[Sequence[L]]:
    """Return the layers in groups; those of a group have the same weights."""
    groups: dict[int, list[L]] = {}
    for layer in layers:
        groups.setdefault(id(layer.weight), []).append(layer)
    return list(groups.values())
