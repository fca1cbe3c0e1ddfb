"""The engine with a hand-written family, whose device can be held, broken or short of memory at will."""

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from prometheus_client import CollectorRegistry

from lorabel.contracts import ImageLabels, LabelScores, MediaRef, RowAdapters
from lorabel.errors import ModelServerBusyError, UnreadableError
from lorabel.families import Fetch
from lorabel.messages import PredictRow, RowResult
from model_server.engine import Engine, Metrics, Station

TIMEOUT_S = 10.0


@dataclass
class FakeFamily:
    """Answers with the length of the file. `memory_rows`: more rows than that run out of memory."""

    input_type: type[ImageLabels] = ImageLabels
    memory_rows: int = 1000
    open: threading.Event = field(default_factory=threading.Event)
    busy: threading.Event = field(default_factory=threading.Event)
    batches: list[int] = field(default_factory=list)

    def prepare(self, question: ImageLabels, fetch: Fetch) -> int:
        return len(fetch(question.image))

    def predict(self, examples: Sequence[int], adapters: Any, rows: RowAdapters, memo: Any) -> list[LabelScores]:
        self.busy.set()
        assert self.open.wait(TIMEOUT_S)
        if len(examples) > self.memory_rows:
            raise torch.OutOfMemoryError("CUDA out of memory")
        self.batches.append(len(examples))
        if 13 in examples:
            raise ValueError("unlucky")
        return [LabelScores(probabilities=(float(example),)) for example in examples]


class FakeBank:
    names: tuple[str, ...] = ()
    nbytes = 0

    def rows(self, adapters: Sequence[str | None]) -> Any:
        return SimpleNamespace()

    def load(self, name: str) -> None:
        if name == "p1.v9/label":
            raise UnreadableError("adapter p1.v9/label does not fit", is_permanent=False)


def fetch(media: MediaRef) -> bytes:
    if media.url == "broken":
        raise UnreadableError("no readable picture", is_permanent=True)
    if media.url == "forbidden":
        raise UnreadableError("not public", is_permanent=False)
    if media.url == "bug":
        raise RuntimeError("a bug")
    return b"x" * int(media.url)


@pytest.fixture
def family() -> FakeFamily:
    return FakeFamily()


def make_engine(family: FakeFamily, **limits: int) -> Engine:
    station = Station(cast(Any, family), cast(Any, FakeBank()))
    sizes = {"max_batch": 8, "max_waiting": 100, **limits}
    return Engine([station], fetch, Metrics(CollectorRegistry()), **sizes)


@pytest.fixture
def engine(family: FakeFamily) -> Iterator[Engine]:
    engine = make_engine(family)
    yield engine
    family.open.set()
    engine.close()


def row(url: str | int, **changed: Any) -> PredictRow:
    question = ImageLabels(image=MediaRef(url=str(url)), texts=("a",))
    return PredictRow(**{"kind": "image_labels", "input": question.model_dump(), **changed})


def answers(engine: Engine, rows: list[PredictRow], timeout_s: float = TIMEOUT_S) -> list[RowResult]:
    return [future.result(TIMEOUT_S) for future in engine.submit(rows, timeout_s)]


def lengths(results: list[RowResult]) -> list[float | None]:
    return [result.output["probabilities"][0] if result.output else None for result in results]


def test_answers_keep_the_order_and_a_bad_row_harms_no_other(engine: Engine, family: FakeFamily) -> None:
    family.open.set()
    results = answers(engine, [row(3), row("broken"), row(1), row("forbidden"), row("bug"), row(2)])
    assert lengths(results) == [3, None, 1, None, None, 2]
    errors = [(r.error.reason, r.error.is_permanent) for r in results if r.error]
    assert errors == [("no readable picture", True), ("not public", False), ("RuntimeError: a bug", False)]


def test_a_batch_is_whatever_waits_when_the_device_gets_free(engine: Engine, family: FakeFamily) -> None:
    first = engine.submit([row(1)], TIMEOUT_S)
    assert family.busy.wait(TIMEOUT_S)
    rest = [engine.submit([row(n)], TIMEOUT_S)[0] for n in range(2, 14 - 1)]
    while len(engine._ready) < len(rest):
        threading.Event().wait(0.01)
    family.open.set()
    assert lengths([future.result(TIMEOUT_S) for future in first + rest]) == list(range(1, 13))
    assert family.batches == [1, 8, 3]


def test_out_of_memory_halves_the_batch_and_lowers_the_limit(engine: Engine, family: FakeFamily) -> None:
    family.memory_rows = 2
    first = engine.submit([row(1)], TIMEOUT_S)
    assert family.busy.wait(TIMEOUT_S)
    rest = engine.submit([row(n) for n in range(2, 10)], TIMEOUT_S)
    while len(engine._ready) < len(rest):
        threading.Event().wait(0.01)
    family.open.set()
    assert lengths([future.result(TIMEOUT_S) for future in first + rest]) == list(range(1, 10))
    assert engine.max_batch == 2
    assert family.batches == [1, 2, 2, 2, 2]


def test_a_batch_that_fails_for_another_reason_says_why_and_the_next_one_works(
    engine: Engine, family: FakeFamily
) -> None:
    family.open.set()
    (failed,) = answers(engine, [row(13)])
    assert failed.error is not None and "ValueError: unlucky" in failed.error.reason
    assert lengths(answers(engine, [row(2)])) == [2]


def test_a_full_queue_says_so_and_recovers(family: FakeFamily) -> None:
    engine = make_engine(family, max_waiting=3)
    taken = engine.submit([row(1), row(2), row(3)], TIMEOUT_S)
    with pytest.raises(ModelServerBusyError, match=r"3 rows are waiting, at most 3 may \(MAX_WAITING\)") as caught:
        engine.submit([row(4)], TIMEOUT_S)
    assert caught.value.retry_after_s > 0
    family.open.set()
    assert lengths([future.result(TIMEOUT_S) for future in taken]) == [1, 2, 3]
    assert lengths(answers(engine, [row(4)])) == [4]
    engine.close()


def test_a_row_that_nobody_waits_for_any_more_is_not_computed(engine: Engine, family: FakeFamily) -> None:
    first = engine.submit([row(1)], TIMEOUT_S)
    assert family.busy.wait(TIMEOUT_S)
    late = engine.submit([row(2)], 0.05)[0]
    threading.Event().wait(0.1)
    family.open.set()
    result = late.result(TIMEOUT_S)
    assert result.error is not None and "timed out" in result.error.reason
    assert lengths([first[0].result(TIMEOUT_S)]) == [1]
    assert family.batches == [1]


def test_an_unknown_kind_and_a_foreign_adapter_are_errors_of_their_rows(
    engine: Engine, family: FakeFamily
) -> None:
    family.open.set()
    results = answers(engine, [row(1, kind="smell"), row(2, adapter="p1.v9/label"), row(3)])
    assert lengths(results) == [None, None, 3]
    assert "no family here serves 'smell'; served: image_labels" in str(results[0].error)
    assert "does not fit" in str(results[1].error)


def test_preload_of_an_adapter_that_fits_no_family_is_an_error(engine: Engine, tmp_path: Path) -> None:
    engine.preload("p1.v1/label")
    with pytest.raises(UnreadableError, match="does not fit"):
        engine.preload("p1.v9/label")
