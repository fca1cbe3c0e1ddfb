"""The head for `RatingInput`: a linear regression over the features. There is no answer until it has been trained.

It computes on an internal scale around 0, so that one learning rate fits every question. Between two bounds this
is the scale of five stars: -2 is the minimum, 2 is the maximum. If a bound is missing, the scale is logarithmic
(symlog, https://arxiv.org/abs/2301.04104).
"""

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from lorabel.contracts import Estimate, RatingInput, RatingTarget
from lorabel.families.encoders.heads.base import Head, HeadParameters

# Length of the internal scale between two bounds: the distance from the first star to the fifth.
SCALE_LENGTH = 4.0
# Largest absolute position on the logarithmic scale, so that the number stays finite.
MAX_SYMLOG = 50.0


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
        return _to_number(question, float(positions[0]), float(errors[0]))

    def losses(
        self, question: RatingInput, contents: Tensor, parameters: HeadParameters, targets: Sequence[RatingTarget]
    ) -> Tensor:
        """Compute the squared error of the position, plus the squared error of the expected error.

        The second term has no gradient with respect to the position.
        """
        assert parameters.weights is not None
        positions, errors = _estimate(contents, parameters.weights)
        truth = torch.tensor([_to_position(question, target.value) for target in targets], device=positions.device)
        distances = (positions - truth).abs()
        return distances.square() + (errors - distances.detach()).square()


def _estimate(contents: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """(batch,) each: the position on the internal scale, and its expected absolute error."""
    features = contents.mean(1)
    # Gives each dimension of the features about the magnitude of the constant.
    features = features * math.sqrt(features.shape[1])
    outputs = torch.cat([features, torch.ones_like(features[:, :1])], 1) @ weights
    return outputs[:, 0], functional.softplus(outputs[:, 1])


def _to_position(question: RatingInput, value: float) -> float:
    """Convert a number to its position on the internal scale."""
    if question.minimum is None or question.maximum is None:
        return math.copysign(math.log1p(abs(value)), value)
    return SCALE_LENGTH * ((value - question.minimum) / (question.maximum - question.minimum) - 0.5)


def _to_number(question: RatingInput, position: float, error: float) -> Estimate:
    """Convert a position and its expected error to the unit of the question, within the question's bounds."""
    minimum, maximum = question.minimum, question.maximum
    if minimum is None or maximum is None:
        position = max(-MAX_SYMLOG, min(MAX_SYMLOG, position))
        value, unit = math.copysign(math.expm1(abs(position)), position), math.exp(abs(position))
    else:
        length = maximum - minimum
        value, unit = minimum + (position / SCALE_LENGTH + 0.5) * length, length / SCALE_LENGTH
    value = value if minimum is None else max(minimum, value)
    value = value if maximum is None else min(maximum, value)
    return Estimate(value=value, expected_error=error * unit)
