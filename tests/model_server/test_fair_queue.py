"""The order in which the queue gives its items, and the batches that it forms."""

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

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
