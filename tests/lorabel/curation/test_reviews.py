"""Whether a promise holds by a random sample, against enumeration, simulation, and rows of a database."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from scipy.stats import hypergeom

from lorabel.curation.reviews import Review, Verdict, read_review, right_part, sample_size
from lorabel.database.acceptance_tables import AcceptedState, AcceptedTask
from lorabel.database.store import Store
from lorabel.database.tables import Acceptance, Annotation, Project
from lorabel.errors import ConflictError
from lorabel.labeling.regions import choices

NOW = datetime(2026, 11, 28, tzinfo=UTC)
CONFIG = (
    '<View><Text name="text" value="$text"/><Choices name="label" toName="text">'
    '<Choice value="yes"/><Choice value="no"/></Choices></View>'
)


@pytest.mark.parametrize(("wrong", "reviewed", "tasks"), [(0, 20, 100), (3, 20, 100), (20, 20, 100), (1, 60, 61)])
def test_the_interval_has_what_both_tails_leave_possible(wrong: int, reviewed: int, tasks: int) -> None:
    possible = [
        all_wrong
        for all_wrong in range(wrong, tasks - (reviewed - wrong) + 1)
        if hypergeom.cdf(wrong, tasks, all_wrong, reviewed) > 0.025
        and hypergeom.sf(wrong - 1, tasks, all_wrong, reviewed) > 0.025
    ]
    low, high = right_part(wrong, reviewed, tasks, 0.95)
    assert (low, high) == pytest.approx((1 - possible[-1] / tasks, 1 - possible[0] / tasks))


def test_the_true_part_is_in_the_interval_and_verdicts_are_wrong_in_no_more_than_5_of_100_reviews() -> None:
    generator = np.random.default_rng(1)
    for all_wrong, verdict in ((10, Verdict.MISSED), (11, Verdict.HOLDS)):  # of 500 at 0.98, 10 may be wrong
        reviews = [
            Review(500, 150, 150, int(wrong), 0, 0.98, 0.95)
            for wrong in generator.hypergeometric(all_wrong, 500 - all_wrong, 150, 1000)
        ]
        low_high = np.array([review.interval for review in reviews])
        covered = (low_high[:, 0] <= 1 - all_wrong / 500) & (1 - all_wrong / 500 <= low_high[:, 1])
        assert covered.mean() >= 0.94
        assert np.mean([review.verdict == verdict for review in reviews]) <= 0.05


def test_a_sample_that_proves_the_promise_is_no_larger_than_needed() -> None:
    size = sample_size(500, 0.98, 0.95)
    assert Review(500, size, size, 0, 0, 0.98, 0.95).verdict == Verdict.HOLDS
    assert Review(500, size, size - 1, 0, 0, 0.98, 0.95).verdict == Verdict.OPEN
    skipped = Review(500, size, size - 5, 0, 5, 0.98, 0.95)
    assert skipped.verdict == Verdict.OPEN, "five may be wrong"
    larger = sample_size(500, 0.98, 0.95) + 110
    assert Review(500, larger, larger - 1, 0, 1, 0.98, 0.95).verdict == Verdict.HOLDS
    assert Review(500, 450, size, 0, 0, 0.98, 0.95).verdict == Verdict.OPEN, "the easy ones may be reviewed first"
    assert Review(500, 450, size, 10, 0, 0.98, 0.95).verdict == Verdict.OPEN, "or the hard ones"
    assert sample_size(3, 0.98, 0.95) == 3 and sample_size(0, 0.98, 0.95) == 0


def test_clear_reviews_have_a_verdict_in_words() -> None:
    assert "none of 60 sampled tasks is reviewed yet" in str(Review(500, 60, 0, 0, 0, 0.98, 0.95))
    missed = str(Review(500, 60, 60, 20, 2, 0.98, 0.95))
    assert "2 skipped, 20 wrong: 66.7% right" in missed and "the promised 98.0% is missed" in missed
    assert "too few to tell" in str(Review(500, 60, 60, 1, 0, 0.98, 0.95))


def annotation(number: int, task_id: int, label: str | None, by: int = 1, **columns: bool) -> Annotation:
    return Annotation(
        project_id=1,
        id=number,
        task_id=task_id,
        task_data={"text": "a"},
        result=[] if label is None else [choices("label", "text", [label])],
        completed_by=by,
        updated_at=NOW + timedelta(seconds=number),
        times_applied=1,
        **columns,
    )


def test_annotations_of_the_sample_are_counted_and_no_others(store: Store) -> None:
    with store.write() as session:
        session.add(Project(id=1, label_config=CONFIG))
        session.flush()
        promised = {"precision": 0.5, "confidence": 0.95, "is_together": True, "is_written": False}
        session.add_all(
            Acceptance(id=id_, project_id=1, run_id=id_, review_size=size, **promised)
            for id_, size in ((1, 6), (2, None))
        )
        session.flush()
        for task_id in range(1, 21):
            # 19 was annotated before its prediction was written.
            state = AcceptedState.ANNOTATED if task_id == 19 else AcceptedState.SHOWN
            columns = {"is_sampled": task_id <= 7 or task_id == 19, "state": state}
            result = [choices("label", "text", ["yes"])]
            session.add(AcceptedTask(acceptance_id=1, task_id=task_id, project_id=1, result=result, **columns))
        session.add_all(
            [
                annotation(1, 1, "yes"),
                annotation(2, 2, "no"),
                annotation(3, 2, "yes"),  # changed by the same annotator
                annotation(4, 3, "yes"),
                annotation(5, 3, "no", by=2),  # annotators disagree
                annotation(6, 4, None, was_cancelled=True),
                annotation(7, 5, None),  # says nothing
                annotation(8, 6, "no", is_deleted=True),
                annotation(9, 19, "no"),
                annotation(10, 20, "no"),  # not sampled
            ]
        )
    with store.read() as session:
        project = session.get_one(Project, 1)
        review = read_review(session, project, session.get_one(Acceptance, 1))
        assert review == Review(19, 7, reviewed=3, wrong=1, skipped=1, precision=0.5, confidence=0.95, unjudged=1)
        with pytest.raises(ConflictError, match="not for review"):
            read_review(session, project, session.get_one(Acceptance, 2))


def test_a_prediction_whose_label_was_renamed_since_counts_neither_as_right_nor_as_wrong(store: Store) -> None:
    with store.write() as session:
        session.add(Project(id=1, label_config=CONFIG.replace("yes", "yea")))
        session.flush()
        promised = {"precision": 0.5, "confidence": 0.95, "is_together": True, "is_written": False}
        session.add(Acceptance(id=1, project_id=1, run_id=1, review_size=2, **promised))
        session.flush()
        for task_id, label in ((1, "yes"), (2, "no")):
            row = AcceptedTask(acceptance_id=1, task_id=task_id, project_id=1, is_sampled=True)
            row.result, row.state = [choices("label", "text", [label])], AcceptedState.SHOWN
            session.add(row)
        session.add_all([annotation(1, 1, "yea"), annotation(2, 2, "no")])
    with store.read() as session:
        review = read_review(session, session.get_one(Project, 1), session.get_one(Acceptance, 1))
    assert (review.reviewed, review.wrong, review.unjudged) == (1, 0, 1)
    assert "1 annotated so that nobody can tell (or the label config has changed since)" in str(review)
