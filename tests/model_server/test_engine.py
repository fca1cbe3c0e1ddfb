"""The engine with a hand-written family that can block, fail or run out of memory."""

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from prometheus_client import CollectorRegistry

from lorabel.contracts import LabelScores, LabelsInput, MediaRef, media_of
from lorabel.errors import ModelServerBusyError, UnreadableError
from lorabel.families.base import Fetch
from lorabel.families.cache import FeatureCache
from lorabel.inference.messages import PredictRequest, PredictRow, Priority, RowResult
from model_server.engine import BACKGROUND_BATCH_S, GROW_AFTER, MAX_IN_PROGRESS, Engine
from model_server.family_pool import FamilyPool, LoadedFamily
from model_server.files import Files
from model_server.metrics import Metrics
from tests import questions
from tests.questions import about_picture

TIMEOUT_S = 10.0


@dataclass
class FakeFamily:
    """Answers with the length of the file, as if it were a probability.

    Args:
        memory_rows: larger batches run out of memory.
        too_large: a batch with this example runs out of memory.
        row_s: seconds that a row takes on the device.
        open: `predict` waits until it is set.
        busy: is set once `predict` was called.
        batches: the examples of each call that did not run out of memory.
    """

    name: str = "dual_encoder"
    memory_rows: int = 1000
    too_large: int | None = None
    row_s: float = 0.0
    open: threading.Event = field(default_factory=threading.Event)
    busy: threading.Event = field(default_factory=threading.Event)
    batches: list[list[int]] = field(default_factory=list)

    def recall(self, *_: Any) -> None:
        return None

    def prepare(self, question: LabelsInput, fetch: Fetch) -> int:
        return sum(len(fetch(media)) for media in media_of(question))

    def predict(self, examples: Sequence[int], adapters: Any, bank: Any, cache: Any) -> list[LabelScores]:
        self.busy.set()
        assert self.open.wait(TIMEOUT_S)
        if len(examples) > self.memory_rows or self.too_large in examples:
            raise torch.OutOfMemoryError("CUDA out of memory")
        self.batches.append(list(examples))
        if self.row_s:
            threading.Event().wait(self.row_s * len(examples))
        if 13 in examples:
            raise ValueError("unlucky")
        return [LabelScores(probabilities=(float(example),)) for example in examples]

    @property
    def sizes(self) -> list[int]:
        return [len(batch) for batch in self.batches]


class FakeBank(SimpleNamespace):
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


def load_no_family(family_type: Any) -> LoadedFamily:
    raise AssertionError(f"{family_type} must not be loaded")


def make_engine(family: FakeFamily, **limits: int) -> Engine:
    loaded_family = LoadedFamily(cast(Any, family), cast(Any, FakeBank()), FeatureCache({}))
    sizes = {"max_batch": 8, "max_waiting": 100, **limits}
    return Engine(
        FamilyPool(load_no_family, [loaded_family]), Files(fetch, 0), Metrics(CollectorRegistry()), **sizes
    )


@pytest.fixture
def engine(family: FakeFamily) -> Iterator[Engine]:
    engine = make_engine(family)
    yield engine
    family.open.set()
    engine.close()


def row(url: str | int, **fields: Any) -> PredictRow:
    return questions.row(about_picture(str(url), ("a",)), **fields)


def submit(
    engine: Engine,
    rows: list[PredictRow],
    timeout_s: float = TIMEOUT_S,
    project: int = 1,
    priority: Priority = Priority.INTERACTIVE,
) -> list[Future[RowResult]]:
    return engine.submit(PredictRequest(rows=rows, timeout_s=timeout_s, project=project, priority=priority))


def answers(engine: Engine, rows: list[PredictRow]) -> list[RowResult]:
    return [future.result(TIMEOUT_S) for future in submit(engine, rows)]


def lengths(results: list[RowResult]) -> list[float | None]:
    return [result.output["probabilities"][0] if result.output else None for result in results]


