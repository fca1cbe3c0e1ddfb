"""With how many of torch's threads the engine prepares and computes."""

from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch

from lorabel.contracts import LabelScores, LabelsInput
from lorabel.families.base import Fetch
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
