import math

import pytest

from lorabel.problems._label_scores import distributions, margin, tempered, tempered_scores, true_indices

FLAT = (-1, -1, -1)
# animal (0) with cat (1) and dog (2) below it; plant (3) with nothing.
TREE = (-1, 0, 0, -1)


def softmax(logits: list[float]) -> list[float]:
    shares = [math.exp(one) for one in logits]
    return [share / sum(shares) for share in shares]


def test_tempering_probabilities_is_dividing_the_logits_that_they_came_from() -> None:
    logits = [2.0, -1.0, 0.5]
    for temperature in (0.3, 1.0, 4.0):
        expected = softmax([one / temperature for one in logits])
        assert tempered(softmax(logits), temperature) == pytest.approx(expected)


def test_a_certainty_without_any_doubt_stays_finite() -> None:
    assert tempered((1.0, 0.0), 0.05) == pytest.approx((1.0, 0.0))
    assert 0.5 < tempered((1.0, 0.0), 20.0)[0] < 1.0


def test_several_labels_are_tempered_each_for_itself_and_none_crosses_the_border() -> None:
    scores = tempered_scores((0.9, 0.5, 0.2), FLAT, is_multiple=True, temperature=3.0)
    odds = [(0.9 / 0.1) ** (1 / 3), 1.0, (0.2 / 0.8) ** (1 / 3)]
    assert scores == pytest.approx([one / (1 + one) for one in odds])


def test_in_a_taxonomy_those_with_the_same_parent_exclude_each_other() -> None:
    probabilities = (0.8, 0.3, 0.7, 0.2)
    assert distributions(probabilities, TREE, is_multiple=False) == [(0.8, 0.2), (0.3, 0.7)]
    assert true_indices((0, 2), TREE, is_multiple=False) == [0, 1]
    assert true_indices((3,), TREE, is_multiple=False) == [1, None], "nothing is said about the animals"
    scores = tempered_scores(probabilities, TREE, is_multiple=False, temperature=2.0)
    assert (scores[0] + scores[3], scores[1] + scores[2]) == pytest.approx((1.0, 1.0))
    assert scores[0] == pytest.approx(0.8**0.5 / (0.8**0.5 + 0.2**0.5))


def test_the_margin_is_the_lead_of_the_best() -> None:
    assert margin([(0.2, 0.7, 0.1)]) == pytest.approx(0.5)
    assert margin([(0.1, 0.9), (0.4, 0.6)]) == pytest.approx((0.8 + 0.2) / 2)
