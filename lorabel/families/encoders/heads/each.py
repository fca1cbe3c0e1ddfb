"""The heads of questions about each content by itself, such as the regions of a picture.

They are the heads of the questions about one content, with the same layer, applied to one content after another.
The loss of an input is the mean over its contents, so that a crowded picture counts as much as another.
"""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from lorabel.contracts import Contract, LabelsInput
from lorabel.families.encoders.heads.base import Head, HeadParameters
from lorabel.families.encoders.heads.labels import LabelHead
from lorabel.families.encoders.heads.rating import RatingHead
from lorabel.feature_contracts import FeaturesInput
from lorabel.region_contracts import EachTarget


class EachHead(Head):
    """Answers a question about each content with the head of the question about one.

    Attributes:
        one: that head.
    """

    one: ClassVar[Head]

    def size(self, dim: int) -> tuple[int, int]:
        """Return the size of the layer, which is that of `one`."""
        return self.one.size(dim)

    def texts(self, question: Any) -> tuple[str, ...]:
        """Return the texts of `one`."""
        return self.one.texts(question)

    def wordings(self, question: Any) -> tuple[str, ...]:
        """Return the wordings of `one`."""
        return self.one.wordings(question)

    def temperature(self, wording_features: Tensor, scale: float) -> Tensor:
        """Compute the temperature of `one`."""
        return self.one.temperature(wording_features, scale)

    def is_learned(self, question: Any) -> bool:
        """Whether the layer of `one` has any effect."""
        return self.one.is_learned(question)

    def output(self, question: Any, contents: Tensor, parameters: HeadParameters) -> Contract:
        """Compute the answer about each content, joined to one answer."""
        pairs = zip(question.each, contents, strict=True)
        joined: Contract = question.joined(
            [self.one.output(one, content[None], parameters) for one, content in pairs]
        )
        return joined

    def losses(
        self, question: Any, contents: Tensor, parameters: HeadParameters, targets: Sequence[EachTarget]
    ) -> Tensor:
        """Compute the loss of each input: the mean over its contents."""
        batch, count, dim = contents.shape
        rows = contents.reshape(batch * count, 1, dim)
        row_targets = [target for of_input in targets for target in of_input.each]
        losses = self.one.losses(question.each[0], rows, parameters, row_targets)
        return losses.view(batch, count).mean(1)


class EachLabelHead(EachHead):
    """Compares each content with the label texts."""

    one: ClassVar[LabelHead] = LabelHead()
    layer: ClassVar[str] = one.layer

    def logits(
        self, question: LabelsInput | FeaturesInput, contents: Tensor, parameters: HeadParameters
    ) -> Tensor:
        """Compute the logits of each content in turn, (contents * labels,) float32."""
        return torch.cat([self.one.logits(question, content[None], parameters) for content in contents])


class EachRatingHead(EachHead):
    """Estimates a number for each content."""

    one: ClassVar[RatingHead] = RatingHead()
    layer: ClassVar[str] = one.layer


def each_content(contents: Sequence[Tensor], targets: Sequence[Any]) -> tuple[Tensor, list[Any]]:
    """Return the rows that targets are about: of an `EachTarget` each content, else the mean of the contents.

    Args:
        contents: (contents, dim) of each input.
        targets: one for each input.

    Returns:
        (rows, dim), and the target of each row.
    """
    rows: list[Tensor] = []
    row_targets: list[Any] = []
    for features, target in zip(contents, targets, strict=True):
        is_each = isinstance(target, EachTarget)
        rows.append(features if is_each else features.mean(0, keepdim=True))
        row_targets += target.each if is_each else [target]
    return torch.cat(rows), row_targets


def mean_of_each(losses: Tensor, targets: Sequence[Any]) -> Tensor:
    """Return the loss of each input, (inputs,), from those of the rows of `each_content`."""
    counts = [len(target.each) if isinstance(target, EachTarget) else 1 for target in targets]
    return torch.stack([part.mean() for part in torch.split(losses, counts)])
