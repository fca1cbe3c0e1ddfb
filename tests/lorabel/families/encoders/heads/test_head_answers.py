"""Answers with heads against calculations by hand."""

from dataclasses import replace

import numpy as np
import pytest

from lorabel.contracts import (
    Content,
    Estimate,
    ItemScores,
    LabelScores,
    LabelsInput,
    Modality,
    RankingInput,
    RatingInput,
)
from lorabel.errors import UnreadableError
from lorabel.families.encoders.heads.head_answers import answer_with_head, check_head
from lorabel.families.encoders.heads.linear_head import LinearHead
from lorabel.families.encoders.heads.linear_head import probabilities as probabilities_of
from lorabel.families.encoders.heads.ranking import QUERY_SCALE
from lorabel.feature_contracts import in_int8, space_with

TEXT = Content(modality=Modality.TEXT, text="x")
CHOICES = LabelsInput(contents=(TEXT,), labels=(("a",), ("b",), ("c",)))
FEATURES = np.array([[0.6, 0.8]], np.float32)


def head(weights: object, bias: object, learned: object, zero_shot_weight: float = 1.0) -> LinearHead:
    return LinearHead(
        np.array(weights, np.float32), np.array(bias, np.float32), zero_shot_weight, np.array(learned, bool)
    )


def softmax(*logits: float) -> np.ndarray:
    exponentials = np.exp(np.array(logits))
    return np.asarray(exponentials / exponentials.sum())


def probabilities(
    fitted: LinearHead, question: LabelsInput, logits: list[float], temperature: float = 1
) -> object:
    scores = answer_with_head(fitted, question, FEATURES, np.array(logits, np.float32), temperature)
    assert isinstance(scores, LabelScores) and scores.temperature == 1
    return list(scores.probabilities)


def test_a_choice_is_the_softmax_of_what_the_head_computes() -> None:
    fitted = head([[1, 0, 0], [0, 2, 0]], [0, 0, 0.5], [True] * 3, zero_shot_weight=0.5)
    expected = softmax(0.5 + 0.6, 1.0 + 1.6, 1.5 + 0.5)
    assert probabilities(fitted, CHOICES, [1.0, 2.0, 3.0], 4.0) == pytest.approx(expected, abs=1e-6)


def test_a_label_without_annotations_keeps_its_zero_shot_probability_and_the_others_share_the_rest() -> None:
    fitted = head([[5, 0, 9], [0, 0, 9]], [0, 1, 9], [True, True, False])
    kept = softmax(0.5, 1.0, 1.5)[2]
    expected = [*((1 - kept) * softmax(1.0 + 3.0, 2.0 + 1.0)), kept]
    assert probabilities(fitted, CHOICES, [1.0, 2.0, 3.0], 2.0) == pytest.approx(expected, abs=1e-6)


def test_a_head_that_has_learned_no_label_changes_nothing() -> None:
    fitted = head([[5, 0, 9], [0, 0, 9]], [0, 1, 9], [False] * 3)
    assert probabilities(fitted, CHOICES, [1.0, 2.0, 3.0]) == pytest.approx(softmax(1, 2, 3), abs=1e-6)


def test_multiple_choices_are_independent_and_those_without_annotations_stay() -> None:
    question = CHOICES.model_copy(update={"is_multiple": True})
    fitted = head([[1, 9, 0], [0, 9, 0]], [0, 9, -1], [True, False, True])
    logits = np.array([1 + 0.6, 2.0, -3 - 1.0])
    assert probabilities(fitted, question, [1.0, 2.0, -3.0]) == pytest.approx(1 / (1 + np.exp(-logits)), abs=1e-6)


def test_a_taxonomy_is_a_choice_below_each_parent() -> None:
    fitted = head([[1, 0, 0, 9], [0, 0, 1, 9]], [0, 0, 0, 9], [True, True, True, False])
    logits = np.array([[1.0, 1.0, 2.0, 0.0]], np.float32)
    computed = probabilities_of(fitted, FEATURES, logits, (-1, -1, 0, 0))[0]
    below = softmax(2.0, 0.0)
    assert computed == pytest.approx([*softmax(1.6, 1.0), *below], abs=1e-6)


