import random

import pytest
from scipy.stats import binomtest

from lorabel.evaluation.paired import Paired


def test_tasks_are_counted_by_their_change() -> None:
    counts = Paired.of([(0.0, 1.0), (0.25, 0.5), (1.0, 0.0), (1.0, 1.0), (0.3, 0.1 + 0.2)])
    assert counts == Paired(better=2, worse=1, same=2)
    assert counts.difference == pytest.approx(1 / 5)


@pytest.mark.parametrize(("better", "worse"), [(0, 0), (1, 0), (8, 1), (5, 5), (30, 12), (700, 600)])
def test_the_p_value_is_that_of_the_sign_test(better: int, worse: int) -> None:
    expected = binomtest(better, better + worse).pvalue if better + worse else 1.0
    assert Paired(better, worse, 10).p_value == pytest.approx(expected, abs=5e-4)


def test_the_interval_has_the_true_difference_in_95_of_100_samples() -> None:
    generator, covered = random.Random(3), 0
    for _ in range(2000):
        drawn = [generator.random() for _ in range(50)]
        counts = Paired(sum(x < 0.15 for x in drawn), sum(x > 0.95 for x in drawn), 0)
        counts = Paired(counts.better, counts.worse, 50 - counts.better - counts.worse)
        covered += counts.interval.low <= 0.10 <= counts.interval.high
    assert covered / 2000 >= 0.94


def test_without_tasks_nothing_is_known() -> None:
    assert (Paired(0, 0, 0).interval, Paired(0, 0, 0).difference) == ((-1, 1), 0)
