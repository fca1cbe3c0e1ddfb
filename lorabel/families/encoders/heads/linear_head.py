"""A fitted head: what a project has learned on frozen features, as one matrix and one bias.

Fitted in closed form from all annotations of a control tag, in milliseconds, after each of them. This module and
the modules that fit need NumPy alone, so that a worker without torch can fit, and any process can compute.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]


@dataclass(frozen=True)
class LinearHead:
    """Logits are `zero_shot_weight * zero_shot + features @ weights + bias`.

    Args:
        weights: (dim, outputs) float32. Centre and scale of the features are contained.
        bias: (outputs,) float32.
        zero_shot_weight: factor of the base model's logits.
        is_learned: (outputs,) bool: whether annotations have said anything about an output. Choices without any
            keep their zero-shot probability, and the others share the rest.
        expected_error: ratings: expected absolute error on the internal scale; 0 for everything else.
    """

    weights: Array
    bias: Array
    zero_shot_weight: float
    is_learned: NDArray[np.bool_]
    expected_error: float = 0.0

    def logits(self, features: Array, zero_shot: Array) -> Array:
        """Compute the logits of some inputs.

        Args:
            features: (inputs, dim).
            zero_shot: (inputs, outputs); zeros for outputs without a text.

        Returns:
            (inputs, outputs) float32.
        """
        return np.asarray(self.zero_shot_weight * zero_shot + features @ self.weights + self.bias, np.float32)


def probabilities(head: LinearHead | None, features: Array, zero_shot: Array) -> Array:
    """Compute the probabilities of a single choice: choices that are not learned keep their zero-shot probability.

    Args:
        head: None for the base model alone.
        features: (inputs, dim).
        zero_shot: (inputs, labels) logits.

    Returns:
        (inputs, labels) float32; each row sums to 1.
    """
    before = _softmax(zero_shot)
    if head is None:
        return before
    learned = head.is_learned
    after = before.copy()
    rest = before[:, learned].sum(1, keepdims=True)
    after[:, learned] = rest * _softmax(head.logits(features, zero_shot)[:, learned])
    return after


def _softmax(logits: Array) -> Array:
    exponentials = np.exp(logits - logits.max(1, keepdims=True))
    return np.asarray(exponentials / exponentials.sum(1, keepdims=True), np.float32)
