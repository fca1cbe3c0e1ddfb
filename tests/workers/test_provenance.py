"""What an annotator was shown, whether it was accepted, who annotated, how long: from events and from the API."""

import random
from itertools import islice, permutations
from typing import Any

import pytest

from lorabel.database.store import Store
from lorabel.database.tables import Annotation, Event, EventState
from tests.workers.events import PROJECT, annotation, deletion, put, recorded
from workers.annotations import Received, apply_annotations
from workers.collect import apply_pending

RED = [{"from_name": "label", "to_name": "image", "type": "choices", "value": {"choices": ["red"]}}]
PREDICTION = {"id": 1, "result": RED, "score": 0.7, "model_version": "p1.v3", "task": 10}
UNKNOWN = (None, None, None, None)
KNOWN = ("p1.v3", 0.7, RED)


def stored(store: Store, annotation_id: int = 1) -> tuple[Any, ...]:
    """Prediction's id, version, score and result, and whether it was accepted."""
    with store.read() as session:
        row = session.get_one(Annotation, (PROJECT, annotation_id))
        return (
            row.prediction_id,
            row.prediction_version,
            row.prediction_score,
            row.prediction_result,
            row.is_accepted,
        )


def lead_time(store: Store, annotation_id: int = 1) -> float | None:
    with store.read() as session:
        return session.get_one(Annotation, (PROJECT, annotation_id)).lead_time_s


def submission(label: str, second: int = 0, **changed: Any) -> dict[str, Any]:
    return annotation(1, 10, label, second, **{"prediction": PREDICTION, "parent_prediction": 1, **changed})


def test_the_recorded_events_have_annotator_time_and_the_id_of_the_prediction(store: Store) -> None:
    put(store, recorded("image-choices/05-accept-webhook-annotation_created.json"))
    put(store, recorded("image-choices/14-bulk-create-webhook-annotations_created.json"))
    apply_pending(store)
    assert (stored(store), lead_time(store)) == ((1, *UNKNOWN), 2.455)
    assert (stored(store, 4), lead_time(store, 4)) == ((5, *UNKNOWN), None)
    put(store, recorded("image-choices/10-update-webhook-annotation_updated.json"))
    apply_pending(store)
    assert lead_time(store) == pytest.approx(4.675)
    with store.read() as session:
        assert session.get_one(Annotation, (PROJECT, 1)).completed_by == 1


def test_a_prediction_in_the_event_is_kept_and_compared(store: Store) -> None:
    put(store, submission("red"))
    apply_pending(store)
    assert stored(store) == (1, *KNOWN, True)
    put(store, submission("blue", 5, action="ANNOTATION_UPDATED"))
    apply_pending(store)
    assert stored(store) == (1, *KNOWN, False), "the annotation says something else now"


def test_a_skipped_task_is_neither_accepted_nor_changed(store: Store) -> None:
    put(store, submission("red", was_cancelled=True))
    apply_pending(store)
    assert stored(store) == (1, *KNOWN, None)


def test_without_a_prediction_nothing_is_kept(store: Store) -> None:
    put(store, submission("red", prediction={}, parent_prediction=None))
    apply_pending(store)
    assert stored(store) == (None, *UNKNOWN)


def test_the_prediction_that_was_copied_counts_not_the_one_of_the_projects_version(store: Store) -> None:
    put(store, submission("red", parent_prediction=2))
    apply_pending(store)
    assert stored(store) == (2, *UNKNOWN)
    put(store, annotation(3, 30, "red", 0, prediction=PREDICTION, parent_prediction=None))
    apply_pending(store)
    assert stored(store, 3) == (1, *KNOWN, True)


def test_what_is_known_stays_when_label_studio_has_forgotten_the_prediction(store: Store) -> None:
    put(store, submission("red"))
    put(store, submission("red", 5, prediction={}))
    put(store, submission("blue", 9, prediction={}, parent_prediction=None))
    apply_pending(store)
    assert stored(store) == (1, *KNOWN, False)


