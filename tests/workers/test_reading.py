"""Reading the media of examples, within limits."""

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import pytest
import torch

from lorabel.contracts import LabelTarget
from lorabel.errors import UnreadableError
from lorabel.families.base import Family
from tests.questions import about_picture
from workers.examples import PreparedExample, TrainingExample
from workers.reading import EXAMPLES_AT_A_TIME, Limits, Reading, read

MB = 2**20
WIDE = Limits(1e12, 1e6)
LABELS = ("a", "b")
EXAMPLES = [
    TrainingExample((i,), i, about_picture(f"http://pictures.test/{i}.png", LABELS), LabelTarget((0,)), 0, True)
    for i in range(200)
]


@dataclass(frozen=True)
class Decoded:
    """A prepared input of 1 MB."""

    pixels: torch.Tensor


class SlowFamily:
    """Fakes a family: a family of ours needs files to take much time or memory."""

    def __init__(self, seconds: float = 0.0, broken: Sequence[int] = ()) -> None:
        self._seconds, self._broken = seconds, {f"http://pictures.test/{i}.png" for i in broken}
        self.decoded = 0
        self._lock = threading.Lock()

    def prepare(self, question: Any, fetch: Any) -> Decoded:
        time.sleep(self._seconds)
        if question.contents[0].media.url in self._broken:
            raise UnreadableError("broken", is_permanent=True)
        with self._lock:
            self.decoded += 1
        return Decoded(torch.zeros(MB, dtype=torch.uint8))


def read_all(family: SlowFamily, limits: Limits, is_shrunk: bool = False) -> Reading:
    """Read EXAMPLES; if `is_shrunk`, they are precomputed into a feature of 4 bytes."""

    def precompute(prepared: Sequence[PreparedExample]) -> list[PreparedExample]:
        if not is_shrunk:
            return list(prepared)
        return [PreparedExample(example.training_example, torch.zeros(1)) for example in prepared]

    return read(EXAMPLES, cast(Family, family), lambda media: media, lambda media: b"", precompute, limits)


def test_all_examples_are_read_in_order_within_wide_limits() -> None:
    reading = read_all(SlowFamily(broken=[3, 150]), WIDE)
    assert [example.training_example.task_id for example in reading.prepared] == [
        i for i in range(200) if i not in (3, 150)
    ]
    assert list(reading.unreadable) == [3, 150]
    assert reading.left == frozenset()


def test_reading_stops_when_the_examples_have_the_memory_and_names_what_is_left() -> None:
    family = SlowFamily()
    reading = read_all(family, Limits(50 * MB, 1e6))
    assert 50 <= len(reading.prepared) < 50 + EXAMPLES_AT_A_TIME
    assert family.decoded == len(reading.prepared)
    assert reading.left == frozenset(range(len(reading.prepared), 200))


def test_only_what_precomputing_leaves_counts() -> None:
    assert len(read_all(SlowFamily(), Limits(50 * MB, 1e6), is_shrunk=True).prepared) == 200


@pytest.mark.parametrize("limits", [Limits(1, 1e6), Limits(1e12, 0.0)], ids=["memory", "time"])
def test_every_run_gets_on_however_low_the_limits_are(limits: Limits) -> None:
    reading = read_all(SlowFamily(), limits)
    assert len(reading.prepared) == EXAMPLES_AT_A_TIME
    assert reading.left == frozenset(range(EXAMPLES_AT_A_TIME, 200))
