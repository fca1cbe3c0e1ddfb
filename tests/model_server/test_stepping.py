"""The engine with a family that answers step by step: the tiny generator beside a family of clicks."""

import threading
from collections.abc import Hashable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from prometheus_client import CollectorRegistry

from lorabel.contracts import BatchAdapters, Content, Modality
from lorabel.database.adapter_folders import AdapterFolders
from lorabel.families.base import NO_BATCH_ADAPTERS
from lorabel.families.cache import FeatureCache
from lorabel.families.generation.decoding import Decoding
from lorabel.families.generation.prepared import PreparedInput
from lorabel.families.generation.tiny_models import write_language_model
from lorabel.families.generator import Generator
from lorabel.inference.messages import PredictRequest, Priority, RowResult
from lorabel.settings import Settings
from lorabel.text_contracts import TextInput
from model_server import stepping
from model_server.adapters import AdapterBank
from model_server.engine import BATCHES_AHEAD, Engine
from model_server.family_pool import FamilyPool, LoadedFamily
from model_server.files import Files
from model_server.heads import Heads
from model_server.metrics import Metrics
from model_server.stepping import FEWEST_ROWS
from tests import questions
from tests.model_server.fake_engine import (
    TIMEOUT_S,
    FakeBank,
    FakeFamily,
    fetch,
    lengths,
    load_no_family,
    row,
    wait_until,
)
from tests.model_server.fake_engine import submit as submit_clicks

pytestmark = pytest.mark.slow

NEW_TOKENS = 12


