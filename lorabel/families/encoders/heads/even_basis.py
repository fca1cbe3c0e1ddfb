"""Coordinates for the search of a logistic regression's maximum, shared by the heads of boxes and of segments."""

from dataclasses import dataclass
from typing import Self

import numpy as np

from lorabel.families.encoders.heads.ridge import Float64


@dataclass(frozen=True)
class EvenBasis:
    """Coordinates for weights and bias in which the prior stays independent, and the loss is evenly curved.

    Args:
        matrix: (dim + 1, dim + 1): from these coordinates to weights and bias.
        precision: (dim + 1,) of the prior in these coordinates.
    """

    matrix: Float64
    precision: Float64

    @classmethod
    def of(cls, features: Float64, of_weights: float, of_bias: float, curvature: float) -> Self:
        """The basis for the rows of features.

        Args:
            features: (rows, dim + 1), of which the last column is 1.
            of_weights, of_bias: precisions of the prior.
            curvature: mean of p (1 - p): how fast the maximum is found, not where it is.
        """
        root = np.array([of_weights] * (features.shape[1] - 1) + [of_bias]) ** -0.5
        curvatures, directions = np.linalg.eigh((features.T @ features) * root[:, None] * root)
        shrink = (1 + curvature * np.clip(curvatures, 0, None)) ** -0.5
        return cls(root[:, None] * directions * shrink, shrink**2)
