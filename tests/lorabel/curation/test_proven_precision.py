"""The promise of `prove`, against scipy's hypergeometric distribution and against cases whose truth is known."""

from math import comb

import numpy as np
import pytest
from scipy.stats import hypergeom

from lorabel.curation.proven_precision import Case, probability_of_luck, prove, smallest_breach


def cases(right: int, wrong: int, score: float = 0.9) -> list[Case]:
    return [Case(score, True)] * right + [Case(score, False)] * wrong


@pytest.mark.parametrize(
    ("errors", "count", "tasks", "too_many"), [(0, 150, 300, 7), (3, 400, 90, 2), (5, 50, 50, 9)]
)
def test_luck_is_the_hypergeometric_probability_and_is_largest_with_the_fewest_errors_that_break_the_promise(
    errors: int, count: int, tasks: int, too_many: int
) -> None:
    luck = probability_of_luck(errors, count, tasks, too_many)
    all_wrong, size = errors + too_many, count + tasks
    draws = [comb(all_wrong, wrong) * comb(size - all_wrong, count - wrong) for wrong in range(errors + 1)]
    assert luck == pytest.approx(sum(draws) / comb(size, count))
    for all_errors in range(too_many, count + tasks + 1):
        most_unseen = min(errors, all_errors - too_many)
        assert hypergeom.cdf(most_unseen, count + tasks, all_errors, count) <= luck + 1e-9


@pytest.mark.parametrize(
    ("tasks", "precision", "breach"), [(100, 0.98, 3), (50, 0.98, 2), (49, 0.98, 1), (10, 0.9, 2)]
)
def test_a_promise_is_broken_by_more_errors_than_it_permits(tasks: int, precision: float, breach: int) -> None:
    assert smallest_breach(tasks, precision) == breach
    assert (tasks - breach) / tasks < precision <= (tasks - breach + 1) / tasks


