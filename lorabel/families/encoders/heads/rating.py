"""Which number do the contents deserve? A regression over their features; nobody can say before it is taught.

It computes on a scale of five stars around 0, whatever the bounds are, and without bounds on a logarithmic one
(symlog, https://arxiv.org/abs/2301.04104), so that one learning rate fits all.
"""

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from lorabel.contracts import Estimate, NumberTarget, RatingInput
from lorabel.families.encoders.heads.base import Basis, Head

# From the first star to the fifth.
STARS = 4.0


class RatingHead(Head):
    """The layer: from the features and a constant to the place on the scale, and to how wrong that is."""

    layer: ClassVar[str] = "rating"

    def size(self, dim: int) -> tuple[int, int]:
        return dim + 1, 2

    def output(self, question: RatingInput, contents: Tensor, basis: Basis) -> Estimate:
        if basis.weights is None:
            return Estimate()
        places, errors = _estimate(contents[None], basis.weights)
        return _number(question, float(places[0]), float(errors[0]))

    def losses(
        self, question: RatingInput, contents: Tensor, basis: Basis, targets: Sequence[NumberTarget]
    ) -> Tensor:
        """The squared error, and that of the expected error, which follows the first and does not lead it."""
        assert basis.weights is not None
        places, errors = _estimate(contents, basis.weights)
        right = torch.tensor([_place(question, target.value) for target in targets], device=places.device)
        wrong = (places - right).abs()
        return wrong.square() + (errors - wrong.detach()).square()


def _estimate(contents: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """(batch,) each: the place on the scale, and how far from there the right one is expected."""
    features = contents.mean(1)
    # Each number of a feature is about as large as the constant then.
    features = features * math.sqrt(features.shape[1])
    found = torch.cat([features, torch.ones_like(features[:, :1])], 1) @ weights
    return found[:, 0], functional.softplus(found[:, 1])


def _place(question: RatingInput, value: float) -> float:
    if question.least is None or question.most is None:
        return math.copysign(math.log1p(abs(value)), value)
    return STARS * ((value - question.least) / (question.most - question.least) - 0.5)


def _number(question: RatingInput, place: float, error: float) -> Estimate:
    least, most = question.least, question.most
    if least is None or most is None:
        # What is out of reach of a float would be infinite.
        place = max(-50.0, min(50.0, place))
        value, unit = math.copysign(math.expm1(abs(place)), place), math.exp(abs(place))
    else:
        value, unit = least + (place / STARS + 0.5) * (most - least), (most - least) / STARS
    value = value if least is None else max(least, value)
    value = value if most is None else min(most, value)
    return Estimate(value=value, error=error * unit)
