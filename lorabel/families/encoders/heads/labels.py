"""Which labels fit? Those whose texts are nearest to the contents; of several contents each has its say.

How much each modality counts is learned where a question has several (late fusion).
"""

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from lorabel.contracts import LabelScores, LabelsInput, LabelTarget, Modality
from lorabel.families.encoders.heads.base import Basis, Head
from lorabel.families.encoders.label_logits import label_logits, label_losses, label_scores

# With several labels allowed, a label is chosen if the content is nearer to it than to this text.
NEUTRAL_TEXT = "something else"
# The model's own scale (28 for the demo model, 100 and more for CLIP) saturates the loss as soon as a training
# example is right, and little is learned for others. docs/decisions/0009 has the figures.
TRAINING_SCALE = 10.0


class LabelHead(Head):
    """The layer: from a constant to the logarithm of each modality's weight, in the order of `Modality`."""

    layer: ClassVar[str] = "fusion"

    def size(self, dim: int) -> tuple[int, int]:
        return 1, len(Modality)

    def texts(self, question: LabelsInput) -> tuple[str, ...]:
        return *(text for texts in question.labels for text in texts), NEUTRAL_TEXT

    def is_learned(self, question: LabelsInput) -> bool:
        return len(question.modalities) > 1

    def output(self, question: LabelsInput, contents: Tensor, basis: Basis) -> LabelScores:
        return label_scores(_logits(question, contents[None], basis)[0], question)

    def losses(
        self, question: LabelsInput, contents: Tensor, basis: Basis, targets: Sequence[LabelTarget]
    ) -> Tensor:
        """Cross-entropy over the labels, or a sigmoid loss over each of them if several are allowed."""
        logits = _logits(question, contents, basis) * min(1.0, TRAINING_SCALE / basis.scale)
        return label_losses(logits, question, targets)


def _logits(question: LabelsInput, contents: Tensor, basis: Basis) -> Tensor:
    """(batch, labels): of several contents the mean, each by the weight of its modality."""
    batch, count, dim = contents.shape
    nearness = basis.scale * contents.reshape(batch * count, dim) @ basis.texts.T
    each = label_logits(nearness, question, basis.bias).view(batch, count, -1)
    if basis.weights is None:
        return each.mean(1)
    modalities = list(Modality)
    places = torch.tensor([modalities.index(content.modality) for content in question.contents])
    return (basis.weights[0].exp()[places.to(each.device)][:, None] * each).mean(1)
