"""The head for labels: a label's score is the similarity of the contents with its texts.

If a question has contents of several modalities, the head learns how much each modality counts (late fusion).
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import ClassVar

import torch
from torch import Tensor

from lorabel.contracts import LabelScores, LabelsInput, LabelTarget, Modality
from lorabel.families.encoders.heads.base import Head, HeadParameters
from lorabel.families.encoders.label_logits import label_logits, label_losses, label_scores
from lorabel.feature_contracts import FeaturesInput

# In multiple choice, a label is chosen if the content is more similar to the label than to any of these texts.
NEUTRAL_TEXTS = ("something else", "none of these", "other")
# The model's own scale (28 for the demo model, 100 and more for CLIP) saturates the loss as soon as a training
# example is right, so training would stop before other examples are right. docs/decisions/0009 has the figures.
TRAINING_SCALE = 10.0
# Wordings of a label that mean the same. What they change in its logits is no evidence about the content.
WORDINGS = ("{}", "a {}", "the {}.", "{} thing", "a picture of {}")
# Most labels of a question whose wordings are compared: each of them costs five texts.
MOST_WORDED_LABELS = 4
# Sets of labels whose texts are remembered: all rows of a project have the same.
MOST_REMEMBERED = 64
Labels = tuple[tuple[str, ...], ...]
"""The texts of each label."""


class LabelHead(Head):
    """Compares contents with label texts.

    The layer maps the constant 1 to the logarithm of the weight of each modality, in the order of `Modality`.
    """

    layer: ClassVar[str] = "fusion"

    def size(self, dim: int) -> tuple[int, int]:
        """Return (1, number of modalities)."""
        return 1, len(Modality)

    def texts(self, question: LabelsInput | FeaturesInput) -> tuple[str, ...]:
        """Return the texts of each label in turn; in multiple choice, then the neutral texts."""
        label_texts = _label_texts(question.labels)
        return label_texts + NEUTRAL_TEXTS if question.is_multiple else label_texts

    def wordings(self, question: LabelsInput | FeaturesInput) -> tuple[str, ...]:
        """Return each of WORDINGS in turn for some of the labels, evenly chosen."""
        return _wordings(question.labels)

    def temperature(self, wording_features: Tensor, scale: float) -> Tensor:
        """Compute 1 + the variance of the difference between two labels' logits over the wordings.

        The label texts themselves stand for contents. docs/decisions/0021 has the reason and figures.
        """
        features = wording_features.view(len(WORDINGS), -1, wording_features.shape[-1])
        logits = scale * torch.einsum("cd,wld->cwl", features[0], features)
        differences = logits - logits.mean(2, keepdim=True)
        return 1 + 2 * differences.var(1).mean()

    def is_learned(self, question: LabelsInput | FeaturesInput) -> bool:
        """Whether there are modalities to weigh against each other."""
        return len(question.modalities) > 1

    def logits(
        self, question: LabelsInput | FeaturesInput, contents: Tensor, parameters: HeadParameters
    ) -> Tensor:
        """Compute the logits from which the probabilities are made, (labels,) float32."""
        return _logits(question, contents[None], parameters)[0]

    def output(self, question: LabelsInput, contents: Tensor, parameters: HeadParameters) -> LabelScores:
        """Compute the probability of each label."""
        scores = label_scores(self.logits(question, contents, parameters), question)
        return scores.model_copy(update={"temperature": parameters.temperature})

    def losses(
        self, question: LabelsInput, contents: Tensor, parameters: HeadParameters, targets: Sequence[LabelTarget]
    ) -> Tensor:
        """Compute the cross-entropy over the labels; in multiple choice, the mean binary cross-entropy."""
        logits = _logits(question, contents, parameters) * min(1.0, TRAINING_SCALE / parameters.scale)
        return label_losses(logits, question, targets)


@lru_cache(MOST_REMEMBERED)
def _label_texts(labels: Labels) -> tuple[str, ...]:
    return tuple(text for texts in labels for text in texts)


@lru_cache(MOST_REMEMBERED)
def _wordings(labels: Labels) -> tuple[str, ...]:
    step = max(1, len(labels) // MOST_WORDED_LABELS)
    worded = [texts[0] for texts in labels[::step][:MOST_WORDED_LABELS]]
    return tuple(wording.replace("{}", label) for wording in WORDINGS for label in worded)


def _logits(question: LabelsInput | FeaturesInput, contents: Tensor, parameters: HeadParameters) -> Tensor:
    """(batch, labels): the mean over the contents, weighted by modality."""
    batch_size, content_count, dim = contents.shape
    rows = contents.reshape(batch_size * content_count, dim)
    similarities = parameters.scale * rows @ parameters.text_features.T
    logits = label_logits(similarities, question, parameters.bias).view(batch_size, content_count, -1)
    if parameters.weights is None:
        return logits.mean(1)
    modalities = list(Modality)
    columns = torch.tensor([modalities.index(content.modality) for content in question.contents])
    modality_weights = parameters.weights[0].exp()[columns.to(logits.device)]
    return (modality_weights[:, None] * logits).mean(1)