class GatedSteps(Decoding):
    """Steps that wait for a permit each, and note what they computed: `rows` is the rows of each step."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.permits, self.waiting = threading.Semaphore(0), threading.Semaphore(0)
        self.steps: list[int] = []

    def step(self) -> Sequence[Hashable]:
        self.waiting.release()
        assert self.permits.acquire(timeout=TIMEOUT_S)
        self.steps.append(len(self.rows))
        return super().step()

    def let(self, count: int) -> None:
        """Let the step that waits and the next ones go on, and wait until the step after them has come."""
        for _ in range(count):
            assert self.waiting.acquire(timeout=TIMEOUT_S)
            self.permits.release()

    def let_all(self) -> None:
        self.permits.release(10_000)


class Writer:
    """The engine with both families, the steps of the generator, and its answers without the engine."""

    def __init__(self, folder: Path, memory_bytes: int = 10**9, max_batch: int = 8) -> None:
        torch.manual_seed(0)
        source = write_language_model(folder / "base")
        settings = Settings(generator_max_new_tokens=NEW_TOKENS)
        self.family = Generator.load(source, torch.device("cpu"), torch.float32, settings)
        made: list[GatedSteps] = []

        class Gated(Generator):
            def steps(self, bank: BatchAdapters, cache: FeatureCache) -> Any:
                ungated = super().steps(bank, cache)
                made.append(GatedSteps(ungated._decoder, ungated._bank, ungated._output))
                return made[-1]

        gated = Gated.load(source, torch.device("cpu"), torch.float32, settings)
        gated = replace(gated, memory_bytes=memory_bytes)
        self.gated, self._made = gated, made
        self.clicks = FakeFamily()
        self.clicks.open.set()
        bank = AdapterBank(gated, AdapterFolders(folder / "adapters"), 10**6)
        loaded = [
            LoadedFamily(cast(Any, self.clicks), cast(Any, FakeBank()), FeatureCache({})),
            LoadedFamily(gated, bank, FeatureCache({})),
        ]
        metrics = Metrics(CollectorRegistry())
        heads = Heads(AdapterFolders(Path("/nowhere")), metrics)
        pool = FamilyPool(load_no_family, loaded)
        self.engine = Engine(pool, Files(fetch, 0), heads, metrics, max_batch=max_batch, max_waiting=100)

    @property
    def steps(self) -> GatedSteps:
        wait_until(lambda: bool(self._made))
        return self._made[0]

    def ask(
        self, *texts: str, priority: Priority = Priority.BULK, timeout_s: float = 60
    ) -> list[Future[RowResult]]:
        rows = [questions.row(question(text)) for text in texts]
        return self.engine.submit(PredictRequest(rows=rows, timeout_s=timeout_s, project=1, priority=priority))

    def has_all(self, count: int) -> bool:
        """Whether so many rows are ready, wait for room, or are being written."""
        waiting = sum(len(family.waiting) for family in self.engine._stepping._families.values())
        return len(self.engine._ready) + waiting + len(self.steps.rows) == count

    def prepare(self, text: str) -> PreparedInput:
        return self.family.prepare(question(text), lambda _: b"")

    def expected(self, text: str) -> dict[str, Any]:
        (output,) = self.family.predict([self.prepare(text)], [None], NO_BATCH_ADAPTERS, FeatureCache({}))
        return output.model_dump()

    def check(self, text: str, answer: Future[RowResult]) -> None:
        output, expected = answer.result(TIMEOUT_S).output, self.expected(text)
        assert output is not None and output["text"] == expected["text"]
        assert output["probability"] == pytest.approx(expected["probability"], abs=1e-4)


def question(text: str) -> TextInput:
    return TextInput(contents=(Content(modality=Modality.TEXT, text=text),), instruction="Sum up.")


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[Writer]:
    writer = Writer(tmp_path)
    yield writer
    for steps in writer._made:
        steps.let_all()
    writer.engine.close()


def test_a_click_is_answered_after_the_step_that_is_on(writer: Writer) -> None:
    """Eight long texts are being written. Each click is answered though only one step ends after it has come."""
    texts = [f"text {number}" for number in range(8)]
    answers = writer.ask(*texts)
    writer.steps.let(2)
    for number in range(1, 5):
        assert writer.steps.waiting.acquire(timeout=TIMEOUT_S), "a step is on"
        begun = len(writer.steps.steps)
        (click,) = submit_clicks(writer.engine, [row(number)])
        wait_until(lambda: len(writer.engine._ready) == 1)
        writer.steps.permits.release()
        assert lengths([click.result(TIMEOUT_S)]) == [number]
        assert len(writer.steps.steps) == begun + 1
    assert not any(answer.done() for answer in answers)
    writer.steps.let_all()
    for text, answer in zip(texts, answers, strict=True):
        writer.check(text, answer)


def test_all_batches_of_people_that_wait_go_before_the_next_step(writer: Writer) -> None:
    """Twenty clicks fit into three batches of eight."""
    (answer,) = writer.ask("a text")
    assert writer.steps.waiting.acquire(timeout=TIMEOUT_S)
    begun = len(writer.steps.steps)
    clicks = submit_clicks(writer.engine, [row(number) for number in range(20, 40)])
    wait_until(lambda: len(writer.engine._ready) == 20)
    writer.steps.permits.release()
    assert lengths([click.result(TIMEOUT_S) for click in clicks]) == [*range(20, 40)]
    assert len(writer.steps.steps) == begun + 1
    writer.steps.let_all()
    writer.check("a text", answer)


def test_background_batches_of_other_families_and_steps_take_turns(writer: Writer) -> None:
    (answer,) = writer.ask("a text")
    assert writer.steps.waiting.acquire(timeout=TIMEOUT_S)
    writer.clicks.open.clear()
    writer.engine.sizes.row_s[writer.clicks.name] = 0.0
    bulk = submit_clicks(writer.engine, [row(number) for number in range(20, 60)], priority=Priority.BULK)
    wait_until(lambda: len(writer.engine._ready) == BATCHES_AHEAD * 8)
    writer.clicks.open.set()
    writer.steps.let_all()
    assert lengths([each.result(TIMEOUT_S) for each in bulk]) == [*range(20, 60)]
    writer.check("a text", answer)
    assert writer.clicks.sizes == [8] * 5
    assert len(writer.steps.steps) >= 5


def test_rows_join_while_others_are_written_and_leave_when_nobody_waits_for_them(writer: Writer) -> None:
    first, second = writer.ask("the first text", "a second text")
    writer.steps.let(3)
    assert writer.steps.waiting.acquire(timeout=TIMEOUT_S)
    (third,) = writer.ask("and a third text, which joins")
    wait_until(lambda: len(writer.engine._ready) == 1)
    assert second.cancel()
    writer.steps.permits.release()
    writer.steps.let_all()
    writer.check("the first text", first)
    writer.check("and a third text, which joins", third)
    assert max(writer.steps.steps) == 2, "the second left as the third joined"


def test_a_row_whose_time_is_over_leaves_with_an_error(writer: Writer) -> None:
    (late,) = writer.ask("a text", timeout_s=0.3)
    (other,) = writer.ask("another text")
    writer.steps.let(2)
    threading.Event().wait(0.4)
    writer.steps.let_all()
    error = late.result(TIMEOUT_S).error
    assert error is not None and "timed out" in error.reason and not error.is_permanent
    writer.check("another text", other)


def test_rows_wait_while_there_is_no_memory_and_people_go_first(tmp_path: Path) -> None:
    """One token takes 256 bytes; there is room for three rows like the first."""
    prompt = len(Writer(tmp_path / "other").prepare("text 0").prompt)
    writer = Writer(tmp_path, memory_bytes=3 * 256 * (prompt + NEW_TOKENS))
    texts = [f"text {number}" for number in range(6)]
    answers = writer.ask(*texts)
    assert writer.steps.waiting.acquire(timeout=TIMEOUT_S)
    (urgent,) = writer.ask("urgent", priority=Priority.INTERACTIVE)
    wait_until(lambda: writer.has_all(7))
    begun = len(writer.steps.rows)
    order: list[str] = []
    for text, answer in [("urgent", urgent), *zip(texts, answers, strict=True)]:
        answer.add_done_callback(lambda _, text=text: order.append(text))
    writer.steps.let_all()
    for text, answer in [("urgent", urgent), *zip(texts, answers, strict=True)]:
        writer.check(text, answer)
    assert max(writer.steps.steps) == 3
    assert order.index("urgent") == begun, "it goes before the rows that have not begun"
    writer.engine.close()


def test_a_person_s_text_does_not_wait_for_the_end_of_texts_in_the_background(tmp_path: Path) -> None:
    """Two rows may be written together, and two of a bulk run are; two of people join them, and a third waits."""
    writer = Writer(tmp_path, max_batch=2)
    bulk = writer.ask("a text", "another text", "a text that waits")
    writer.steps.let(2)
    assert writer.steps.waiting.acquire(timeout=TIMEOUT_S)
    urgent = writer.ask("urgent", "urgent, too", "a third", priority=Priority.INTERACTIVE)
    wait_until(lambda: writer.has_all(6))
    writer.steps.let_all()
    for text, answer in zip(("urgent", "urgent, too", "a third"), urgent, strict=True):
        writer.check(text, answer)
    for text, answer in zip(("a text", "another text", "a text that waits"), bulk, strict=True):
        writer.check(text, answer)
    assert max(writer.steps.steps) == 4
    writer.engine.close()


@pytest.mark.parametrize(("longest_step_s", "most"), [(0.0, FEWEST_ROWS), (60.0, 12)])
def test_many_rows_are_computed_together_only_while_steps_are_quick(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, longest_step_s: float, most: int
) -> None:
    monkeypatch.setattr(stepping, "STEP_S", longest_step_s)
    writer = Writer(tmp_path, max_batch=16)
    texts = [f"text {number}" for number in range(12)]
    answers = writer.ask(*texts)
    assert writer.steps.waiting.acquire(timeout=TIMEOUT_S)
    wait_until(lambda: writer.has_all(12))
    writer.steps.let_all()
    for text, answer in zip(texts, answers, strict=True):
        writer.check(text, answer)
    assert max(writer.steps.steps) == most
    writer.engine.close()


def test_when_memory_runs_out_the_newest_row_waits_and_the_others_go_on(writer: Writer) -> None:
    limit, failures = 2, []

    def out_of_memory(_: Any, args: Any, kwargs: Any) -> None:
        if kwargs["input_ids"].shape[0] > limit:
            failures.append(kwargs["input_ids"].shape[0])
            raise torch.OutOfMemoryError("out of memory")

    writer.gated.module.register_forward_pre_hook(out_of_memory, with_kwargs=True)
    texts = ["one", "two and more", "three"]
    answers = writer.ask(*texts)
    writer.steps.let_all()
    for text, answer in zip(texts, answers, strict=True):
        writer.check(text, answer)
    assert failures


def test_a_person_s_row_beside_which_memory_runs_out_waits_until_another_is_done(tmp_path: Path) -> None:
    """There is memory for as many rows as may be in the background, and it must not be tried again and again."""
    writer = Writer(tmp_path, max_batch=2)

    def out_of_memory(_: Any, args: Any, kwargs: Any) -> None:
        if kwargs["input_ids"].shape[0] > 2:
            raise torch.OutOfMemoryError("out of memory")

    writer.gated.module.register_forward_pre_hook(out_of_memory, with_kwargs=True)
    bulk = writer.ask("a text", "another text")
    writer.steps.let(2)
    assert writer.steps.waiting.acquire(timeout=TIMEOUT_S)
    (urgent,) = writer.ask("urgent", priority=Priority.INTERACTIVE)
    wait_until(lambda: writer.has_all(3))
    writer.steps.let_all()
    for text, answer in zip(("a text", "another text", "urgent"), (*bulk, urgent), strict=True):
        writer.check(text, answer)
    writer.engine.close()


def test_a_step_that_fails_for_another_reason_fails_its_rows_and_not_the_next(writer: Writer) -> None:
    def fail(*_: Any) -> None:
        raise ValueError("unlucky")

    hook = writer.gated.module.register_forward_pre_hook(fail)
    (answer,) = writer.ask("a text")
    writer.steps.permits.release()
    error = answer.result(TIMEOUT_S).error
    assert error is not None and "ValueError" in error.reason
    hook.remove()
    (again,) = writer.ask("a text")
    writer.steps.let_all()
    writer.check("a text", again)
    assert writer.engine.is_alive
