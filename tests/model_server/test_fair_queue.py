"""The order in which the queue gives its items, and the batches that it forms."""

import threading
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import pytest

from lorabel.inference.messages import Priority
from model_server.fair_queue import FairQueue


class Item(NamedTuple):
    name: str
    project: int = 1
    priority: Priority = Priority.INTERACTIVE
    kind: str = "picture"
    rows: int = 1


def filled(*items: Item) -> FairQueue[Item]:
    queue: FairQueue[Item] = FairQueue()
    for item in items:
        queue.put(item)
    return queue


def names(items: list[Item]) -> list[str]:
    return [item.name for item in items]


def take(queue: FairQueue[Item], max_items: int) -> list[str]:
    return names(queue.get_batch(lambda _: max_items, lambda item: item.kind, lambda item: item.rows))


def test_the_most_urgent_priority_comes_first_and_a_batch_has_one_priority() -> None:
    queue = filled(
        Item("c", priority=Priority.LOOKAHEAD), Item("b", priority=Priority.BULK), Item("a"), Item("a2")
    )
    assert [take(queue, 9) for _ in range(3)] == [["a", "a2"], ["b"], ["c"]]
    assert len(queue) == 0


def test_projects_of_one_priority_take_turns_even_if_one_has_many_items() -> None:
    many = [Item(f"many{i}", 1) for i in range(6)]
    queue = filled(*many, Item("few0", 2), Item("few1", 2), Item("single", 3))
    assert take(queue, 5) == ["many0", "few0", "single", "many1", "few1"]
    assert take(queue, 9) == ["many2", "many3", "many4", "many5"]


def test_items_with_another_batch_key_wait_in_order_for_a_later_batch() -> None:
    queue = filled(Item("a"), Item("sound", kind="sound"), Item("b"), Item("c", 2))
    assert take(queue, 9) == ["a", "c"]
    assert take(queue, 9) == ["sound"]
    assert take(queue, 9) == ["b"]


def test_a_batch_ends_before_an_item_of_too_many_rows_which_comes_next() -> None:
    queue = filled(Item("a"), Item("long", rows=4), Item("b"), Item("longer", rows=50), Item("c"))
    assert take(queue, 5) == ["a", "long"]
    assert take(queue, 5) == ["b"]
    assert take(queue, 5) == ["longer"], "no batch is empty"
    assert take(queue, 5) == ["c"]


def test_a_waiting_thread_gets_the_next_item_and_none_when_the_queue_closes() -> None:
    queue: FairQueue[Item] = FairQueue()
    with ThreadPoolExecutor(2) as threads:
        waiting = [threads.submit(queue.get) for _ in range(2)]
        queue.put(Item("a"))
        while not any(future.done() for future in waiting):
            threading.Event().wait(0.001)
        queue.close()
        assert {future.result(5) for future in waiting} == {Item("a"), None}


def bulk(*names_of_items: str) -> list[Item]:
    return [Item(name, priority=Priority.BULK) for name in names_of_items]


def gathered(queue: FairQueue[Item], wanted: int, timeout_s: float = 10.0) -> "Future[None]":
    """Gather in a thread; a person's item is enough."""
    done: Future[None] = Future()

    def gather() -> None:
        queue.gather(lambda item: 1 if item.priority == Priority.INTERACTIVE else wanted, timeout_s)
        done.set_result(None)

    threading.Thread(target=gather, daemon=True).start()
    return done


def test_gathering_ends_when_there_are_enough_items_and_not_before() -> None:
    queue = filled(*bulk("a"))
    done = gathered(queue, 3)
    queue.put(bulk("b")[0])
    with pytest.raises(TimeoutError):
        done.result(0.05)
    queue.put(bulk("c")[0])
    done.result(5.0)
    assert take(queue, 9) == ["a", "b", "c"]


def test_gathering_ends_at_once_when_a_person_asks_when_the_time_is_over_and_when_the_queue_is_closed() -> None:
    queue = filled(*bulk("a"))
    done = gathered(queue, 3)
    queue.put(Item("person"))
    done.result(5.0)
    assert take(queue, 9) == ["person"]
    gathered(queue, 3, timeout_s=0.01).result(5.0)
    done = gathered(queue, 3)
    queue.close()
    done.result(5.0)


def test_each_item_is_noticed_again_after_gathering() -> None:
    queue = filled(*bulk("a"))
    gathered(queue, 3, timeout_s=0.01).result(5.0)
    assert take(queue, 9) == ["a"]
    with ThreadPoolExecutor(1) as threads:
        taken = threads.submit(take, queue, 9)
        queue.put(bulk("b")[0])
        assert taken.result(5.0) == ["b"]
