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


def filled(*items: Item) -> FairQueue[Item]:
    queue: FairQueue[Item] = FairQueue()
    for item in items:
        queue.put(item)
    return queue


def names(items: list[Item]) -> list[str]:
    return [item.name for item in items]


def take(queue: FairQueue[Item], most: int) -> list[str]:
    return names(queue.get_batch(lambda _: most, lambda item: item.kind))


def test_the_most_urgent_lane_comes_first_and_a_batch_is_of_one_lane() -> None:
    queue = filled(
        Item("c", priority=Priority.LOOKAHEAD), Item("b", priority=Priority.BULK), Item("a"), Item("a2")
    )
    assert [take(queue, 9) for _ in range(3)] == [["a", "a2"], ["b"], ["c"]]
    assert len(queue) == 0


def test_projects_of_one_lane_take_turns_however_much_one_of_them_sends() -> None:
    many = [Item(f"many{i}", 1) for i in range(6)]
    queue = filled(*many, Item("few0", 2), Item("few1", 2), Item("one", 3))
    assert take(queue, 5) == ["many0", "few0", "one", "many1", "few1"]
    assert take(queue, 9) == ["many2", "many3", "many4", "many5"]


def test_what_is_not_alike_stays_in_its_order_for_another_batch() -> None:
    queue = filled(Item("a"), Item("sound", kind="sound"), Item("b"), Item("c", 2))
    assert take(queue, 9) == ["a", "c"]
    assert take(queue, 9) == ["sound"]
    assert take(queue, 9) == ["b"]


def test_who_waits_gets_the_next_one_and_nothing_at_the_end() -> None:
    queue: FairQueue[Item] = FairQueue()
    with ThreadPoolExecutor(2) as threads:
        waiting = [threads.submit(queue.get) for _ in range(2)]
        queue.put(Item("a"))
        while not any(future.done() for future in waiting):
            threading.Event().wait(0.001)
        queue.close()
        assert {future.result(5) for future in waiting} == {Item("a"), None}
