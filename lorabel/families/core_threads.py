"""Computes the rows of a batch on all cores: each computes some of the rows, from the first layer to the last.

torch's own threads share each layer instead, and wait for each other several hundred times in a forward pass. They
sleep meanwhile, so that other processes get the cores (OMP_WAIT_POLICY=PASSIVE), and wake late, often on the core
that has just woken them: two of them were no faster than one, while two rows at a time took half the time.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from contextvars import copy_context
from functools import cache
from threading import Barrier, Lock, Thread
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

from lorabel.contracts import BatchAdapters

S = TypeVar("S")
T = TypeVar("T")
R = TypeVar("R", bound=Tensor | Sequence[Any])
_SETTING = Lock()


def on_all_cores(compute: Callable[[R], Tensor], rows: R, device: torch.device) -> Tensor:
    """Return what `compute` makes of the rows, (rows, ...), in their order; see `parts_on_all_cores`."""
    parts = parts_on_all_cores(compute, rows, device)
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def with_adapters(
    compute: Callable[[R], Tensor],
    rows: R,
    adapters: Sequence[str | None],
    bank: BatchAdapters,
    device: torch.device,
) -> Tensor:
    """Return what `compute` makes of the rows, (rows, ...), in their order, on all cores. Row i has `adapters[i]`.

    Rows of one adapter are computed next to each other, since the bank then multiplies them together.

    Args:
        compute: what it makes of a row does not depend on the others. Many threads call it.
        device: on which it computes.
    """
    if len(set(adapters)) == 1:
        with bank.use(adapters):
            return on_all_cores(compute, rows, device)
    order = sorted(range(len(rows)), key=lambda row: adapters[row] or "")

    def compute_part(part: Sequence[int]) -> Tensor:
        with bank.use([adapters[row] for row in part]):
            return compute(cast(R, rows[part] if isinstance(rows, Tensor) else [rows[row] for row in part]))

    computed = on_all_cores(compute_part, order, device)
    return computed[torch.tensor(order, device=computed.device).argsort()]


def parts_on_all_cores(compute: Callable[[R], T], rows: R, device: torch.device) -> list[T]:
    """Return what `compute` makes of the rows, in their order, a part for each core.

    There is one part, unless this is inference mode on a CPU with at least as many rows as torch has threads.

    Args:
        compute: what it makes of a row does not depend on the others. Many threads call it.
        device: on which it computes.
    """
    threads = torch.get_num_threads()
    if not 1 < threads <= len(rows) or device.type != "cpu" or not torch.is_inference_mode_enabled():
        return [compute(rows)]
    bounds = [len(rows) * part // threads for part in range(threads + 1)]
    return all_at_once(compute, [cast(R, rows[start:end]) for start, end in itertools.pairwise(bounds)], device)


def all_at_once(compute: Callable[[S], T], items: Sequence[S], device: torch.device) -> list[T]:
    """Return what `compute` makes of each item. On a CPU each item has an equal share of the cores.

    They are computed one after the other, in this thread, if there are more of them than cores, on another device,
    and where gradients are wanted.

    Args:
        compute: many threads call it, in inference mode if this thread is.
        device: on which it computes.

    Raises:
        Exception: of the first item that failed, when none is computed any longer.
    """
    threads = torch.get_num_threads()
    if not 1 < len(items) <= threads or device.type != "cpu" or torch.is_grad_enabled():
        return [compute(item) for item in items]
    pool, is_inference = _pool(len(items), threads), torch.is_inference_mode_enabled()

    def compute_alone(item: S) -> T:
        with torch.inference_mode(is_inference), torch.no_grad():  # a thread begins without them
            return compute(item)

    # Each in a copy of this thread's context, which has the adapters of the rows.
    futures = [pool.submit(copy_context().run, compute_alone, item) for item in items]
    wait(futures)  # also after an error: no thread computes on with what the caller is about to change
    return [future.result() for future in futures]


@contextmanager
def on_one_core() -> Iterator[None]:
    """Let this thread compute with one of torch's threads, so that others do not wait for the cores.

    Threads that begin meanwhile have as many as before.
    """
    with _SETTING:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        later = Thread(
            target=torch.set_num_threads, args=(threads,)
        )  # also says what threads get that begin later
        later.start()
        later.join()
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@cache
def _pool(count: int, threads: int) -> ThreadPoolExecutor:
    """Threads which share those of torch."""
    pool = ThreadPoolExecutor(count, "core", compute_with, (threads // count,))
    together = Barrier(count)
    list(pool.map(lambda _: together.wait(), range(count)))
    torch.set_num_threads(threads)  # what a thread sets is also what threads get that begin later
    return pool


def compute_with(threads: int) -> None:
    """Set how many of torch's threads compute for this thread."""
    torch.get_num_threads()  # else torch sets the number again when the thread first computes
    torch.set_num_threads(threads)
