"""An engine with a hand-written family that can block, fail or run out of memory."""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import torch
from prometheus_client import CollectorRegistry

from lorabel.contracts import LabelScores, LabelsInput, MediaRef, media_of
from lorabel.database.adapter_folders import AdapterFolders
from lorabel.errors import UnreadableError
from lorabel.families.base import Fetch
from lorabel.families.cache import FeatureCache
from lorabel.families.loading import family_types
from lorabel.inference.messages import PredictRequest, PredictRow, Priority, RowResult
from model_server.engine import Engine
from model_server.family_pool import FamilyPool, LoadedFamily
from model_server.files import Files
from model_server.heads import Heads
from model_server.metrics import Metrics
from tests import questions
from tests.questions import about_picture

TIMEOUT_S = 10.0
SECRET = "hunter2"
LONG_ROWS = 6
ILLEGAL_ACCESS = "CUDA error: an illegal memory access was encountered\nCUDA kernel errors might be reported later"


@dataclass
class FakeFamily:
    """Answers with the length of the file, as if it were a probability.

    Args:
        most_rows, divides_rows: see `Family`.
        memory_rows: larger batches run out of memory.
        too_large: a batch with this example runs out of memory.
        row_s: seconds that a row takes on the device.
        long: an example of this length takes LONG_ROWS rows of a batch.
        error: is raised for each batch.
        open: `predict` waits until it is set.
        slow: preparing a file of this length waits until `open` is set.
        preparing: is released by each call that begins to wait so.
        busy: is set once `predict` was called.
        prepared: the examples in the order in which they were prepared.
        batches: the examples of each call that raised no error.
        calls: number of calls.
    """

    name: str = "dual_encoder"
    most_rows: int | None = None
    divides_rows: bool = False
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    memory_rows: int = 1000
    too_large: int | None = None
    row_s: float = 0.0
    error: Exception | None = None
    slow: int | None = None
    long: int | None = None
    preparing: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    calls: int = 0
    open: threading.Event = field(default_factory=threading.Event)
    busy: threading.Event = field(default_factory=threading.Event)
    prepared: list[int] = field(default_factory=list)
    batches: list[list[int]] = field(default_factory=list)

    def recall(self, *_: Any) -> None:
        return None

    def prepare(self, question: LabelsInput, fetch: Fetch) -> int:
        length = sum(len(fetch(media)) for media in media_of(question))
        if length == self.slow:
            self.preparing.release()
            assert self.open.wait(TIMEOUT_S)
        self.prepared.append(length)
        return length

    def predict(self, examples: Sequence[int], adapters: Any, bank: Any, cache: Any) -> list[LabelScores]:
        self.busy.set()
        assert self.open.wait(TIMEOUT_S)
        self.calls += 1
        if self.error is not None:
            raise self.error
        if len(examples) > self.memory_rows or self.too_large in examples:
            raise torch.OutOfMemoryError("CUDA out of memory")
        self.batches.append(list(examples))
        if self.row_s:
            threading.Event().wait(self.row_s * len(examples))
        if 13 in examples:
            raise ValueError("unlucky")
        return [LabelScores(probabilities=(float(example),)) for example in examples]

    def batch_rows(self, example: int) -> int:
        return LONG_ROWS if example == self.long else 1

    @property
    def sizes(self) -> list[int]:
        return [len(batch) for batch in self.batches]


class FakeBank(SimpleNamespace):
    def load(self, name: str) -> None:
        if name == "p1.v8/label":
            raise RuntimeError(ILLEGAL_ACCESS)
        if name == "p1.v9/label":
            raise UnreadableError("adapter p1.v9/label does not fit", is_permanent=False)


def fetch(media: MediaRef) -> bytes:
    if media.url == "broken":
        raise UnreadableError("no readable picture", is_permanent=True)
    if media.url == "forbidden":
        raise UnreadableError("not public", is_permanent=False)
    if media.url == "bug":
        raise RuntimeError("a bug")
    if media.url == "quoted":
        raise ValueError(f"found {SECRET!r} " + "and so on\n" * 100)
    return b"x" * int(media.url)


def load_no_family(family_type: Any) -> LoadedFamily:
    raise AssertionError(f"{family_type} must not be loaded")


def make_engine(family: FakeFamily, on_failure: Callable[[], None] = lambda: None, **limits: int) -> Engine:
    family_types()  # imports all families, which would count towards the time of the first row
    loaded_family = LoadedFamily(cast(Any, family), cast(Any, FakeBank()), FeatureCache({}))
    sizes = {"max_batch": 8, "max_waiting": 100, **limits}
    family_pool = FamilyPool(load_no_family, [loaded_family])
    metrics = Metrics(CollectorRegistry())
    heads = Heads(AdapterFolders(Path("/nowhere")), metrics)
    return Engine(family_pool, Files(fetch, 0), heads, metrics, on_failure=on_failure, **sizes)


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
    """Put one row on the device, which stays there until `family.open` is set. Rows count as quick."""
    engine.sizes.row_s[family.name] = 0.0
    (first,) = submit(engine, [row(99)])
    assert family.busy.wait(TIMEOUT_S)
    return first
