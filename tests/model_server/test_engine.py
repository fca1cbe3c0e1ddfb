"""The engine: order, batches, priorities, and limits; see tests/model_server/fake_engine.py."""

import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from prometheus_client import CollectorRegistry

from lorabel.contracts import LabelsInput, MediaRef
from lorabel.database.adapter_folders import AdapterFolders
from lorabel.errors import (
    MOST_REASON_CHARACTERS,
    LorabelError,
    ModelServerBusyError,
    RequestTooLargeError,
    SettingsError,
    UnreadableError,
)
from lorabel.families.base import Fetch
from lorabel.families.cache import FeatureCache
from lorabel.inference.messages import Priority
from model_server import engine as engine_module
from model_server.batch_sizes import BACKGROUND_BATCH_S
from model_server.engine import BATCHES_AHEAD, MAX_IN_PROGRESS, Engine
from model_server.family_pool import FamilyPool, LoadedFamily
from model_server.files import Files
from model_server.heads import Heads
from model_server.metrics import Metrics
from model_server.rows import failure_of
from tests.model_server.fake_engine import (
    LONG_ROWS,
    SECRET,
    TIMEOUT_S,
    FakeBank,
    FakeFamily,
    answers,
    held_device,
    lengths,
    load_no_family,
    make_engine,
    row,
    submit,
    wait_until,
)


@pytest.fixture
def family() -> FakeFamily:
    return FakeFamily()


@pytest.fixture
def engine(family: FakeFamily) -> Iterator[Engine]:
    engine = make_engine(family)
    yield engine
    family.open.set()
    engine.close()


def test_answers_keep_the_order_and_a_bad_row_does_not_affect_others(engine: Engine, family: FakeFamily) -> None:
    family.open.set()
    results = answers(engine, [row(3), row("broken"), row(1), row("forbidden"), row("bug"), row(2)])
    assert lengths(results) == [3, None, 1, None, None, 2]
    errors = [(result.error.reason, result.error.is_permanent) for result in results if result.error]
    bug = "RuntimeError in the model server, whose log has more"
    assert errors == [("no readable picture", True), ("not public", False), (bug, False)]


def test_a_reason_is_a_short_line_and_does_not_quote_what_was_read(engine: Engine) -> None:
    (result,) = answers(engine, [row("quoted")])
    assert result.error is not None and not result.error.is_permanent
    assert SECRET not in result.error.reason
    assert result.error.reason == "ValueError in the model server, whose log has more"


def test_a_long_message_of_ours_is_cut_to_a_short_line() -> None:
    error = failure_of(LorabelError("control tag\n" * 1000)).error
    assert error is not None and error.reason.startswith("LorabelError: control tag control tag")
    assert "\n" not in error.reason and len(error.reason) <= MOST_REASON_CHARACTERS


def test_a_setting_that_is_wrong_is_told_without_the_name_of_a_class() -> None:
    error = failure_of(SettingsError("MODEL_TEXT_ENCODER='a/b' cannot be loaded: no hub")).error
    assert error is not None and error.reason == "MODEL_TEXT_ENCODER='a/b' cannot be loaded: no hub"


def test_slow_files_of_one_project_leave_threads_to_other_projects(family: FakeFamily) -> None:
    family.slow = 7
    engine = make_engine(family)
    cores = os.cpu_count() or 1
    slow = submit(engine, [row(7) for _ in range(20 + cores)], project=1)
    assert all(family.preparing.acquire(timeout=TIMEOUT_S) for _ in range(cores))
    (other,) = submit(engine, [row(3)], project=2)
    wait_until(lambda: len(engine._ready) or family.busy.is_set())
    family.open.set()
    assert lengths([future.result(TIMEOUT_S) for future in (other, *slow)]) == [3] + [7] * len(slow)
    engine.close()


def test_a_batch_has_all_rows_that_wait_when_the_device_becomes_free(engine: Engine, family: FakeFamily) -> None:
    first = submit(engine, [row(1)])
    assert family.busy.wait(TIMEOUT_S)
    others = [submit(engine, [row(n)])[0] for n in range(2, 13)]
    wait_until(lambda: len(engine._ready) == len(others))
    family.open.set()
    assert lengths([future.result(TIMEOUT_S) for future in first + others]) == list(range(1, 13))
    assert family.sizes == [1, 8, 3]


def test_an_input_of_many_windows_counts_in_a_batch_by_its_windows(engine: Engine, family: FakeFamily) -> None:
    """LONG_ROWS are 6, and a batch has at most 8 rows."""
    family.long = 2
    first = submit(engine, [row(1)])
    assert family.busy.wait(TIMEOUT_S)
    others = [submit(engine, [row(n)])[0] for n in (2, 3, 4, 5, 2, 2)]
    wait_until(lambda: len(engine._ready) == len(others))
    family.open.set()
    assert lengths([future.result(TIMEOUT_S) for future in first + others]) == [1, 2, 3, 4, 5, 2, 2]
    rows = [sum(LONG_ROWS if example == 2 else 1 for example in batch) for batch in family.batches]
    assert max(rows) <= 8, family.batches


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


def test_a_request_that_does_not_fit_beside_the_waiting_rows_is_refused_as_a_whole(family: FakeFamily) -> None:
    engine = make_engine(family, max_waiting=3)
    waiting = submit(engine, [row(1), row(2)])
    for _ in range(3):
        with pytest.raises(ModelServerBusyError, match=r"2 rows are waiting, at most 3 may .*; the request has 2"):
            submit(engine, [row(3), row(4)])
    waiting += submit(engine, [row(5)])
    family.open.set()
    assert lengths([future.result(TIMEOUT_S) for future in waiting]) == [1, 2, 5]
    engine.close()