def wait_until(condition: Callable[[], bool]) -> None:
    for _ in range(1000):
        if condition():
            return
        threading.Event().wait(0.01)
    raise AssertionError("the condition did not become true within 10 s")


def held_device(engine: Engine, family: FakeFamily) -> Future[RowResult]:
    """Put one row on the device, which stays there until `family.open` is set."""
    (first,) = submit(engine, [row(99)])
    assert family.busy.wait(TIMEOUT_S)
    return first


def test_answers_keep_the_order_and_a_bad_row_does_not_affect_others(engine: Engine, family: FakeFamily) -> None:
    family.open.set()
    results = answers(engine, [row(3), row("broken"), row(1), row("forbidden"), row("bug"), row(2)])
    assert lengths(results) == [3, None, 1, None, None, 2]
    errors = [(result.error.reason, result.error.is_permanent) for result in results if result.error]
    assert errors == [("no readable picture", True), ("not public", False), ("RuntimeError: a bug", False)]


def test_a_batch_has_all_rows_that_wait_when_the_device_becomes_free(engine: Engine, family: FakeFamily) -> None:
    first = submit(engine, [row(1)])
    assert family.busy.wait(TIMEOUT_S)
    others = [submit(engine, [row(n)])[0] for n in range(2, 13)]
    wait_until(lambda: len(engine._ready) == len(others))
    family.open.set()
    assert lengths([future.result(TIMEOUT_S) for future in first + others]) == list(range(1, 13))
    assert family.sizes == [1, 8, 3]


def test_out_of_memory_halves_the_batch_and_lowers_the_limit(engine: Engine, family: FakeFamily) -> None:
    family.memory_rows = 2
    first = submit(engine, [row(1)])
    assert family.busy.wait(TIMEOUT_S)
    others = submit(engine, [row(n) for n in range(2, 10)])
    wait_until(lambda: len(engine._ready) == len(others))
    family.open.set()
    assert lengths([future.result(TIMEOUT_S) for future in first + others]) == list(range(1, 10))
    assert engine.max_batch == 2
    assert family.sizes == [1, 2, 2, 2, 2]


def test_a_batch_that_fails_for_another_reason_says_why_and_the_next_batch_succeeds(
    engine: Engine, family: FakeFamily
) -> None:
    family.open.set()
    (failed,) = answers(engine, [row(13)])
    assert failed.error is not None and "ValueError: unlucky" in failed.error.reason
    assert lengths(answers(engine, [row(2)])) == [2]


def test_a_full_queue_refuses_requests_until_rows_are_answered(family: FakeFamily) -> None:
    engine = make_engine(family, max_waiting=3)
    accepted = submit(engine, [row(1), row(2), row(3)])
    with pytest.raises(ModelServerBusyError, match=r"3 rows are waiting, at most 3 may \(MAX_WAITING\)") as raised:
        submit(engine, [row(4)])
    assert raised.value.retry_after_s > 0
    family.open.set()
    assert lengths([future.result(TIMEOUT_S) for future in accepted]) == [1, 2, 3]
    assert lengths(answers(engine, [row(4)])) == [4]
    engine.close()


def test_a_row_whose_time_is_over_is_not_computed(engine: Engine, family: FakeFamily) -> None:
    first = submit(engine, [row(1)])
    assert family.busy.wait(TIMEOUT_S)
    late = submit(engine, [row(2)], timeout_s=0.05)[0]
    threading.Event().wait(0.1)
    family.open.set()
    result = late.result(TIMEOUT_S)
    assert result.error is not None and "timed out" in result.error.reason
    assert lengths([first[0].result(TIMEOUT_S)]) == [1]
    assert family.sizes == [1]