def test_enough_right_cases_prove_the_promise_and_one_case_in_fifty_does_not() -> None:
    proof = prove(cases(400, 0), [0.9] * 500, 0.98)
    assert (proof.score, proof.cases, proof.errors, proof.tasks, proof.needed) == (0.9, 400, 0, 500, None)
    assert proof.most_errors <= 10 and proof.bound >= 0.98
    assert 0 < proof.expected_errors < 1
    few = prove(cases(50, 0), [0.9] * 500, 0.98)
    assert few.score is None and few.reason == "too few cases"
    assert few.needed is not None
    assert prove(cases(50 + few.needed, 0), [0.9] * 500, 0.98).score == 0.9
    assert prove(cases(50 + few.needed // 2, 0), [0.9] * 500, 0.98).score is None


def test_wrong_cases_with_low_scores_leave_the_high_scores_proved() -> None:
    mixed = [*cases(600, 0, 0.9), *cases(100, 100, 0.3)]
    proof = prove(mixed, [0.9] * 600 + [0.3] * 200, 0.98)
    assert (proof.score, proof.errors, proof.tasks) == (0.9, 0, 600)


def test_no_number_of_cases_helps_a_model_that_is_wrong_too_often() -> None:
    proof = prove(cases(80, 20), [0.9] * 100, 0.98)
    assert proof.score is None and proof.needed is None
    assert "too many of the cases are wrong" in proof.reason


def test_without_cases_it_says_how_many_are_needed_and_without_open_tasks_that_there_are_none() -> None:
    none = prove([], [0.9] * 500, 0.98)
    assert none.score is None and none.needed is not None
    assert prove(cases(none.needed, 0), [0.9] * 500, 0.98).score == 0.9
    assert prove(cases(10, 0), [], 0.98).reason == "no open task is predicted so"


@pytest.mark.parametrize(("count", "tasks", "rate", "precision"), [(600, 300, 0.02, 0.95), (300, 400, 0.06, 0.9)])
def test_the_promise_is_missed_in_no_more_than_five_of_a_hundred_draws(
    count: int, tasks: int, rate: float, precision: float
) -> None:
    """A small version of `python -m benchmarks.acceptance`."""
    generator = np.random.default_rng(7)
    draws, accepted, missed = 40, 0, 0
    for _ in range(draws):
        scores = generator.random(count + tasks)
        wrong = generator.random(count + tasks) < 2 * rate * (1.2 - scores)
        drawn = [Case(score, not is_wrong) for score, is_wrong in zip(scores[:count], wrong[:count], strict=True)]
        proof = prove(drawn, scores[count:].tolist(), precision)
        if proof.score is not None:
            accepted += 1
            errors = int(wrong[count:][scores[count:] >= proof.score].sum())
            missed += errors >= smallest_breach(proof.tasks, precision)
    assert accepted > 0.1 * draws, "nothing was tested"
    assert missed <= 0.05 * draws


def test_a_second_acceptance_keeps_its_promise_although_the_first_took_the_sure_tasks_away() -> None:
    """Without the scores of those that were taken, 19 of 52 second acceptances missed it."""
    generator = np.random.default_rng(2)
    first, second, missed = 0, 0, 0
    for _ in range(15):
        scores = generator.random(4000) ** 0.3
        wrong = generator.random(4000) >= np.clip(0.3 + 0.75 * scores, 0, 0.999)
        drawn = [Case(score, not is_wrong) for score, is_wrong in zip(scores[:1000], wrong[:1000], strict=True)]
        unseen, is_wrong_there = scores[1000:], wrong[1000:]
        proof = prove(drawn, unseen.tolist(), 0.97)
        if proof.score is None:
            continue
        first += 1
        is_taken = unseen >= proof.score
        again = prove(drawn, unseen[~is_taken].tolist(), 0.9, taken_scores=unseen[is_taken].tolist())
        if again.score is not None:
            second += 1
            errors = int(is_wrong_there[~is_taken][unseen[~is_taken] >= again.score].sum())
            missed += errors >= smallest_breach(again.tasks, 0.9)
    assert first > 7
    assert missed <= 1, f"{missed} of {second}"


def test_a_promise_after_a_review_is_kept_although_the_review_drew_from_the_sure_tasks_alone() -> None:
    """With the reviewed tasks among the cases, as right as all with such scores, 10 of 10 promises were missed."""
    generator = np.random.default_rng(2)
    proved, missed = 0, 0
    for _ in range(15):
        scores = generator.random(2000)
        wrong = (scores < 0.5) & (generator.random(2000) < 0.12)
        sample = generator.choice(np.flatnonzero((scores >= 0.5) & (np.arange(2000) >= 500)), 300, replace=False)
        left = np.setdiff1d(np.arange(500, 2000), sample)
        drawn = [Case(score, not is_wrong) for score, is_wrong in zip(scores[:500], wrong[:500], strict=True)]
        proof = prove(drawn, scores[left].tolist(), 0.94, taken_scores=scores[sample].tolist())
        if proof.score is not None:
            proved += 1
            missed += int(wrong[left][scores[left] >= proof.score].sum()) >= smallest_breach(proof.tasks, 0.94)
    assert proved > 0 and missed <= 1, f"{missed} of {proved}"


def test_as_many_errors_are_expected_as_there_are_also_where_a_label_was_chosen_for_having_few() -> None:
    """By its own cases, a label that was lucky had a fraction of the errors of its open tasks."""
    rng = np.random.default_rng(0)
    expected, found, promises = 0.0, 0, 0
    for _ in range(60):
        by_label = [[Case(0.9, bool(right)) for right in rng.random(150) < 0.9] for _ in range(6)]
        pooled = [case for of_label in by_label for case in of_label]
        for of_label in by_label:
            are_wrong = rng.random(150) >= 0.9
            proof = prove(of_label, [0.9] * len(are_wrong), 0.86, all_cases=pooled)
            if proof.score is not None:
                promises += 1
                expected, found = expected + proof.expected_errors, found + int(are_wrong.sum())
    assert promises >= 20
    assert expected == pytest.approx(found, rel=0.15)
