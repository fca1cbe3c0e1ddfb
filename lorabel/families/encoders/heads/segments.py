"""The head of segments of a recording: the head for labels, applied to each window."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from lorabel.contracts import LabelsInput
from lorabel.families.encoders.heads.base import HeadParameters
from lorabel.families.encoders.heads.each import EachLabelHead
from lorabel.families.encoders.heads.labels import TRAINING_SCALE
from lorabel.families.encoders.label_logits import label_logits
from lorabel.families.segments.spoken_segments import answered_segments
from lorabel.families.segments.windows import window_truth
from lorabel.feature_contracts import FeaturesInput
from lorabel.time_contracts import SegmentScores, SegmentsInput, SegmentTarget


class SegmentHead(EachLabelHead):
    """Compares each window with the label texts, and with neutral texts that stand for "none of them"."""

    def logits(
        self, question: LabelsInput | FeaturesInput, contents: Tensor, parameters: HeadParameters
    ) -> Tensor:
        """Compute the logits of each window in turn, (windows * labels,) float32."""
        similarities = parameters.scale * contents @ parameters.text_features.T
        return label_logits(similarities, question, parameters.bias).flatten()

    def output(self, question: SegmentsInput, contents: Tensor, parameters: HeadParameters) -> SegmentScores:
        """Find the segments of each label."""
        logits = self.logits(question, contents, parameters).view(len(contents), -1)
        return answered_segments(question, logits.sigmoid().float().cpu().numpy(), is_taught=False)

    def losses(
        self, question: SegmentsInput, contents: Tensor, parameters: HeadParameters, targets: Sequence[Any]
    ) -> Tensor:
        """Compute the loss of each recording: the binary cross-entropy, the mean over windows and labels.

        Args:
            contents: (batch, windows, dim); all recordings have as many windows.
            targets: each a `SegmentTarget`.
        """
        batch, windows, dim = contents.shape
        logits = self.logits(question, contents.reshape(batch * windows, dim), parameters)
        logits = logits.view(batch, windows, -1) * min(1.0, TRAINING_SCALE / parameters.scale)
        truth = torch.stack([_truth(question, target, windows) for target in targets]).to(logits.device)
        return functional.binary_cross_entropy_with_logits(logits, truth, reduction="none").mean((1, 2))


def _truth(question: SegmentsInput, target: SegmentTarget, windows: int) -> Tensor:
    return torch.from_numpy(window_truth(question, target, windows))
