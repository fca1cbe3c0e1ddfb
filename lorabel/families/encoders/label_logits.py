"""Computes label logits from similarities of contents and label texts, then probabilities and losses.

If a label has several texts, the exponential of its logit is the mean of theirs, so that probabilities are
averaged and not logits. In a taxonomy the softmax is taken level by level, over the labels with the same parent.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from lorabel.contracts import LabelScores, LabelsInput, LabelTarget
from lorabel.feature_contracts import FeaturesInput


def label_logits(similarities: Tensor, question: LabelsInput | FeaturesInput, bias: float | None) -> Tensor:
    """Compute a logit for each label. In multiple choice, a label with a logit above 0 is chosen.

    SigLIP has learned that threshold as a bias. Other models have not; their threshold is the similarity with the
    most similar of the neutral texts.

    Args:
        similarities: (batch, texts) float32, scaled cosines: the texts of each label in turn; in multiple choice,
            then the neutral texts.
        bias: the learned bias, or None.

    Returns:
        (batch, labels) float32.
    """
    text_counts = [len(texts) for texts in question.labels]
    text_logits, neutral_logits = similarities[:, : sum(text_counts)], similarities[:, sum(text_counts) :]
    if question.is_multiple:
        text_logits = text_logits - neutral_logits.amax(1, keepdim=True) if bias is None else text_logits + bias
    if len(text_counts) == text_logits.shape[1]:
        return text_logits
    labels = torch.split(text_logits, text_counts, dim=1)
    return torch.stack([logits.logsumexp(1) - math.log(logits.shape[1]) for logits in labels], dim=1)


def label_scores(logits: Tensor, question: LabelsInput) -> LabelScores:
    """Compute the probabilities of one input from its logits, (labels,) float32."""
    if question.is_multiple:
        probabilities = logits.sigmoid()
    else:
        probabilities = _log_probabilities(logits[None], question)[0].exp()
    return LabelScores(probabilities=tuple(probabilities.tolist()))


def label_losses(logits: Tensor, question: LabelsInput, targets: Sequence[LabelTarget]) -> Tensor:
    """Compute the loss of each input: cross-entropy, summed over the levels of a taxonomy.

    In multiple choice it is the binary cross-entropy, averaged over the labels.

    Args:
        logits: (batch, labels) float32.

    Returns:
        (batch,) float32.
    """
    truth = torch.zeros_like(logits)
    for row, target in zip(truth, targets, strict=True):
        if target.shares is None:
            row[list(target.indices)] = 1.0
        else:
            row.copy_(torch.tensor(target.shares))
    if question.is_multiple:
        return functional.binary_cross_entropy_with_logits(logits, truth, reduction="none").mean(1)
    return -(truth * _log_probabilities(logits, question)).sum(1)


def _log_probabilities(logits: Tensor, question: LabelsInput) -> Tensor:
    """(batch, labels): log-softmax over the labels with the same parent."""
    if not question.parents:
        return logits.log_softmax(1)
    parents = torch.tensor(question.parents, device=logits.device)
    log_probabilities = torch.empty_like(logits)
    for parent in set(question.parents):
        siblings = (parents == parent).nonzero()[:, 0]
        log_probabilities = log_probabilities.index_copy(1, siblings, logits[:, siblings].log_softmax(1))
    return log_probabilities
