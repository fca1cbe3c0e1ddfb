"""Calibration of scores against the frequencies that the test has made."""

from collections.abc import Iterator

import numpy as np
import pytest

from lorabel.families.encoders.heads.platt import (
    FEWEST_CALIBRATED,
    FOLDS,
    SAME,
    Scale,
    ScoredFinding,
    group_numbers,
    log_odds,
    platt,
    scaled,
    score_scales,
)

TASKS = 40


def found(fold: int, right_of_ten: tuple[int, ...] = (9, 3), each: int = 10) -> Iterator[ScoredFinding]:
    """In each fold of each label some findings with a score of .8, of which so many of ten are right."""
    for label, right in enumerate(right_of_ten):
        yield from (ScoredFinding(0.8, number % 10 < right, label) for number in range(each))


def test_factor_and_shift_are_found_again() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, 20_000)
    truth = rng.random(20_000) < 1 / (1 + np.exp(-(0.5 * logits - 1)))
    np.testing.assert_allclose(platt(logits, truth), (0.5, -1.0), atol=0.05)


def test_without_cases_nothing_is_changed() -> None:
    assert platt(np.zeros(0), np.zeros(0)) == SAME


def test_scores_of_each_label_become_how_often_its_findings_are_right() -> None:
    scales = score_scales(range(TASKS), 2, lambda fold: found(fold, each=100))
    scores = [scaled(0.8, scales, label) for label in range(2)]
    np.testing.assert_allclose(scores, [0.9, 0.3], atol=0.05)


def test_a_label_with_few_findings_is_calibrated_as_all_labels_are() -> None:
    def mostly_of_one(fold: int) -> Iterator[ScoredFinding]:
        yield from found(fold, (3,))
        if fold == 0:
            yield ScoredFinding(0.8, True, 1)

    scales = score_scales(range(TASKS), 3, mostly_of_one)
    assert scaled(0.8, scales, 1) == pytest.approx(scaled(0.8, scales, 0), abs=0.1)
    assert scales[2] == SAME, "it was never found"


def test_few_tasks_and_silence_leave_scores_as_they_are() -> None:
    assert score_scales(range(FEWEST_CALIBRATED - 1), 2, found) == ()
    assert score_scales([0] * TASKS, 2, found) == (), "they are copies of one task"
    assert score_scales(range(TASKS), 2, lambda _: ()) == ()
    assert scaled(0.8, (), 1) == 0.8


def test_all_tasks_of_a_group_are_in_one_fold() -> None:
    assert group_numbers(["a", "b", "a", "c"]) == [0, 1, 0, 2]
    asked: list[int] = []
    score_scales(range(TASKS), 1, lambda fold: asked.append(fold) or ())  # type: ignore[func-returns-value]
    assert asked == list(range(FOLDS))


def test_the_order_of_scores_of_a_label_stays_and_none_is_certain() -> None:
    scores = [scaled(score, [Scale(0.3, -1.0)], 0) for score in (0.0, 0.2, 0.5, 0.8, 1.0)]
    assert scores == sorted(scores)
    assert scores[0] > 0 and scores[-1] < 1
    assert log_odds(0.5) == pytest.approx(0.0)
