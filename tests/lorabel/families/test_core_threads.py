"""Rows of a batch that are computed on all cores."""

import threading
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

import pytest
import torch
from torch import Tensor

from lorabel.contracts import BatchAdapters
from lorabel.families.core_threads import all_at_once, on_all_cores, on_one_core, with_adapters

THREADS = 3
CPU = torch.device("cpu")


class Recording:
    """Doubles rows, and notes in which thread, how many of them, and with how many of torch's threads."""

    def __init__(self) -> None:
        self.parts: list[tuple[str, int, int]] = []
        self.is_inference = True
        self._all_busy = threading.Barrier(THREADS)

    def __call__(self, rows: Tensor) -> Tensor:
        name = threading.current_thread().name
        self.parts.append((name, len(rows), torch.get_num_threads()))
        self.is_inference &= torch.is_inference_mode_enabled()
        if name.startswith("core"):
            self._all_busy.wait(10)
        return 2 * rows


@pytest.fixture(autouse=True)
def torch_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(THREADS)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("count", [3, 4, 8])
def test_rows_are_divided_among_threads_that_compute_at_the_same_time(count: int) -> None:
    compute, rows = Recording(), torch.arange(2.0 * count).reshape(count, 2)
    with torch.inference_mode():
        assert torch.equal(on_all_cores(compute, rows, CPU), 2 * rows)
    assert len({name for name, _, _ in compute.parts}) == THREADS
    assert {threads for _, _, threads in compute.parts} == {1}
    sizes = [size for _, size, _ in compute.parts]
    assert sum(sizes) == count and max(sizes) - min(sizes) <= 1
    assert compute.is_inference
    assert torch.get_num_threads() == THREADS


def test_threads_that_begin_later_have_as_many_of_torchs_threads_as_before() -> None:
    with torch.inference_mode():
        on_all_cores(Recording(), torch.zeros(THREADS, 1), CPU)
    seen: list[int] = []
    thread = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    assert seen == [THREADS]


def test_few_rows_and_rows_with_gradients_are_not_divided() -> None:
    compute = Recording()
    with torch.inference_mode():
        on_all_cores(compute, torch.zeros(THREADS - 1, 1), CPU)
    on_all_cores(compute, torch.zeros(THREADS, 1), CPU)
    here = threading.current_thread().name
    assert compute.parts == [(here, THREADS - 1, THREADS), (here, THREADS, THREADS)]


def test_an_error_in_a_thread_is_raised() -> None:
    def fail(rows: Tensor) -> Tensor:
        raise torch.OutOfMemoryError("no memory")

    with torch.inference_mode(), pytest.raises(torch.OutOfMemoryError, match="no memory"):
        on_all_cores(fail, torch.zeros(THREADS, 1), CPU)


def test_no_part_computes_on_when_another_has_failed() -> None:
    """The caller changes the adapters then, and tries fewer rows."""
    ended = []

    def compute(rows: Tensor) -> Tensor:
        if rows[0, 0] == 0:
            raise torch.OutOfMemoryError("no memory")
        time.sleep(0.1)
        ended.append(1)
        return rows

    with torch.inference_mode(), pytest.raises(torch.OutOfMemoryError):
        on_all_cores(compute, torch.arange(float(THREADS))[:, None], CPU)
    assert len(ended) == THREADS - 1


def test_items_are_computed_at_once_each_on_an_equal_share_of_the_cores() -> None:
    together = threading.Barrier(2)

    def compute(item: int) -> tuple[int, int, bool, bool]:
        together.wait(10)
        return 2 * item, torch.get_num_threads(), torch.is_grad_enabled(), torch.is_inference_mode_enabled()

    torch.set_num_threads(5)
    for is_inference in (False, True):
        with torch.inference_mode(is_inference), torch.no_grad():
            assert all_at_once(compute, [1, 2], CPU) == [(2, 2, False, is_inference), (4, 2, False, is_inference)]
    assert torch.get_num_threads() == 5


def test_items_that_are_more_than_cores_or_need_gradients_are_computed_one_after_the_other() -> None:
    def compute(item: int) -> str:
        return threading.current_thread().name

    own = threading.current_thread().name
    with torch.no_grad():
        assert all_at_once(compute, range(THREADS + 1), CPU) == [own] * (THREADS + 1)
        assert all_at_once(compute, [1], CPU) == [own]
    assert all_at_once(compute, [1, 2], CPU) == [own, own]


def test_a_thread_on_one_core_changes_the_number_of_no_other_thread() -> None:
    numbers: list[int] = []

    def note_number() -> None:
        numbers.append(torch.get_num_threads())

    with on_one_core():
        note_number()
        later = threading.Thread(target=note_number)
        later.start()
        later.join()
    note_number()
    assert numbers == [1, THREADS, THREADS]


class Multiplying(BatchAdapters):
    """A bank whose adapters are named by the factor with which they multiply a row."""

    def __init__(self) -> None:
        self.used: ContextVar[Sequence[str | None]] = ContextVar("used")

    @contextmanager
    def use(self, adapters: Sequence[str | None]) -> Iterator[None]:
        before = self.used.set(adapters)
        yield
        self.used.reset(before)

    def effective_adapter(self, adapter: str | None, layers: Collection[str]) -> str | None:
        return adapter


@pytest.mark.parametrize(
    "adapters",
    [["5", "2", None, "5", "2", "3", "5"], ["2"] * 7, [None] * 7, ["7", "2"]],
    ids=["mixed", "the same", "none", "fewer rows than cores"],
)
@pytest.mark.parametrize("is_list", [True, False])
def test_each_row_is_computed_with_its_adapter_and_rows_of_one_adapter_together(
    adapters: list[str | None], is_list: bool
) -> None:
    bank, parts = Multiplying(), []
    pictures = torch.arange(1.0, len(adapters) + 1)[:, None].repeat(1, 2)

    def compute(rows: Tensor | Sequence[Tensor]) -> Tensor:
        used = bank.used.get()
        parts.append(used)
        given = rows if isinstance(rows, Tensor) else torch.stack(list(rows))
        factors = [float(adapter or 1) for adapter in used[: len(given)]]
        return given * torch.tensor(factors)[:, None]

    rows = list(pictures) if is_list else pictures
    with torch.inference_mode():
        computed = with_adapters(compute, rows, adapters, bank, CPU)
    assert computed.tolist() == [
        (row * float(adapter or 1)).tolist() for row, adapter in zip(pictures, adapters, strict=True)
    ]
    assert len(parts) == (THREADS if len(adapters) >= THREADS else 1)
    for used in parts:
        assert list(used) == sorted(used, key=lambda adapter: adapter or "")
