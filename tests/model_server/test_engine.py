"""The engine with a hand-written family, whose device can be held, broken or short of memory at will."""

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
from model_server.engine import BACKGROUND_BATCH_S, GROW_AFTER, MOST_IN_HAND, Engine
from model_server.family_pool import FamilyPool, LoadedFamily
from model_server.files import Files
from model_server.metrics import Metrics
from tests import questions
from tests.questions import about_picture

TIMEOUT_S = 10.0


@dataclass
class FakeFamily:
    """Answers with the length of the file. More than `memory_rows`, or the row `too_large`, run out of memory."""

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


def no_more_families(kind: Any) -> LoadedFamily:
    raise AssertionError(f"{kind} is not to be loaded")


def make_engine(family: FakeFamily, **limits: int) -> Engine:
    loaded_family = LoadedFamily(cast(Any, family), cast(Any, FakeBank()), FeatureCache({}))
    sizes = {"max_batch": 8, "max_waiting": 100, **limits}
    return Engine(
        FamilyPool(no_more_families, [loaded_family]), Files(fetch, 0), Metrics(CollectorRegistry()), **sizes
    )


@pytest.fixture
def engine(family: FakeFamily) -> Iterator[Engine]:
    engine = make_engine(family)
    yield engine
    family.open.set()
    engine.close()


def row(url: str | int, **changed: Any) -> PredictRow:
    return questions.row(about_picture(str(url), ("a",)), **changed)


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


def until(is_true: Callable[[], bool]) -> None:
    for _ in range(1000):
        if is_true():
            return
        threading.Event().wait(0.01)
    raise AssertionError("it did not come to be")


def held_device(engine: Engine, family: FakeFamily) -> Future[RowResult]:
    """One row is on the device, and stays there until the family opens."""
    (first,) = submit(engine, [row(99)])
    assert family.busy.wait(TIMEOUT_S)
    return first


def test_answers_keep_the_order_and_a_bad_row_harms_no_other(engine: Engine, family: FakeFamily) -> None:
    family.open.set()
    results = answers(engine, [row(3), row("broken"), row(1), row("forbidden"), row("bug"), row(2)])
    assert lengths(results) == [3, None, 1, None, None, 2]
    errors = [(r.error.reason, r.error.is_permanent) for r in results if r.error]
    assert errors == [("no readable picture", True), ("not public", False), ("RuntimeError: a bug", False)]


def test_a_batch_is_whatever_waits_when_the_device_gets_free(engine: Engine, family: FakeFamily) -> None:
    first = submit(engine, [row(1)])
    assert family.busy.wait(TIMEOUT_S)
    rest = [submit(engine, [row(n)])[0] for n in range(2, 14 - 1)]
    until(lambda: len(engine._ready) == len(rest))
    family.open.set()
    assert lengths([future.result(TIMEOUT_S) for future in first + rest]) == list(range(1, 13))
    assert family.sizes == [1, 8, 3]


def test_out_of_memory_halves_the_batch_and_lowers_the_limit(engine: Engine, family: FakeFamily) -> None:
    family.memory_rows = 2
    first = submit(engine, [row(1)])
    assert family.busy.wait(TIMEOUT_S)
    rest = submit(engine, [row(n) for n in range(2, 10)])
    until(lambda: len(engine._ready) == len(rest))
    family.open.set()
    assert lengths([future.result(TIMEOUT_S) for future in first + rest]) == list(range(1, 10))
    assert engine.max_batch == 2
    assert family.sizes == [1, 2, 2, 2, 2]


def test_a_batch_that_fails_for_another_reason_says_why_and_the_next_one_works(
    engine: Engine, family: FakeFamily
) -> None:
    family.open.set()
    (failed,) = answers(engine, [row(13)])
    assert failed.error is not None and "ValueError: unlucky" in failed.error.reason
    assert lengths(answers(engine, [row(2)])) == [2]