def test_an_unknown_kind_and_an_adapter_that_does_not_fit_are_errors_of_their_rows(
    engine: Engine, family: FakeFamily
) -> None:
    family.open.set()
    results = answers(engine, [row(1, kind="smell"), row(2, adapter="p1.v9/label"), row(3)])
    assert lengths(results) == [None, None, 3]
    assert "no family answers inputs of kind 'smell'; known kinds: embed, labels, " in str(results[0].error)
    assert "does not fit" in str(results[1].error)


def test_preload_of_an_adapter_that_fits_no_family_is_an_error(engine: Engine, tmp_path: Path) -> None:
    engine.preload("p1.v1/label")
    with pytest.raises(UnreadableError, match="does not fit"):
        engine.preload("p1.v9/label")


def test_interactive_rows_come_before_bulk_rows_and_these_before_lookahead_rows(
    engine: Engine, family: FakeFamily
) -> None:
    first = held_device(engine, family)
    lookahead = submit(engine, [row(30)], priority=Priority.LOOKAHEAD)
    bulk = submit(engine, [row(n) for n in range(20, 24)], priority=Priority.BULK)
    interactive = submit(engine, [row(1), row(2)], project=2)
    wait_until(lambda: len(engine._ready) == 7)
    family.open.set()
    for future in (first, *lookahead, *bulk, *interactive):
        future.result(TIMEOUT_S)
    assert [sorted(batch) for batch in family.batches] == [[99], [1, 2], [20, 21, 22, 23], [30]]


def test_the_bulk_rows_of_one_project_do_not_starve_another_project(engine: Engine, family: FakeFamily) -> None:
    held_device(engine, family)
    many = submit(engine, [row(n) for n in range(1, 13)], project=1, priority=Priority.BULK)
    few = submit(engine, [row(n) for n in range(50, 53)], project=2, priority=Priority.BULK)
    wait_until(lambda: len(engine._ready) == 15)
    family.open.set()
    for future in (*many, *few):
        future.result(TIMEOUT_S)
    assert {50, 51, 52} <= set(family.batches[1])


def test_more_background_rows_than_may_be_in_progress_are_all_answered(family: FakeFamily) -> None:
    family.open.set()
    engine = make_engine(family, max_waiting=1000)
    rows = [row(n) for n in range(1, 301) if n != 13]
    futures = submit(engine, [*rows, row("broken"), row("bug")], priority=Priority.BULK)
    assert lengths([future.result(TIMEOUT_S) for future in futures]) == [
        *(float(n) for n in range(1, 301) if n != 13),
        None,
        None,
    ]
    engine.close()


def test_background_batches_take_no_longer_than_a_person_may_wait(family: FakeFamily) -> None:
    family.open.set()
    family.row_s = BACKGROUND_BATCH_S / 2
    engine = make_engine(family)
    (first,) = submit(engine, [row(1)])
    first.result(TIMEOUT_S)
    for future in submit(engine, [row(n) for n in range(2, 9)], priority=Priority.BULK):
        future.result(TIMEOUT_S)
    assert max(family.sizes) <= 2
    engine.close()


def test_a_cancelled_row_is_not_computed(engine: Engine, family: FakeFamily) -> None:
    first = held_device(engine, family)
    cancelled, other = submit(engine, [row(2), row(3)])
    wait_until(lambda: len(engine._ready) == 2)
    assert cancelled.cancel()
    family.open.set()
    assert lengths([other.result(TIMEOUT_S), first.result(TIMEOUT_S)]) == [3, 99]
    assert family.batches == [[99], [3]]


def test_bulk_rows_that_fill_their_priority_leave_room_for_interactive_rows(family: FakeFamily) -> None:
    engine = make_engine(family, max_waiting=3)
    bulk = submit(engine, [row(n) for n in (1, 2, 3)], priority=Priority.BULK)
    with pytest.raises(ModelServerBusyError):
        submit(engine, [row(4)], priority=Priority.BULK)
    interactive = submit(engine, [row(5)])
    family.open.set()
    assert lengths([future.result(TIMEOUT_S) for future in (*bulk, *interactive)]) == [1, 2, 3, 5]
    engine.close()


