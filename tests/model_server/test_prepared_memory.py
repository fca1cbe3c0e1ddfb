"""Background rows wait for the memory of prepared rows of their family, and come again when there is room."""

from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any, cast

import torch

from lorabel.families.base import Family
from lorabel.families.cache import FeatureCache
from lorabel.inference.messages import Priority, RowResult
from model_server.family_pool import LoadedFamily
from model_server.prepared_memory import PreparedMemory
from model_server.rows import Row
from tests.questions import about_text

MOST_BYTES = 10


def background_row(family: str = "generator", project: int = 1) -> Row:
    loaded = LoadedFamily(cast(Family, SimpleNamespace(name=family)), cast(Any, None), FeatureCache({}))
    question = about_text("x", ("a",))
    return Row(question, None, None, project, Priority.BULK, 0.0, Future(), loaded=loaded)


def prepared(memory: PreparedMemory, row: Row, size: int) -> Row:
    row.example = torch.zeros(size, dtype=torch.uint8)
    memory.hold(row)
    return row


def test_rows_that_are_held_back_come_again_however_the_prepared_ones_end() -> None:
    again: list[Row] = []
    memory = PreparedMemory(MOST_BYTES, again.append)
    answered, cancelled = (prepared(memory, background_row(), 8) for _ in range(2))
    waiting = [background_row() for _ in range(3)]
    assert not any(memory.begin(row) for row in waiting)
    answered.finish(RowResult(output={}))
    assert again == waiting and memory.begin(background_row())
    prepared(memory, again[0], 2)
    assert not memory.begin(again[1])
    assert cancelled.done.cancel()
    assert again == [*waiting, waiting[1]]


def test_a_row_that_is_cancelled_before_it_is_counted_takes_no_room() -> None:
    memory = PreparedMemory(MOST_BYTES, lambda _: None)
    row = background_row()
    row.done.cancel()
    prepared(memory, row, MOST_BYTES)
    assert memory.begin(background_row())


def test_large_pictures_of_a_slow_family_hold_back_no_rows_of_another() -> None:
    again: list[Row] = []
    memory = PreparedMemory(MOST_BYTES, again.append)
    picture = prepared(memory, background_row(), MOST_BYTES)
    text, other_picture = background_row("text_encoder", project=2), background_row(project=2)
    assert memory.begin(text) and not memory.begin(other_picture)
    prepared(memory, text, MOST_BYTES).finish(RowResult(output={}))
    assert again == [], "the other family has no room yet"
    picture.finish(RowResult(output={}))
    assert again == [other_picture]
