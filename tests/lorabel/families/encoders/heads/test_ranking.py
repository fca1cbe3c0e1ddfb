import math

import pytest
import torch

from lorabel.contracts import Content, Modality, RankingInput, RankingTarget
from lorabel.families.encoders.heads.base import HeadParameters
from lorabel.families.encoders.heads.ranking import QUERY_SCALE, RankingHead

UNTAUGHT = HeadParameters(torch.empty(0, 2), None, 1.0, None)
TAUGHT = HeadParameters(torch.empty(0, 2), torch.tensor([[1.0], [-1.0]]), 1.0, None)
# Two items and a third content, which is the query or a part of the second item.
CONTENTS = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
ROOT = math.sqrt(2)


def question(*items: int) -> RankingInput:
    return RankingInput(contents=(Content(modality=Modality.TEXT, text="x"),) * len(items), item_indices=items)


def test_the_item_nearest_to_the_query_is_first_from_the_start() -> None:
    assert RankingHead().output(question(0, 1, -1), CONTENTS, UNTAUGHT).scores == pytest.approx((0, QUERY_SCALE))


def test_without_a_query_there_is_silence_until_it_is_taught() -> None:
    asked = question(0, 1, 1)
    assert RankingHead().output(asked, CONTENTS, UNTAUGHT).scores == ()
    assert RankingHead().output(asked, CONTENTS, TAUGHT).scores == pytest.approx((ROOT, -ROOT))


def test_what_was_taught_adds_to_the_query() -> None:
    found = RankingHead().output(question(0, 1, -1), CONTENTS, TAUGHT).scores
    assert found == pytest.approx((ROOT, QUERY_SCALE - ROOT))


def test_the_loss_is_logistic_over_the_pairs_in_order() -> None:
    batch, targets = CONTENTS.expand(2, 3, 2), [RankingTarget((0, 1, 1)), RankingTarget((0, 0, 0))]
    losses = RankingHead().losses(question(0, 1, 2), batch, TAUGHT, targets)
    assert losses.tolist() == pytest.approx([math.log1p(math.exp(-2 * ROOT)), 0.0])


def test_items_that_are_not_numbered_in_a_row_are_refused() -> None:
    with pytest.raises(ValueError, match=r"item_indices is \(0, 2\) for 2 contents"):
        question(0, 2)