def test_a_full_queue_says_so_and_recovers(family: FakeFamily) -> None:
    engine = make_engine(family, max_waiting=3)
    taken = submit(engine, [row(1), row(2), row(3)])
    with pytest.raises(ModelServerBusyError, match=r"3 rows are waiting, at most 3 may \(MAX_WAITING\)") as caught:
        submit(engine, [row(4)])
    assert caught.value.retry_after_s > 0
    family.open.set()
    assert lengths([future.result(TIMEOUT_S) for future in taken]) == [1, 2, 3]
    assert lengths(answers(engine, [row(4)])) == [4]
    engine.close()


def test_a_row_that_nobody_waits_for_any_more_is_not_computed(engine: Engine, family: FakeFamily) -> None:
    first = submit(engine, [row(1)])
    assert family.busy.wait(TIMEOUT_S)
    late = submit(engine, [row(2)], 0.05)[0]
    threading.Event().wait(0.1)
    family.open.set()
    result = late.result(TIMEOUT_S)
    assert result.error is not None and "timed out" in result.error.reason
    assert lengths([first[0].result(TIMEOUT_S)]) == [1]
    assert family.sizes == [1]


def test_an_unknown_kind_and_a_foreign_adapter_are_errors_of_their_rows(
    engine: Engine, family: FakeFamily
) -> None:
    family.open.set()
    results = answers(engine, [row(1, kind="smell"), row(2, adapter="p1.v9/label"), row(3)])
    assert lengths(results) == [None, None, 3]
    assert "no family here answers 'smell'; answered: embed, labels, " in str(results[0].error)
    assert "does not fit" in str(results[1].error)


def test_preload_of_an_adapter_that_fits_no_family_is_an_error(engine: Engine, tmp_path: Path) -> None:
    engine.preload("p1.v1/label")
    with pytest.raises(UnreadableError, match="does not fit"):
        engine.preload("p1.v9/label")


def test_a_person_comes_before_a_bulk_job_and_that_before_what_nobody_waits_for(
    engine: Engine, family: FakeFamily
) -> None:
    first = held_device(engine, family)
    ahead = submit(engine, [row(30)], priority=Priority.LOOKAHEAD)
    bulk = submit(engine, [row(n) for n in range(20, 24)], priority=Priority.BULK)
    person = submit(engine, [row(1), row(2)], project=2)
    until(lambda: len(engine._ready) == 7)
    family.open.set()
    for future in (first, *ahead, *bulk, *person):
        future.result(TIMEOUT_S)
    assert [sorted(batch) for batch in family.batches] == [[99], [1, 2], [20, 21, 22, 23], [30]]


def test_the_bulk_job_of_one_project_does_not_starve_another(engine: Engine, family: FakeFamily) -> None:
    held_device(engine, family)
    many = submit(engine, [row(n) for n in range(1, 13)], project=1, priority=Priority.BULK)
    few = submit(engine, [row(n) for n in range(50, 53)], project=2, priority=Priority.BULK)
    until(lambda: len(engine._ready) == 15)
    family.open.set()
    for future in (*many, *few):
        future.result(TIMEOUT_S)
    assert {50, 51, 52} <= set(family.batches[1])


def test_more_background_rows_than_may_be_in_hand_are_all_answered(family: FakeFamily) -> None:
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


def test_batches_of_a_bulk_job_are_no_longer_than_a_person_may_wait(family: FakeFamily) -> None:
    family.open.set()
    family.row_s = BACKGROUND_BATCH_S / 2
    engine = make_engine(family)
    (first,) = submit(engine, [row(1)])
    first.result(TIMEOUT_S)
    for future in submit(engine, [row(n) for n in range(2, 9)], priority=Priority.BULK):
        future.result(TIMEOUT_S)
    assert max(family.sizes) <= 2
    engine.close()


def test_what_its_client_gave_up_is_not_computed(engine: Engine, family: FakeFamily) -> None:
    first = held_device(engine, family)
    given_up, wanted = submit(engine, [row(2), row(3)])
    until(lambda: len(engine._ready) == 2)
    assert given_up.cancel()
    family.open.set()
    assert lengths([wanted.result(TIMEOUT_S), first.result(TIMEOUT_S)]) == [3, 99]
    assert family.batches == [[99], [3]]


