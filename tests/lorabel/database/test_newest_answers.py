from datetime import timedelta
from typing import Any

from lorabel.database import newest_answers
from lorabel.database.newest_answers import LONGEST_RESULT
from lorabel.database.store import Store
from lorabel.database.tables import Annotation, now
from lorabel.evaluation.agreement import Outcome


def choice(label: str) -> list[dict[str, Any]]:
    return [{"from_name": "tag", "type": "choices", "value": {"choices": [label]}}]


def add(store: Store, annotation_id: int, **columns: Any) -> None:
    with store.write() as session:
        at = now() + timedelta(seconds=annotation_id)
        session.add(
            Annotation(project_id=1, id=annotation_id, updated_at=at, **{"task_id": annotation_id, **columns})
        )


def test_the_newest_come_first_with_what_became_of_their_predictions(store: Store) -> None:
    shown = {"prediction_id": 1, "prediction_version": "p1.v1", "prediction_result": choice("red")}
    add(store, 1, result=choice("red"), is_accepted=True, **shown)
    add(store, 2, result=choice("blue"), is_accepted=False, lead_time_s=4.0, **shown)
    add(store, 3, result=[], is_accepted=False, **shown)
    add(store, 4, result=choice("red"), prediction_id=4)  # Label Studio has not told what it was
    add(store, 5, result=choice("red"))
    add(store, 6, result=choice("red"), was_cancelled=True)
    add(store, 7, result=choice("red"), is_deleted=True)
    add(store, 8, result=None, task_id=None)
    with store.read() as session:
        answers = newest_answers.newest(session, 1, 4)
        assert [answer.task_id for answer in newest_answers.newest(session, 1, 99)] == [5, 4, 3, 2, 1]
    by_hand, unknown, emptied, corrected = answers
    assert (by_hand.has_prediction, by_hand.outcome, by_hand.shown) == (False, None, None)
    assert (unknown.has_prediction, unknown.shown) == (True, None)
    assert (emptied.outcome, emptied.annotated) == (Outcome.EMPTIED, {})
    assert (corrected.outcome, corrected.lead_time_s) == (Outcome.CORRECTED, 4.0)
    assert (corrected.predicted, corrected.annotated) == ({"tag": {"red"}}, {"tag": {"blue"}})


def test_a_result_that_is_too_long_is_not_read_but_counts(store: Store) -> None:
    shown = {"prediction_id": 1, "prediction_version": "p1.v1", "prediction_result": choice("red")}
    add(store, 1, result=choice("x" * LONGEST_RESULT), is_accepted=False, **shown)
    with store.read() as session:
        [answer] = newest_answers.newest(session, 1, 10)
    assert (answer.annotated, answer.outcome) == (None, Outcome.CORRECTED)


def test_an_annotation_of_which_only_explanations_are_left_was_emptied(store: Store) -> None:
    why = {"from_name": "lorabel_why", "to_name": "image", "type": "textarea", "value": {"text": ["so"]}}
    shown = {"prediction_id": 1, "prediction_version": "p1.v1", "prediction_result": [*choice("red"), why]}
    add(store, 1, result=[why], is_accepted=False, **shown)
    with store.read() as session:
        [answer] = newest_answers.newest(session, 1, 10)
    assert (answer.outcome, answer.annotated, answer.predicted) == (Outcome.EMPTIED, {}, {"tag": {"red"}})
