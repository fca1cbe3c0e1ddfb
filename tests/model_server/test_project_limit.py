"""Rows that are held back come when there is room."""

from dataclasses import dataclass

from lorabel.inference.messages import Priority
from model_server.project_limit import ProjectLimit


@dataclass(frozen=True)
class Item:
    number: int
    project: int = 1
    priority: Priority = Priority.BULK


def test_as_many_items_as_a_raised_limit_allows_come_back_at_once() -> None:
    most = 1
    limit: ProjectLimit[Item] = ProjectLimit(lambda _: most)
    items = [Item(number) for number in range(6)]
    assert [limit.begin(item) for item in items] == [True, *[False] * 5]
    most = 3
    assert limit.end(items[0]) == items[1:4]
    assert all(limit.begin(item) for item in items[1:4])
    most = 1
    assert limit.end(items[1]) == [] == limit.end(items[2]), "the limit was lowered"
    assert limit.end(items[3]) == [items[4]]
