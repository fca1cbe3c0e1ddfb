"""From how near each text is to how probable each label is, and how wrong that was.

Several texts of one label count as their mean probability. In a taxonomy the labels below one parent stand
against each other, level by level.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from lorabel.contracts import LabelScores, LabelsInput, LabelTarget


def label_logits(nearness: Tensor, question: LabelsInput, bias: float | None) -> Tensor:
    """(batch, labels) float32. For several labels: 0 is the border between chosen and not.

    SigLIP learned that border as a bias; others did not, so there it is the nearness of the neutral text.

    Args:
        nearness: (batch, texts + 1), scaled cosines with each label's texts in turn, and with the neutral one.
    """
    texts, neutral = nearness[:, :-1], nearness[:, -1:]
    if question.is_multiple:
        texts = texts - neutral if bias is None else texts + bias
    sizes = [len(texts) for texts in question.labels]
    if len(sizes) == texts.shape[1]:
        return texts
    parts = torch.split(texts, sizes, dim=1)
    return torch.stack([part.logsumexp(1) - math.log(part.shape[1]) for part in parts], dim=1)


def label_scores(logits: Tensor, question: LabelsInput) -> LabelScores:
    """Of one row's logits (labels,)."""
    shares = logits.sigmoid() if question.is_multiple else _log_shares(logits[None], question)[0].exp()
    return LabelScores(probabilities=tuple(shares.tolist()))


def label_losses(logits: Tensor, question: LabelsInput, targets: Sequence[LabelTarget]) -> Tensor:
    """(batch,) float32: cross-entropy, summed over a taxonomy's levels; or a sigmoid loss, the labels' mean."""
    truth = torch.zeros_like(logits)
    for row, target in zip(truth, targets, strict=True):
        if target.shares is None:
            row[list(target.indices)] = 1.0
        else:
            row.copy_(torch.tensor(target.shares))
    if question.is_multiple:
        return functional.binary_cross_entropy_with_logits(logits, truth, reduction="none").mean(1)
    return -(truth * _log_shares(logits, question)).sum(1)


def _log_shares(logits: Tensor, question: LabelsInput) -> Tensor:
    """(batch, labels): log-softmax among the labels with the same parent."""
    if not question.parents:
        return logits.log_softmax(1)
    parents = torch.tensor(question.parents, device=logits.device)
    shares = torch.empty_like(logits)
    for parent in set(question.parents):
        among = (parents == parent).nonzero()[:, 0]
        shares = shares.index_copy(1, among, logits[:, among].log_softmax(1))
    return shares