def test_a_bulk_job_that_fills_its_lane_leaves_room_for_people(family: FakeFamily) -> None:
    engine = make_engine(family, max_waiting=3)
    bulk = submit(engine, [row(n) for n in (1, 2, 3)], priority=Priority.BULK)
    with pytest.raises(ModelServerBusyError):
        submit(engine, [row(4)], priority=Priority.BULK)
    person = submit(engine, [row(5)])
    family.open.set()
    assert lengths([future.result(TIMEOUT_S) for future in (*bulk, *person)]) == [1, 2, 3, 5]
    engine.close()


def test_a_row_that_fails_on_the_device_harms_no_other_of_its_batch(engine: Engine, family: FakeFamily) -> None:
    first = held_device(engine, family)
    futures = submit(engine, [row(n) for n in (1, 13, 2, 3)])
    until(lambda: len(engine._ready) == 4)
    family.open.set()
    assert lengths([future.result(TIMEOUT_S) for future in (first, *futures)]) == [99, 1, None, 2, 3]
    assert engine.max_batch == 8, "only memory limits batches"


def test_one_row_that_needs_too_much_memory_does_not_limit_the_others_batches(
    engine: Engine, family: FakeFamily
) -> None:
    family.too_large = 7
    first = held_device(engine, family)
    futures = submit(engine, [row(n) for n in (1, 2, 3, 4, 5, 6, 7, 8)])
    until(lambda: len(engine._ready) == 8)
    family.open.set()
    results = [future.result(TIMEOUT_S) for future in (first, *futures)]
    assert lengths(results) == [99, 1, 2, 3, 4, 5, 6, None, 8]
    assert engine.max_batch == 8


def test_larger_batches_are_tried_again_when_smaller_ones_have_worked_for_a_while(family: FakeFamily) -> None:
    family.memory_rows = 1
    engine = make_engine(family, max_batch=2)
    first = held_device(engine, family)
    futures = submit(engine, [row(1), row(2)])
    until(lambda: len(engine._ready) == 2)
    family.open.set()
    for future in (first, *futures):
        future.result(TIMEOUT_S)
    assert engine.max_batch == 1
    for _ in range(GROW_AFTER):
        answers(engine, [row(1)])
    assert engine.max_batch == 2
    engine.close()


def test_a_family_that_gives_too_few_answers_fails_its_rows_and_not_the_engine(
    engine: Engine, family: FakeFamily, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(family, "predict", lambda *_: [])
        (result,) = answers(engine, [row(1)])
        assert result.error is not None and "ValueError" in result.error.reason
    family.open.set()
    assert lengths(answers(engine, [row(2)])) == [2]
    assert engine.is_alive


def test_rows_that_were_given_up_make_room_for_those_behind_them(family: FakeFamily) -> None:
    """Also while their files are still under way."""
    gate = threading.Event()

    def slow(media: MediaRef) -> bytes:
        if media.url.startswith("http://hanging"):
            gate.wait(TIMEOUT_S)
        return b"x"

    family.open.set()
    loaded_family = LoadedFamily(cast(Any, family), cast(Any, FakeBank()), FeatureCache({}))
    family_pool = FamilyPool(no_more_families, [loaded_family])
    engine = Engine(family_pool, Files(slow, 0), Metrics(CollectorRegistry()), max_batch=8, max_waiting=1000)
    hanging = submit(engine, [row(f"http://hanging/{i}") for i in range(2 * MOST_IN_HAND)], priority=Priority.BULK)
    other = submit(engine, [row("http://quick/0")], project=2, priority=Priority.BULK)
    assert lengths([other[0].result(TIMEOUT_S)]) == [1], "the room is each project's own"
    for future in hanging:
        future.cancel()
    (same,) = submit(engine, [row("http://quick/1")], priority=Priority.BULK)
    assert lengths([same.result(TIMEOUT_S)]) == [1]
    gate.set()
    engine.close()
