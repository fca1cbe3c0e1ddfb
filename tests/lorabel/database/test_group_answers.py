"""Groups are read from the tasks' data, whatever it is."""

from datetime import timedelta
from typing import Any

import pytest

from lorabel.database.group_answers import NO_VALUE, shown_by_group
from lorabel.database.store import Store
from lorabel.database.tables import Annotation, now
from lorabel.errors import BadRequestError
from tests.lorabel.database.test_newest_answers import choice


def add(store: Store, annotation_id: int, data: Any, **columns: Any) -> None:
    row = {
        "task_id": annotation_id,
        "task_data": data,
        "result": choice("red"),
        "prediction_id": 1,
        "prediction_version": "p1.v1.r2",
        "prediction_result": choice("red"),
        "is_accepted": True,
        "updated_at": now() + timedelta(seconds=annotation_id),
    }
    with store.write() as session:
        session.add(Annotation(project_id=1, id=annotation_id, **{**row, **columns}))


def groups(store: Store, field: str) -> dict[int, str]:
    with store.read() as session:
        return {shown.task_id: group for group, shown in shown_by_group(session, 1, field)}


def test_a_task_is_in_the_group_of_its_field(store: Store) -> None:
    values = ["DE", " DE ", 7, 7.0, True, None, ["DE"], {"a": 1}, "", "x" * 998, "x" * 999]
    for number, value in enumerate(values, start=1):
        add(store, number, {"country": value})
    add(store, 12, {})
    add(store, 13, None)
    found = groups(store, "country")
    assert [found[number] for number in range(1, 14)] == [
        "DE",
        "DE",
        "7",
        "7",
        "true",
        *[NO_VALUE] * 4,
        "x" * 998,
        *[NO_VALUE] * 3,
    ]


def test_a_field_in_a_field_is_found_unless_a_field_has_the_name(store: Store) -> None:
    add(store, 1, {"meta": {"country": "DE"}})
    add(store, 2, {"meta": {"country": "DE"}, "meta.country": "FR"})
    add(store, 3, {"meta": "DE"})
    add(store, 4, {"meta": [{"country": "DE"}]})
    assert groups(store, "meta.country") == {1: "DE", 2: "FR", 3: NO_VALUE, 4: NO_VALUE}
    assert groups(store, "1") == dict.fromkeys((1, 2, 3, 4), NO_VALUE)


def test_the_name_of_a_field_is_any_text(store: Store) -> None:
    names = ["Größe", "a b", "国", "😀", "a\n", "'", "$", "*", "a[0]"]
    add(store, 1, {name: name + "." for name in names} | {"päth": {"ü": "q"}})
    assert {name: groups(store, name)[1] for name in names} == {name: name + "." for name in names}
    assert groups(store, "päth.ü") == {1: "q"}


def test_data_with_odd_characters_spoils_no_other(store: Store) -> None:
    for number, odd in enumerate(("\0", "\ud800", "😀", "é"), start=1):
        add(store, number, {"text": odd, "country": "DE", "meta": {"odd": odd}})
    assert groups(store, "country") == dict.fromkeys((1, 2, 3, 4), "DE")
    assert groups(store, "meta.odd")[3] == "😀"


def test_only_what_is_known_counts_and_of_each_task_the_newest(store: Store) -> None:
    add(store, 1, {"country": "DE"}, task_id=9, is_accepted=False, result=choice("blue"))
    add(store, 2, {"country": "FR"}, task_id=9)
    add(store, 3, {"country": "DE"}, is_accepted=None)
    add(store, 4, {"country": "DE"}, is_deleted=True)
    with store.read() as session:
        ((group, shown),) = shown_by_group(session, 1, "country")
    assert (group, shown.task_id, shown.annotated) == ("FR", 9, {"tag": {"red"}})


@pytest.mark.parametrize("field", ["", 'a"b', "a\\b", "a\x00", "a\ud800", "x" * 201])
def test_a_name_that_no_field_has_is_refused(store: Store, field: str) -> None:
    with pytest.raises(BadRequestError, match="names no field"):
        groups(store, field)
