"""The simulation of acceptances, on answers of which is known how often a promise is missed."""

import random
from collections.abc import Sequence

import pytest

from benchmarks.acceptance import EACH, TOGETHER, Tally, measure
from benchmarks.acceptance_sets import Answer, DataSet, with_wrong_labels, without_words
from benchmarks.curve_courses import Course

TASKS, ANNOTATED = 500, 250


def data_set(right_of_cases: float, right_of_open: float, precision: float, labels: int = 1) -> DataSet:
    """Tasks of which such parts are answered rightly by heads that learn from a part of the cases, or from all."""

    def answer(learned: Sequence[int], asked: Sequence[int]) -> list[Answer]:
        right = right_of_open if len(learned) == ANNOTATED else right_of_cases
        generators = [random.Random(f"{task} {len(learned) == ANNOTATED}") for task in asked]
        return [
            Answer(str(task % labels) if labels > 1 else "", generator.random(), generator.random() < right)
            for task, generator in zip(asked, generators, strict=True)
        ]

    return DataSet("known", TASKS, ANNOTATED, (precision,), answer)


def tally_of(data: DataSet, promise: str = TOGETHER, seeds: int = 10) -> Tally:
    (tally,) = (each for each in measure(data, seeds) if each.promise == promise)
    return tally


def test_a_promise_is_missed_where_open_tasks_are_unlike_the_cases() -> None:
    tally = tally_of(data_set(1.0, 0.5, 0.9))
    assert (tally.promises, tally.missed, tally.is_kept) == (10, 10, False)
    assert set(tally.coverage) == {1.0} and min(tally.reached) < 0.6
    assert sum(tally.errors) > 100 * sum(tally.expected)
    assert "| 10 of 10 | 10: 100.0% (69.2% to 100.0%) | 100.0% |" in tally.row()


def test_a_promise_is_kept_where_it_is_far_below_what_is_right() -> None:
    tally = tally_of(data_set(0.99, 0.99, 0.9))
    assert (tally.promises, tally.missed, tally.is_kept) == (10, 0, True)
    assert "| 0: 0.0% (0.0% to 30.8%) |" in tally.row()


def test_nothing_is_promised_where_too_few_are_right() -> None:
    tally = tally_of(data_set(0.7, 0.7, 0.9))
    assert (tally.promises, tally.missed, tally.coverage, tally.reached) == (0, 0, [0.0] * 10, [])
    assert "| 0 of 10 | 0: 0.0% (0.0% to 30.8%) | 0.0% | - | - |" in tally.row()


def test_a_promise_that_is_seldom_made_and_then_missed_is_missed_seldom() -> None:
    """By luck: 5% of what was asked for may be accepted although nothing is right often enough."""
    tally = Tally("known", 10, 10, 0.9, TOGETHER, asked=200, promises=9, missed=9)
    assert tally.is_kept and not Tally("known", 10, 10, 0.9, TOGETHER, asked=200, promises=11, missed=11).is_kept


@pytest.mark.parametrize(("promise", "promises"), [(EACH, 20), (TOGETHER, 10)])
def test_each_label_has_a_promise_of_its_own_or_all_have_one(promise: str, promises: int) -> None:
    data = data_set(1.0, 0.5, 0.9, labels=2)
    assert tally_of(data, promise).promises == tally_of(data, promise).missed == promises


def test_words_and_labels_are_changed_as_often_as_is_said() -> None:
    texts = [({"text": " ".join(f"word{word}" for word in range(50))}, "ab"[task % 2]) for task in range(400)]
    course = Course("texts", "", {}, texts[:200], texts[200:])
    words = [len(data["text"].split()) for data, _ in (*without_words(course).tasks, *without_words(course).test)]
    assert sum(words) / len(words) == pytest.approx(20, abs=1)
    changed = with_wrong_labels(course)
    wrong = [after[1] != before[1] for after, before in zip((*changed.tasks, *changed.test), texts, strict=True)]
    assert sum(wrong) / len(wrong) == pytest.approx(0.1, abs=0.04)
