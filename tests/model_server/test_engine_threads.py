"""With how many of torch's threads the engine prepares and computes."""

from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch

from lorabel.contracts import LabelScores, LabelsInput
from lorabel.families.base import Fetch
from lorabel.inference.messages import Priority
from tests.model_server.fake_engine import TIMEOUT_S, FakeFamily, make_engine, row, submit

THREADS = 3


class ThreadsFamily(FakeFamily):
    """Notes the number of torch's threads."""

    def prepare(self, question: LabelsInput, fetch: Fetch) -> int:
        self.preparing_threads = torch.get_num_threads()
        return super().prepare(question, fetch)

    def predict(self, examples: Sequence[int], *rest: Any) -> list[LabelScores]:
        self.device_threads = torch.get_num_threads()
        return super().predict(examples, *rest)


@pytest.fixture(autouse=True)
def torch_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(THREADS)
    yield
    torch.set_num_threads(before)


def test_a_row_is_prepared_on_one_core_and_computed_on_all() -> None:
    """A thread that prepares would keep the device's thread waiting in each of its products."""
    family = ThreadsFamily()
    family.open.set()
    engine = make_engine(family)
    submit(engine, [row(3)])[0].result(TIMEOUT_S)
    engine.close()
    assert (family.preparing_threads, family.device_threads) == (1, THREADS)


def test_as_many_divided_rows_are_prepared_ahead_as_batches_may_have() -> None:
    """Before, threads that prepare, with one of torch's threads each, took no family for one that divides rows:
    three rows were prepared ahead, and batches had no more."""
    family = FakeFamily(divides_rows=True, row_s=0.02)
    family.open.set()
    engine = make_engine(family)
    for future in submit(engine, [row(3) for _ in range(60)], priority=Priority.BULK):
        future.result(TIMEOUT_S)
    engine.close()
    assert family.sizes.count(8) >= 4, "max_batch"
