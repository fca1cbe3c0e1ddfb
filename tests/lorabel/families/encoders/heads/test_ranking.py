import math

import pytest
import torch

from lorabel.contracts import Content, Modality, RankingInput, RankingTarget
from lorabel.families.encoders.heads.base import HeadParameters
from lorabel.families.encoders.heads.ranking import QUERY_SCALE, RankingHead

UNTRAINED = HeadParameters(torch.empty(0, 2), None, 1.0, None)
TRAINED = HeadParameters(torch.empty(0, 2), torch.tensor([[1.0], [-1.0]]), 1.0, None)
# Two items and a third content, which is the query or a part of the second item.
CONTENTS = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
SQRT_DIM = math.sqrt(2)


def question(*items: int) -> RankingInput:
    return RankingInput(contents=(Content(modality=Modality.TEXT, text="x"),) * len(items), item_indices=items)


def test_an_untrained_head_puts_the_item_that_is_most_similar_to_the_query_first() -> None:
    assert RankingHead().output(question(0, 1, -1), CONTENTS, UNTRAINED).scores == pytest.approx((0, QUERY_SCALE))


def test_without_a_query_an_untrained_head_gives_no_scores() -> None:
    ranking_input = question(0, 1, 1)
    assert RankingHead().output(ranking_input, CONTENTS, UNTRAINED).scores == ()
    assert RankingHead().output(ranking_input, CONTENTS, TRAINED).scores == pytest.approx((SQRT_DIM, -SQRT_DIM))


def test_the_learned_preference_is_added_to_the_similarity_with_the_query() -> None:
    scores = RankingHead().output(question(0, 1, -1), CONTENTS, TRAINED).scores
    assert scores == pytest.approx((SQRT_DIM, QUERY_SCALE - SQRT_DIM))


def test_the_loss_is_logistic_over_the_ordered_pairs() -> None:
    batch, targets = CONTENTS.expand(2, 3, 2), [RankingTarget((0, 1, 1)), RankingTarget((0, 0, 0))]
    losses = RankingHead().losses(question(0, 1, 2), batch, TRAINED, targets)
    assert losses.tolist() == pytest.approx([math.log1p(math.exp(-2 * SQRT_DIM)), 0.0])


def test_item_indices_with_a_gap_are_refused() -> None:
    with pytest.raises(ValueError, match=r"item_indices is \(0, 2\) for 2 contents"):
        question(0, 2)
