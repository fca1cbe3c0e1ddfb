"""The head for `RankingInput`: items that are similar to the query come first, and items that people prefer."""

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from lorabel.contracts import ItemScores, RankingInput, RankingTarget
from lorabel.families.encoders.heads.base import Head, HeadParameters
from lorabel.families.encoders.heads.item_features import QUERY_SCALE


class RankingHead(Head):
    """Scores items by their similarity with the query, plus a learned preference.

    The layer maps the features of an item to how much people prefer it.
    """

    layer: ClassVar[str] = "ranking"

    def size(self, dim: int) -> tuple[int, int]:
        """Return (dim, 1)."""
        return dim, 1

    def output(self, question: RankingInput, contents: Tensor, parameters: HeadParameters) -> ItemScores:
        """Compute the score of each item; no scores if there is neither a query nor a trained layer."""
        if parameters.weights is None and not question.has_query:
            return ItemScores()
        return ItemScores(scores=tuple(_scores(question, contents[None], parameters)[0].tolist()))

    def losses(
        self,
        question: RankingInput,
        contents: Tensor,
        parameters: HeadParameters,
        targets: Sequence[RankingTarget],
    ) -> Tensor:
        """Compute the logistic loss, averaged over all ordered pairs (RankNet, Burges et al. 2005).

        It is 0 for a target without ordered pairs.
        """
        scores = _scores(question, contents, parameters)
        return torch.stack([_loss(row, target) for row, target in zip(scores, targets, strict=True)])


def _scores(question: RankingInput, contents: Tensor, parameters: HeadParameters) -> Tensor:
    """(batch, items)."""
    item_count = max(question.item_indices) + 1
    items = torch.stack([_item_features(question, contents, item) for item in range(item_count)], 1)
    scores = contents.new_zeros(items.shape[:2])
    if question.has_query:
        query = functional.normalize(_item_features(question, contents, -1), dim=-1)
        scores = QUERY_SCALE * (functional.normalize(items, dim=-1) @ query[:, :, None])[:, :, 0]
    if parameters.weights is not None:
        scores = scores + (items * math.sqrt(items.shape[2]) @ parameters.weights)[:, :, 0]
    return scores


def _item_features(question: RankingInput, contents: Tensor, item: int) -> Tensor:
    """(batch, dim): the mean of the contents of an item; of the query if `item` is -1."""
    columns = [column for column, item_index in enumerate(question.item_indices) if item_index == item]
    return contents[:, columns].mean(1)


def _loss(scores: Tensor, target: RankingTarget) -> Tensor:
    """A scalar, from the scores of one input, (items,)."""
    if not target.pairs:
        return 0 * scores.sum()
    better, worse = zip(*target.pairs, strict=True)
    return functional.softplus(scores[list(worse)] - scores[list(better)]).mean()
