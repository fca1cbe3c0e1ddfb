"""Annotations of an acceptance come back as events, and count only once a person has changed them."""

from typing import Any

from sqlalchemy import select

from lorabel.database import acceptances, projects
from lorabel.database.acceptance_tables import AcceptedState, AcceptedTask
from lorabel.database.store import Store
from lorabel.database.tables import Acceptance, Annotation, now
from workers.annotations import Received, apply_annotations, delete_annotations

PROJECT, TASK, WRITER, PERSON = 1, 10, 7, 8


def region(choice: str, id_: str = "made-at-random") -> dict[str, Any]:
    value = {"choices": [choice]}
    return {"from_name": "label", "to_name": "image", "type": "choices", "value": value, "id": id_}


def accepted(store: Store) -> None:
    """Task 10 was accepted as red, with the token of WRITER. Its annotation has the id 5."""
    projects.upsert(store, PROJECT, label_config="<View/>")
    with store.write() as session:
        fields = {
            "precision": 0.9,
            "confidence": 0.95,
            "is_together": True,
            "is_written": True,
            "writer_id": WRITER,
        }
        session.add(Acceptance(id=3, project_id=PROJECT, run_id=1, **fields))
        session.flush()
        row = AcceptedTask(acceptance_id=3, task_id=TASK, project_id=PROJECT, result=[region("red")])
        row.state, row.annotation_id = AcceptedState.WRITTEN, 5
        session.add(row)


def receive(store: Store, *results: dict[str, Any], **changed: Any) -> list[bool]:
    annotation = {
        "id": 5,
        "result": list(results),
        "updated_at": now().isoformat(),
        "updated_by": WRITER,
        **changed,
    }
    with store.write() as session:
        return apply_annotations(session, PROJECT, [Received(annotation, TASK, {"image": "a.png"})])


def stored(store: Store) -> list[Any]:
    with store.read() as session:
        return [row.result for row in session.scalars(select(Annotation))]


def test_an_accepted_annotation_is_not_stored(store: Store) -> None:
    accepted(store)
    assert receive(store, region("red")) == [False]
    assert stored(store) == []


def test_the_same_answer_by_a_person_is_stored(store: Store) -> None:
    accepted(store)
    assert receive(store, region("red", "of-the-editor"), id=6) == [True]
    assert len(stored(store)) == 1


def test_an_accepted_annotation_is_stored_once_a_person_has_corrected_it(store: Store) -> None:
    accepted(store)
    receive(store, region("red"))
    assert receive(store, region("blue"), updated_by=PERSON) == [True]
    assert stored(store) == [[region("blue")]]


def test_an_accepted_annotation_is_stored_once_a_person_has_confirmed_it(store: Store) -> None:
    accepted(store)
    assert receive(store, region("red"), updated_by={"id": PERSON}) == [True]
    assert stored(store) == [[region("red")]]


def test_what_an_acceptance_took_back_leaves_nothing(store: Store) -> None:
    accepted(store)
    with store.write() as session:
        assert delete_annotations(session, PROJECT, [5, 6]) == 1
    assert stored(store) == [None], "only annotation 6, which nobody knew"


def test_an_annotation_is_found_to_be_of_an_acceptance_by_the_ids_of_its_regions(store: Store) -> None:
    accepted(store)
    with store.read() as session:
        (row,) = acceptances.find_accepted(session, PROJECT, [TASK])
    assert acceptances.is_work_of(row, {"result": [region("blue")]})
    assert not acceptances.is_work_of(row, {"result": [region("red", "another")]})
    assert not acceptances.is_unchanged(row, {"result": [region("blue")], "updated_by": WRITER}, WRITER)
    for mark in ("was_cancelled", "ground_truth"):
        assert not acceptances.is_unchanged(row, {"result": [region("red")], mark: True}, WRITER)
