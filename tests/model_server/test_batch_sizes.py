"""How many rows may be computed together."""

from concurrent.futures import Future
from typing import Any, cast

import pytest
from prometheus_client import CollectorRegistry

from lorabel.families.cache import FeatureCache
from lorabel.inference.messages import Priority
from model_server.batch_sizes import BACKGROUND_BATCH_S, GATHERED_ROWS, BatchSizes
from model_server.family_pool import LoadedFamily
from model_server.metrics import Metrics
from model_server.rows import Row
from tests.model_server.fake_engine import FakeFamily


def with_threads(threads: int) -> BatchSizes:
    """Sizes of a device whose thread computes with so many of torch's threads, after a person has asked."""
    sizes = BatchSizes(32, threads, Metrics(CollectorRegistry()))
    sizes.note_person()
    return sizes


@pytest.fixture
def sizes() -> BatchSizes:
    return with_threads(2)


def first_row(family: FakeFamily, priority: Priority) -> Row:
    loaded = LoadedFamily(cast(Any, family), cast(Any, None), FeatureCache({}))
    return Row(cast(Any, None), None, None, 1, priority, 0.0, Future(), loaded=loaded)


def test_rows_of_their_own_cores_are_tried_together_if_one_takes_more_than_half_of_the_time(
    sizes: BatchSizes,
) -> None:
    """Before, batches stayed at one row on two cores, of which one had nothing to do."""
    shared, divided = FakeFamily("shared"), FakeFamily("divided", divides_rows=True)
    for family in (shared, divided):
        sizes.learn(cast(Any, family), 1, 0.7 * BACKGROUND_BATCH_S)
    assert sizes.most(first_row(shared, Priority.BULK)) == 1
    assert sizes.most(first_row(divided, Priority.BULK)) == 2
    for _ in range(3):
        sizes.learn(cast(Any, divided), 2, 1.6 * BACKGROUND_BATCH_S)
    assert sizes.most(first_row(divided, Priority.BULK)) == 1, "two rows take too long"


def test_rows_that_take_longer_than_a_batch_may_are_computed_one_on_each_core(sizes: BatchSizes) -> None:
    """Before, a model that needed more than BACKGROUND_BATCH_S for a row had batches of one row for ever."""
    shared, divided = FakeFamily("shared"), FakeFamily("divided", divides_rows=True)
    for family in (shared, divided):
        sizes.learn(cast(Any, family), 1, 1.2 * BACKGROUND_BATCH_S)
    assert sizes.most(first_row(shared, Priority.BULK)) == 1
    assert sizes.most(first_row(divided, Priority.BULK)) == 2
    for _ in range(3):
        sizes.learn(cast(Any, divided), 2, 1.5 * BACKGROUND_BATCH_S)
    assert sizes.most(first_row(divided, Priority.BULK)) == 2, "little longer than one row"
    for _ in range(5):
        sizes.learn(cast(Any, divided), 2, 2.4 * BACKGROUND_BATCH_S)
    assert sizes.most(first_row(divided, Priority.BULK)) == 1, "twice as long as one row"
    for _ in range(30):
        sizes.learn(cast(Any, divided), 1, 1.2 * BACKGROUND_BATCH_S)
    assert sizes.most(first_row(divided, Priority.BULK)) == 2, "the cores may be free again"


def test_rows_are_not_taken_for_divided_where_there_are_more_cores_than_rows_go_through_the_model() -> None:
    sizes = with_threads(4)
    family = FakeFamily(divides_rows=True, most_rows=3)
    sizes.learn(cast(Any, family), 1, 0.7 * BACKGROUND_BATCH_S)
    assert sizes.most(first_row(family, Priority.BULK)) == 1


def test_fewer_rows_than_cores_count_as_shared_by_all_cores() -> None:
    """Before, they counted as one on each core, and as a single row that others are compared with."""
    sizes = with_threads(16)
    family = FakeFamily(divides_rows=True)
    row = first_row(family, Priority.BULK)
    sizes.learn(cast(Any, family), 1, 0.19 * BACKGROUND_BATCH_S)
    assert sizes.most(row) == 16, "dividing is tried"
    sizes.learn(cast(Any, family), 16, 4.5 * BACKGROUND_BATCH_S)
    for _ in range(10):
        rows = sizes.most(row)
        assert rows == 5, "too slow for a person who waits"
        sizes.learn(cast(Any, family), rows, rows * 0.19 * BACKGROUND_BATCH_S)


def test_the_first_divided_batch_takes_no_longer_than_it_may_if_dividing_is_of_no_use() -> None:
    sizes = with_threads(4)
    family = FakeFamily(divides_rows=True)
    sizes.learn(cast(Any, family), 1, 0.1 * BACKGROUND_BATCH_S)
    assert sizes.most(first_row(family, Priority.BULK)) in (9, 10)


@pytest.mark.parametrize("priority", Priority)
def test_batches_have_no_more_rows_than_the_family_computes_together(
    sizes: BatchSizes, priority: Priority
) -> None:
    family = FakeFamily(most_rows=8)
    sizes.learn(cast(Any, family), 8, 0.001)
    assert sizes.most(first_row(family, priority)) == 8


def test_background_rows_wait_for_those_that_are_coming_and_a_persons_row_for_none(sizes: BatchSizes) -> None:
    family = FakeFamily()
    sizes.learn(cast(Any, family), 1, 0.09 * BACKGROUND_BATCH_S)
    row = first_row(family, Priority.BULK)
    assert [sizes.wanted(row, coming) for coming in (1, 4, 100)] == [1, 4, 11], "no more than a batch may have"
    sizes.learn(cast(Any, family), 1, 0.0)
    assert sizes.wanted(row, 100) == GATHERED_ROWS
    assert sizes.wanted(first_row(family, Priority.INTERACTIVE), 100) == 1