@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_events_in_any_order_give_the_same(store: Store, order: tuple[int, ...]) -> None:
    events = [
        submission("red", lead_time=1.0),
        submission("blue", 5, prediction={}, parent_prediction=None, lead_time=2.0),
        submission("red", 9, prediction={}, lead_time=3.0),
    ]
    for index in order:
        put(store, events[index])
        apply_pending(store)
    assert (stored(store), lead_time(store)) == ((1, *KNOWN, True), 3.0)


ODD_FIELDS: tuple[dict[str, Any], ...] = (
    {"prediction": "red"},
    {"prediction": [1]},
    {"prediction": {"id": "1", "result": RED}, "parent_prediction": None},
    {"parent_prediction": True},
    {"parent_prediction": -1},
    {"parent_prediction": 2**63},
    {"parent_prediction": {"id": 1}, "prediction": {**PREDICTION, "result": "red"}},
    {"prediction": {**PREDICTION, "score": "high", "model_version": 3}},
    {"prediction": {**PREDICTION, "score": 10**400, "model_version": "a\x00b"}},
    {"prediction": {**PREDICTION, "model_version": "\ud800", "result": [None, 3, {"value": 4, "id": []}]}},
    {"lead_time": "long"},
    {"lead_time": True},
    {"lead_time": 10**400},
)


@pytest.mark.parametrize("odd", ODD_FIELDS, ids=str)
def test_no_annotation_is_lost_for_an_odd_prediction_or_time(store: Store, odd: dict[str, Any]) -> None:
    put(store, submission("red", **odd))
    apply_pending(store)
    with store.read() as session:
        assert session.query(Event.state).scalar() == EventState.APPLIED
        assert session.get_one(Annotation, (PROJECT, 1)).result[0]["value"]["choices"] == ["red"]


def from_api(body: dict[str, Any], *predictions: dict[str, Any]) -> Received:
    return Received(body["annotation"], 10, None, predictions)


def test_the_api_tells_of_a_stored_annotation_what_the_event_did_not(store: Store) -> None:
    """As the comparison before a run does. The state is not newer, so the annotation stays what it is."""
    event = submission("red", prediction={}, lead_time=None)
    put(store, event)
    apply_pending(store)
    with store.write() as session:
        session.get_one(Annotation, (PROJECT, 1)).run_id = 7
    event["annotation"]["lead_time"] = 2.5
    for number, predictions in enumerate(([], [{**PREDICTION, "id": 2}], [{**PREDICTION, "id": 2}, PREDICTION])):
        assert stored(store) == (1, *UNKNOWN), number
        with store.write() as session:
            assert apply_annotations(session, PROJECT, [from_api(event, *predictions)]) == [False]
    assert (stored(store), lead_time(store)) == ((1, *KNOWN, True), 2.5)
    with store.read() as session:
        row = session.get_one(Annotation, (PROJECT, 1))
        assert (row.run_id, row.times_applied) == (7, 1)


def test_an_older_state_completes_neither_the_time_nor_a_deleted_annotation(store: Store) -> None:
    put(store, submission("blue", 5, prediction={}, lead_time=None))
    put(store, submission("red", 0, lead_time=1.0))
    put(store, annotation(2, 20, "red", 0, prediction={}, parent_prediction=1), deletion(2))
    apply_pending(store)
    assert (stored(store), lead_time(store)) == ((1, *KNOWN, False), None)
    body = annotation(2, 20, "red", 0, parent_prediction=1)
    with store.write() as session:
        apply_annotations(session, PROJECT, [from_api(body, PREDICTION)])
    assert stored(store, 2) == (1, *UNKNOWN)


def test_many_annotations_in_one_transaction_each_keep_their_own(store: Store) -> None:
    """With and without a prediction, so that the rows of one INSERT have different columns."""
    numbers = random.Random(3).sample(range(1, 200), 60)
    bodies = [
        annotation(i, i, "red", 0, parent_prediction=i, prediction={**PREDICTION, "id": i} if i % 3 else {})
        for i in numbers
    ]
    put(store, *bodies)
    apply_pending(store)
    for i in islice(numbers, 60):
        assert stored(store, i) == ((i, *KNOWN, True) if i % 3 else (i, *UNKNOWN))
