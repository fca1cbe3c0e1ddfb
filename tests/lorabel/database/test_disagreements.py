"""Tasks whose annotations do not say the same."""

from datetime import timedelta
from typing import Any

from lorabel.database import disagreements
from lorabel.database.newest_answers import LONGEST_RESULT
from lorabel.database.store import Store
from lorabel.database.tables import Annotation, now


def choice(label: str) -> list[dict[str, Any]]:
    return [{"from_name": "tag", "type": "choices", "value": {"choices": [label]}}]


def add(store: Store, annotation_id: int, task_id: int, label: str, **columns: Any) -> None:
    at = now() + timedelta(seconds=annotation_id)
    row = {"project_id": 1, "id": annotation_id, "task_id": task_id, "result": choice(label), "updated_at": at}
    with store.write() as session:
        session.add(Annotation(**{**row, **columns}))


def test_only_the_newest_are_looked_at_with_all_that_was_said_about_their_tasks(store: Store) -> None:
    add(store, 1, 11, "red")
    add(store, 2, 12, "red")
    add(store, 3, 12, "blue")
    add(store, 4, 13, "red")
    add(store, 5, 11, "blue", completed_by=7)
    add(store, 6, 11, "red", was_cancelled=True)
    add(store, 7, 11, "red", project_id=2)
    with store.read() as session:
        [newest] = disagreements.among_newest(session, 1, 2)
        assert [row.task_id for row in disagreements.among_newest(session, 1, 100)] == [11, 12]
        assert disagreements.among_newest(session, 3, 100) == []
    assert [(opinion.annotation_id, opinion.annotator) for opinion in newest.opinions] == [(1, None), (5, 7)]


def test_what_says_the_same_or_cannot_be_read_is_no_disagreement(store: Store) -> None:
    add(store, 1, 11, "red")
    add(store, 2, 11, "red")
    add(store, 3, 12, "red")
    add(store, 4, 12, "x" * LONGEST_RESULT)
    add(store, 5, 13, "red", is_deleted=True)
    add(store, 6, 13, "blue")
    with store.read() as session:
        assert disagreements.among_newest(session, 1, 100) == []
