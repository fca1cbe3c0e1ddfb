"""Reads the media of a run's examples, some examples at a time, within limits of memory and time.

Each part of the examples is precomputed before the next is read. If no layer behind the media is trained, only
features stay in memory, which are much smaller than decoded files.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self

from lorabel.contracts import MediaRef
from lorabel.families.base import Family, Fetch
from lorabel.families.sizes import add_sizes
from lorabel.settings import Settings
from workers.examples import PreparedExample, TrainingExample, prepare

EXAMPLES_AT_A_TIME = 32

Precompute = Callable[[Sequence[PreparedExample]], list[PreparedExample]]


@dataclass(frozen=True)
class Limits:
    """What reading may take: bytes of the examples that are kept, and seconds."""

    max_bytes: float
    seconds: float

    @classmethod
    def of(cls, settings: Settings) -> Self:
        return cls(settings.train_memory_mb * 2**20, settings.train_read_s)

    def share(self, part: float) -> "Limits":
        """A part (0..1) of these limits."""
        return Limits(self.max_bytes * part, self.seconds * part)


@dataclass(frozen=True)
class Reading:
    """Examples that were read.

    Args:
        unreadable: annotation id -> reason.
        left: the annotations of examples that a limit has left for a later run.
    """

    prepared: list[PreparedExample]
    unreadable: dict[int, str]
    left: frozenset[int]


def read(
    examples: Sequence[TrainingExample],
    family: Family,
    resolve: Callable[[MediaRef], MediaRef],
    fetch: Fetch,
    precompute: Precompute,
    limits: Limits,
) -> Reading:
    """Read and precompute examples in their order until a limit is reached.

    At least the first EXAMPLES_AT_A_TIME examples are read, so that every run gets on.

    Args:
        resolve: media reference -> the reference to fetch it by.
        precompute: is called with some of the prepared examples at a time.
    """
    prepared: list[PreparedExample] = []
    unreadable: dict[int, str] = {}
    tensors: dict[int, int] = {}
    deadline = time.monotonic() + limits.seconds
    read_count = 0
    while read_count < len(examples):
        part = examples[read_count : read_count + EXAMPLES_AT_A_TIME]
        readable, reasons = prepare(part, family, resolve, fetch)
        precomputed = precompute(readable) if readable else []
        prepared += precomputed
        unreadable |= reasons
        read_count += len(part)
        for example in precomputed:
            add_sizes(example.model_input, tensors)
        if sum(tensors.values()) >= limits.max_bytes or time.monotonic() >= deadline:
            break
    left = (annotation_id for example in examples[read_count:] for annotation_id in example.annotation_ids)
    return Reading(prepared, unreadable, frozenset(left))