def test_a_request_with_more_rows_than_may_wait_is_too_large(family: FakeFamily) -> None:
    engine = make_engine(family, max_waiting=3)
    with pytest.raises(RequestTooLargeError, match=r"has 4 rows, and at most 3 may wait \(MAX_WAITING\)"):
        submit(engine, [row(n) for n in range(4)])
    family.open.set()
    assert lengths(answers(engine, [row(1), row(2), row(3)])) == [1, 2, 3]
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
    unknown = "no family answers inputs of kind 'smell'; known kinds: box_features, boxes, "
    assert unknown in str(results[0].error)
    assert "does not fit" in str(results[1].error)


def test_preload_of_an_adapter_that_fits_no_family_is_an_error(engine: Engine, tmp_path: Path) -> None:
    engine.family_pool.preload("p1.v1/label")
    with pytest.raises(UnreadableError, match="does not fit"):
        engine.family_pool.preload("p1.v9/label")


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


def test_background_batches_are_larger_while_no_person_asks(family: FakeFamily) -> None:
    family.row_s = BACKGROUND_BATCH_S / 2
    engine = make_engine(family)
    family.open.set()
    (first,) = submit(engine, [row(1)], priority=Priority.BULK)
    first.result(TIMEOUT_S)
    family.open.clear()
    family.busy.clear()
    (holding,) = submit(engine, [row(99)], priority=Priority.BULK)
    assert family.busy.wait(TIMEOUT_S)
    bulk = submit(engine, [row(n) for n in range(2, 7)], priority=Priority.BULK)
    wait_until(lambda: len(engine._ready) == 5)
    family.open.set()
    for future in (holding, *bulk):
        future.result(TIMEOUT_S)
    assert family.sizes == [1, 1, 5]
    engine.close()


def test_background_rows_are_prepared_a_few_batches_ahead_and_a_persons_row_at_once(family: FakeFamily) -> None:
    """Preparing takes the cores that a model on a CPU computes on, so a burst of it would lengthen every step."""
    family.open.set()
    family.row_s = BACKGROUND_BATCH_S / 2.9  # two rows a batch
    engine = make_engine(family)
    for future in submit(engine, [row(n) for n in (1, 2)]):
        future.result(TIMEOUT_S)
    family.open.clear()
    family.busy.clear()
    bulk = submit(engine, [row(n) for n in range(20, 60)], priority=Priority.BULK)
    cancelled = bulk.pop()
    assert family.busy.wait(TIMEOUT_S)
    wait_until(lambda: len(family.prepared) == 2 + 2 * BATCHES_AHEAD)
    (person,) = submit(engine, [row(3)])
    wait_until(lambda: len(family.prepared) == 2 + 2 * BATCHES_AHEAD + 1)
    assert family.prepared[-1] == 3
    assert cancelled.cancel()
    family.row_s = 0
    family.open.set()
    assert lengths([future.result(TIMEOUT_S) for future in (person, *bulk)]) == [3, *range(20, 59)]
    engine.close()


class TensorFamily(FakeFamily):
    """Prepared inputs are tensors of 8 bytes."""

    def prepare(self, question: LabelsInput, fetch: Fetch) -> Any:
        return torch.tensor(super().prepare(question, fetch))


def test_background_rows_wait_while_those_that_are_prepared_hold_enough_bytes_and_a_persons_row_does_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two prepare threads, and room for two rows: four are prepared at most, of however many projects."""
    monkeypatch.setattr(engine_module, "PREPARED_BYTES", 16)
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    family = TensorFamily()
    engine = make_engine(family, max_batch=8)
    engine.sizes.row_s[family.name] = 0.0
    bulk = [submit(engine, [row(n) for n in range(20, 40)], priority=Priority.BULK, project=p) for p in (1, 2)]
    cancelled = bulk[0].pop()
    held_back = engine._prepared_memory._held_back[family.name]
    wait_until(lambda: len(family.prepared) + len(held_back) == 40)
    assert 2 <= len(family.prepared) <= 4
    (person,) = submit(engine, [row(3)])
    wait_until(lambda: family.prepared[-1] == 3)
    assert cancelled.cancel()
    family.open.set()
    assert lengths([future.result(TIMEOUT_S) for future in (person, *bulk[0])]) == [3, *range(20, 39)]
    assert lengths([future.result(TIMEOUT_S) for future in bulk[1]]) == [*range(20, 40)]
    wait_until(lambda: engine._prepared_memory._bytes[family.name] == 0)
    engine.close()


def test_the_first_background_batch_of_a_family_has_one_row(engine: Engine, family: FakeFamily) -> None:
    """Nobody knows yet how long a row takes, and a person may have to wait for the batch."""
    bulk = submit(engine, [row(n) for n in range(20, 30)], priority=Priority.BULK)
    wait_until(lambda: len(family.prepared) == BATCHES_AHEAD)
    family.open.set()
    assert lengths([future.result(TIMEOUT_S) for future in bulk]) == [*range(20, 30)]
    assert family.sizes[0] == 1 and max(family.sizes) > 1


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
    metrics = Metrics(CollectorRegistry())
    heads = Heads(AdapterFolders(Path("/nowhere")), metrics)
    engine = Engine(family_pool, Files(fetch_slowly, 0), heads, metrics, max_batch=8, max_waiting=1000)
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
        engine.family_pool.preload("p1.v9/label", "dual_encoder")
    engine.family_pool.preload("p1.v9/label", "text_encoder")
