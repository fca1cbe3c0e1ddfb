"""Bytes of prepared inputs, against sums by hand."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from lorabel.families.sizes import add_sizes, prepared_bytes


class Unsearched(Mapping[int, bytes]):
    """A mapping by number, such as a vocabulary of some ten thousand tokens, whose values are not looked at."""

    def __iter__(self) -> Iterator[int]:
        return iter([1])

    def __len__(self) -> int:
        return 1

    def __getitem__(self, key: int) -> bytes:
        raise AssertionError("its values are searched")


@dataclass(frozen=True)
class Prepared:
    text: str
    tensors: Any
    numbers: tuple[int, ...] = (1, 2, 3)
    vocabulary: Mapping[int, bytes] = field(default_factory=Unsearched)


def test_tensors_and_texts_are_counted_wherever_they_are_and_once_if_they_are_shared() -> None:
    shared = torch.zeros(10)
    first = Prepared("four", {"pixels": torch.zeros(3, 5, dtype=torch.uint8), "shared": shared})
    second = Prepared("sixsix", [shared, (torch.zeros(2), None)])
    assert prepared_bytes(first) == 4 + 15 + 40
    assert prepared_bytes(second) == 6 + 40 + 8
    sizes: dict[int, int] = {}
    for prepared in (first, second, first):
        add_sizes(prepared, sizes)
    assert sum(sizes.values()) == 4 + 15 + 40 + 6 + 8
    assert prepared_bytes(7) == 0
