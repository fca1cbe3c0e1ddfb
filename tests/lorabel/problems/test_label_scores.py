import math

import pytest

from lorabel.problems._label_scores import distributions, margin, tempered, tempered_scores, true_indices

FLAT = (-1, -1, -1)
# animal (0) with cat (1) and dog (2) below it; plant (3) with nothing.
TREE = (-1, 0, 0, -1)


def softmax(logits: list[float]) -> list[float]:
    exponentials = [math.exp(logit) for logit in logits]
    return [exponential / sum(exponentials) for exponential in exponentials]


def test_tempering_probabilities_equals_dividing_their_logits_by_the_temperature() -> None:
    logits = [2.0, -1.0, 0.5]
    for temperature in (0.3, 1.0, 4.0):
        expected = softmax([logit / temperature for logit in logits])
        assert tempered(softmax(logits), temperature) == pytest.approx(expected)


def test_probabilities_of_0_and_1_stay_finite() -> None:
    assert tempered((1.0, 0.0), 0.05) == pytest.approx((1.0, 0.0))
    assert 0.5 < tempered((1.0, 0.0), 20.0)[0] < 1.0


def test_multiple_choice_tempers_each_label_alone_and_none_crosses_one_half() -> None:
    scores = tempered_scores((0.9, 0.5, 0.2), FLAT, is_multiple=True, temperature=3.0)
    odds = [(0.9 / 0.1) ** (1 / 3), 1.0, (0.2 / 0.8) ** (1 / 3)]
    assert scores == pytest.approx([ratio / (1 + ratio) for ratio in odds])


def test_in_a_taxonomy_labels_with_the_same_parent_form_a_distribution() -> None:
    probabilities = (0.8, 0.3, 0.7, 0.2)
    assert distributions(probabilities, TREE, is_multiple=False) == [(0.8, 0.2), (0.3, 0.7)]
    assert true_indices((0, 2), TREE, is_multiple=False) == [0, 1]
    assert true_indices((3,), TREE, is_multiple=False) == [1, None], "nothing is said about the animals"
    scores = tempered_scores(probabilities, TREE, is_multiple=False, temperature=2.0)
    assert (scores[0] + scores[3], scores[1] + scores[2]) == pytest.approx((1.0, 1.0))
    assert scores[0] == pytest.approx(0.8**0.5 / (0.8**0.5 + 0.2**0.5))


def test_the_margin_is_the_difference_between_the_two_highest_probabilities() -> None:
    assert margin([(0.2, 0.7, 0.1)]) == pytest.approx(0.5)
    assert margin([(0.1, 0.9), (0.4, 0.6)]) == pytest.approx((0.8 + 0.2) / 2)
