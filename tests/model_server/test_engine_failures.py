"""The engine when a batch fails, memory runs out, or the device is lost."""

from collections.abc import Iterator

import pytest
import torch

from lorabel.errors import ModelServerBusyError
from model_server.batch_sizes import GROW_AFTER
from model_server.engine import Engine
from tests.model_server.fake_engine import (
    ILLEGAL_ACCESS,
    TIMEOUT_S,
    FakeFamily,
    answers,
    held_device,
    lengths,
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


def test_out_of_memory_halves_the_batch_and_lowers_the_limit(engine: Engine, family: FakeFamily) -> None:
    family.memory_rows = 2
    first = submit(engine, [row(1)])
    assert family.busy.wait(TIMEOUT_S)
    others = submit(engine, [row(n) for n in range(2, 10)])
    wait_until(lambda: len(engine._ready) == len(others))
    family.open.set()
    assert lengths([future.result(TIMEOUT_S) for future in first + others]) == list(range(1, 10))
    assert engine.sizes.max_batch == 2
    assert family.sizes == [1, 2, 2, 2, 2]


def test_a_batch_that_fails_for_another_reason_says_why_and_the_next_batch_succeeds(
    engine: Engine, family: FakeFamily
) -> None:
    family.open.set()
    (failed,) = answers(engine, [row(13)])
    assert failed.error is not None and failed.error.reason.startswith("ValueError in the model server")
    assert lengths(answers(engine, [row(2)])) == [2]


def test_a_row_that_fails_on_the_device_does_not_affect_the_others_of_its_batch(
    engine: Engine, family: FakeFamily
) -> None:
    first = held_device(engine, family)
    futures = submit(engine, [row(n) for n in (1, 13, 2, 3)])
    wait_until(lambda: len(engine._ready) == 4)
    family.open.set()
    assert lengths([future.result(TIMEOUT_S) for future in (first, *futures)]) == [99, 1, None, 2, 3]
    assert engine.sizes.max_batch == 8, "other errors do not limit batches"


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
    assert engine.sizes.max_batch == 8


def test_larger_batches_are_tried_again_after_many_smaller_ones_succeeded(family: FakeFamily) -> None:
    family.memory_rows = 1
    engine = make_engine(family, max_batch=2)
    first = held_device(engine, family)
    futures = submit(engine, [row(1), row(2)])
    wait_until(lambda: len(engine._ready) == 2)
    family.open.set()
    for future in (first, *futures):
        future.result(TIMEOUT_S)
    assert engine.sizes.max_batch == 1
    for _ in range(GROW_AFTER):
        answers(engine, [row(1)])
    assert engine.sizes.max_batch == 2
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


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError(ILLEGAL_ACCESS),
        torch.AcceleratorError("CUDA error: device-side assert triggered"),
        RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm`"),
    ],
    ids=["illegal access", "failed assertion", "cuBLAS"],
)
def test_a_lost_device_fails_its_batch_and_ends_the_engine(family: FakeFamily, error: Exception) -> None:
    failures: list[bool] = []
    engine = make_engine(family, on_failure=lambda: failures.append(engine.is_alive))
    first = held_device(engine, family)
    waiting = submit(engine, [row(1), row(2)])
    wait_until(lambda: len(engine._ready) == 2)
    family.error = error
    family.open.set()
    failed = first.result(TIMEOUT_S).error
    assert failed is not None and "CUDA error" in failed.reason and not failed.is_permanent
    wait_until(lambda: failures == [False])
    assert (family.calls, [future.done() for future in waiting]) == (1, [False, False])
    with pytest.raises(ModelServerBusyError, match="the device is lost; the model server starts anew"):
        submit(engine, [row(3)])
    engine.close()


def test_a_lost_device_that_is_noticed_when_an_adapter_is_loaded_ends_the_engine(family: FakeFamily) -> None:
    failures: list[bool] = []
    engine = make_engine(family, on_failure=lambda: failures.append(engine.is_alive))
    (result,) = answers(engine, [row(1, adapter="p1.v8/label")])
    assert result.error is not None and "CUDA error" in result.error.reason
    wait_until(lambda: failures == [False])
    engine.close()


@pytest.mark.parametrize(
    "message", ["CUDA error: out of memory", "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate`"]
)
def test_other_ways_to_run_out_of_memory_end_nothing(family: FakeFamily, message: str) -> None:
    failures: list[bool] = []
    engine = make_engine(family, on_failure=lambda: failures.append(True))
    family.open.set()
    family.error = RuntimeError(message)
    (result,) = answers(engine, [row(1)])
    assert result.error is not None and message in result.error.reason
    family.error = None
    assert lengths(answers(engine, [row(2)])) == [2]
    assert failures == [] and engine.is_alive
    engine.close()