def test_a_rating_is_the_position_of_the_head_in_the_unit_of_the_question() -> None:
    fitted = replace(head([[1], [0]], [0.4], [True], 0.0), expected_error=0.5)
    stars = RatingInput(contents=(TEXT,), minimum=1, maximum=5)
    percent = RatingInput(contents=(TEXT,), minimum=0, maximum=100)
    for question, value, error in ((stars, 4.0, 0.5), (percent, 75.0, 12.5)):
        estimate = answer_with_head(fitted, question, FEATURES, np.empty(0))
        assert isinstance(estimate, Estimate)
        assert (estimate.value, estimate.expected_error) == pytest.approx((value, error))


def test_items_are_scored_by_the_head_and_by_their_similarity_with_the_query() -> None:
    question = RankingInput(contents=(TEXT,) * 3, item_indices=(-1, 0, 1))
    contents = np.array([[0.6, 0.8], [1, 0], [0, 1]], np.float32)
    scores = answer_with_head(head([[1], [0]], [0], [True], 0.5), question, contents, np.empty(0))
    assert isinstance(scores, ItemScores)
    assert scores.scores == pytest.approx((0.5 * QUERY_SCALE * 0.6 + 1, 0.5 * QUERY_SCALE * 0.8), abs=1e-5)
    with_products = replace(head([[0], [0], [1], [0]], [0], [True], 0.0), feature_map="products")
    scores = answer_with_head(with_products, question, contents, np.empty(0))
    assert isinstance(scores, ItemScores)
    assert scores.scores == pytest.approx((np.sqrt(2) * 0.6, 0), abs=1e-5)


FITTING = replace(head(np.zeros((2, 3)), [0, 0, 0], [True] * 3), kind="labels", space="a")


@pytest.mark.parametrize(
    ("fitted", "reason"),
    [
        (replace(FITTING, kind="rating"), "of kind 'labels'"),
        (replace(FITTING, space="b"), "fitted on features of 'b'"),
        (replace(FITTING, feature_map="median"), "median"),
        (replace(FITTING, weights=np.zeros((2, 4), np.float32)), r"\(2, 4\)"),
        (replace(FITTING, feature_map="concat", slots=("text", "text")), r"\(4, 3\)"),
    ],
)
def test_a_head_that_does_not_fit_is_refused_with_the_reason(fitted: LinearHead, reason: str) -> None:
    check_head(FITTING, CHOICES, "a", 2)
    with pytest.raises(UnreadableError, match=reason) as refused:
        check_head(fitted, CHOICES, "a", 2)
    assert not refused.value.is_permanent


def test_a_head_with_products_of_a_query_refuses_a_ranking_without_one() -> None:
    fitted = replace(head(np.zeros((4, 1)), [0], [True]), feature_map="products")
    check_head(fitted, RankingInput(contents=(TEXT,) * 2, item_indices=(-1, 0)), "a", 2)
    with pytest.raises(UnreadableError, match="query"):
        check_head(fitted, RankingInput(contents=(TEXT,) * 2, item_indices=(0, 1)), "a", 2)


@pytest.mark.parametrize("adapter", [None, "p1.v2/label"])
def test_heads_answer_with_features_of_another_precision_but_of_no_other_model(adapter: str | None) -> None:
    in_float32, of_other = space_with("text_encoder a", adapter), space_with("text_encoder b", adapter)
    in_8_bits = space_with(in_int8("text_encoder a"), adapter)
    assert in_8_bits not in (in_float32, of_other)
    fitted = head([[1, 0, 0], [0, 2, 0]], [0, 0, 0], [True] * 3)
    for fitted_on, answered in ((in_float32, in_8_bits), (in_8_bits, in_float32)):
        check_head(replace(fitted, space=fitted_on), CHOICES, answered, 2)
        with pytest.raises(UnreadableError, match="fit it again"):
            check_head(replace(fitted, space=fitted_on), CHOICES, of_other, 2)
