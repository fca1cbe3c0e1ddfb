"""The head for `RatingInput`: a linear regression over the features. There is no answer until it has been trained.

It computes on the scale of `lorabel.families.encoders.heads.rating_scale`.
"""

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from lorabel.contracts import Estimate, RatingInput, RatingTarget
from lorabel.families.encoders.heads.base import Head, HeadParameters
from lorabel.families.encoders.heads.rating_scale import to_number, to_position


class RatingHead(Head):
    """Estimates a number and its expected error.

    The layer maps the features and the constant 1 to the position on the internal scale, and to the expected error
    of that position (before softplus).
    """

    layer: ClassVar[str] = "rating"

    def size(self, dim: int) -> tuple[int, int]:
        """Return (dim + 1, 2)."""
        return dim + 1, 2

    def output(self, question: RatingInput, contents: Tensor, parameters: HeadParameters) -> Estimate:
        """Compute the estimate; without value if the layer has not been trained."""
        if parameters.weights is None:
            return Estimate()
        positions, errors = _estimate(contents[None], parameters.weights)
        return to_number(question, float(positions[0]), float(errors[0]))

    def losses(
        self, question: RatingInput, contents: Tensor, parameters: HeadParameters, targets: Sequence[RatingTarget]
    ) -> Tensor:
        """Compute the squared error of the position, plus the squared error of the expected error.

        The second term has no gradient with respect to the position.
        """
        assert parameters.weights is not None
        positions, errors = _estimate(contents, parameters.weights)
        truth = torch.tensor([to_position(question, target.value) for target in targets], device=positions.device)
        distances = (positions - truth).abs()
        return distances.square() + (errors - distances.detach()).square()


def _estimate(contents: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """(batch,) each: the position on the internal scale, and its expected absolute error."""
    features = contents.mean(1)
    # Gives each dimension of the features about the magnitude of the constant.
    features = features * math.sqrt(features.shape[1])
    outputs = torch.cat([features, torch.ones_like(features[:, :1])], 1) @ weights
    return outputs[:, 0], functional.softplus(outputs[:, 1])