def test_a_row_that_fails_on_the_device_does_not_affect_the_others_of_its_batch(
    engine: Engine, family: FakeFamily
) -> None:
    first = held_device(engine, family)
    futures = submit(engine, [row(n) for n in (1, 13, 2, 3)])
    wait_until(lambda: len(engine._ready) == 4)
    family.open.set()
    assert lengths([future.result(TIMEOUT_S) for future in (first, *futures)]) == [99, 1, None, 2, 3]
    assert engine.max_batch == 8, "other errors do not limit batches"


def test_a_single_row_that_needs_too_much_memory_does_not_limit_later_batches(
    engine: Engine, family: FakeFamily
) -> None:
    family.too_large = 7
    first = held_device(engine, family)
    futures = submit(engine, [row(n) for n in (1, 2, 3, 4, 5, 6, 7, 8)])
    wait_until(lambda: len(engine._ready) == 8)
    family.open.set()
    results = [future.result(TIMEOUT_S) for future in (first, *futures)]
    assert lengths(results) == [99, 1, 2, 3, 4, 5, 6, None, 8]
    assert engine.max_batch == 8


def test_larger_batches_are_tried_again_after_many_smaller_ones_succeeded(family: FakeFamily) -> None:
    family.memory_rows = 1
    engine = make_engine(family, max_batch=2)
    first = held_device(engine, family)
    futures = submit(engine, [row(1), row(2)])
    wait_until(lambda: len(engine._ready) == 2)
    family.open.set()
    for future in (first, *futures):
        future.result(TIMEOUT_S)
    assert engine.max_batch == 1
    for _ in range(GROW_AFTER):
        answers(engine, [row(1)])
    assert engine.max_batch == 2
    engine.close()


def test_a_family_that_returns_too_few_outputs_fails_its_rows_and_not_the_engine(
    engine: Engine, family: FakeFamily, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(family, "predict", lambda *_: [])
        (result,) = answers(engine, [row(1)])
        assert result.error is not None and "ValueError" in result.error.reason
    family.open.set()
    assert lengths(answers(engine, [row(2)])) == [2]
    assert engine.is_alive


def test_cancelled_rows_make_room_for_later_rows_of_their_project(family: FakeFamily) -> None:
    """Also while the files of the cancelled rows are still being fetched."""
    release = threading.Event()

    def fetch_slowly(media: MediaRef) -> bytes:
        if media.url.startswith("http://hanging"):
            release.wait(TIMEOUT_S)
        return b"x"

    family.open.set()
    loaded_family = LoadedFamily(cast(Any, family), cast(Any, FakeBank()), FeatureCache({}))
    family_pool = FamilyPool(load_no_family, [loaded_family])
    engine = Engine(
        family_pool, Files(fetch_slowly, 0), Metrics(CollectorRegistry()), max_batch=8, max_waiting=1000
    )
    hanging = submit(
        engine, [row(f"http://hanging/{i}") for i in range(2 * MAX_IN_PROGRESS)], priority=Priority.BULK
    )
    (other,) = submit(engine, [row("http://quick/0")], project=2, priority=Priority.BULK)
    assert lengths([other.result(TIMEOUT_S)]) == [1], "each project has its own limit"
    for future in hanging:
        future.cancel()
    (following,) = submit(engine, [row("http://quick/1")], priority=Priority.BULK)
    assert lengths([following.result(TIMEOUT_S)]) == [1]
    release.set()
    engine.close()


def test_preload_asks_only_the_named_family_and_does_nothing_if_that_is_not_loaded(engine: Engine) -> None:
    with pytest.raises(UnreadableError, match="does not fit"):
        engine.preload("p1.v9/label", "dual_encoder")
    engine.preload("p1.v9/label", "text_encoder")
