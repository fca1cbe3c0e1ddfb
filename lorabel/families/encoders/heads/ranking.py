"""Which items come first? Those nearest to the query, if there is one, and those with what people prefer."""

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from lorabel.contracts import ItemScores, OrderTarget, RankingInput
from lorabel.families.encoders.heads.base import Basis, Head

# Of the cosine with the query. The model's own scale means labels that exclude each other; items do not, and as in
# the training of labels a loss at that scale teaches little.
QUERY_SCALE = 10.0


class RankingHead(Head):
    """The layer: from an item's features to how much people prefer it."""

    layer: ClassVar[str] = "ranking"

    def size(self, dim: int) -> tuple[int, int]:
        return dim, 1

    def output(self, question: RankingInput, contents: Tensor, basis: Basis) -> ItemScores:
        if basis.weights is None and not question.has_query:
            return ItemScores()
        return ItemScores(scores=tuple(_scores(question, contents[None], basis)[0].tolist()))

    def losses(
        self, question: RankingInput, contents: Tensor, basis: Basis, targets: Sequence[OrderTarget]
    ) -> Tensor:
        """Logistic, the mean over all pairs that are in order (RankNet, Burges et al. 2005); 0 where none is."""
        scores = _scores(question, contents, basis)
        return torch.stack([_loss(own, target) for own, target in zip(scores, targets, strict=True)])


def _scores(question: RankingInput, contents: Tensor, basis: Basis) -> Tensor:
    """(batch, items)."""
    items = torch.stack([_part(question, contents, item) for item in range(max(question.items) + 1)], 1)
    scores = contents.new_zeros(items.shape[:2])
    if question.has_query:
        query = functional.normalize(_part(question, contents, -1), dim=-1)
        scores = QUERY_SCALE * (functional.normalize(items, dim=-1) @ query[:, :, None])[:, :, 0]
    if basis.weights is not None:
        scores = scores + (items * math.sqrt(items.shape[2]) @ basis.weights)[:, :, 0]
    return scores


def _part(question: RankingInput, contents: Tensor, item: int) -> Tensor:
    """(batch, dim): the mean of the contents that are part of this item."""
    return contents[:, [place for place, own in enumerate(question.items) if own == item]].mean(1)


def _loss(scores: Tensor, target: OrderTarget) -> Tensor:
    if not target.pairs:
        return 0 * scores.sum()
    better, worse = zip(*target.pairs, strict=True)
    return functional.softplus(scores[list(worse)] - scores[list(better)]).mean()
