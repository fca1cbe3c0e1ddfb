"""A fitted head: what a project has learned on frozen features, as one matrix and one bias.

Fitted in closed form from all annotations of a control tag, in milliseconds, after each of them. This module and
the modules that fit need NumPy alone, so that a worker without torch can fit, and any process can compute.
`lorabel.families.encoders.heads.head_answers` turns what a head computes into the answer to a question.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lorabel.families.encoders.heads.head_file import read_head_file, write_head_file

Array = NDArray[np.float32]

MEAN = "mean"


@dataclass(frozen=True)
class LinearHead:
    """Logits are `zero_shot_weight * zero_shot + features @ weights + bias`.

    Args:
        weights: (dim, outputs) float32. Centre and scale of the features are contained.
        bias: (outputs,) float32.
        zero_shot_weight: factor of the base model's logits, for all outputs or (outputs,) float32.
        is_learned: (outputs,) bool: whether annotations have said anything about an output. Choices without any
            keep their zero-shot probability, and the others share the rest.
        expected_error: ratings: expected absolute error on the internal scale; 0 for everything else.
        kind: `Contract.kind` of the questions that the head answers. Empty if it does not say.
        space: `Features.space` of the features that it was fitted on. Empty if it does not say.
        feature_map: how contents become features, see `lorabel.families.encoders.heads.head_features`.
        slots: see `lorabel.families.encoders.heads.head_features`; empty for `mean`.
    """

    weights: Array
    bias: Array
    zero_shot_weight: float | Array
    is_learned: NDArray[np.bool_]
    expected_error: float = 0.0
    kind: str = ""
    space: str = ""
    feature_map: str = MEAN
    slots: tuple[str, ...] = ()

    def logits(self, features: Array, zero_shot: Array) -> Array:
        """Compute the logits of some inputs.

        Args:
            features: (inputs, dim).
            zero_shot: (inputs, outputs); zeros for outputs without a text.

        Returns:
            (inputs, outputs) float32.
        """
        return np.asarray(self.zero_shot_weight * zero_shot + features @ self.weights + self.bias, np.float32)

    def to_bytes(self) -> bytes:
        """Return the head as a safetensors file. Equal heads have equal bytes."""
        outputs = len(self.bias)
        tensors = {
            "weights": np.asarray(self.weights, np.float32),
            "bias": np.asarray(self.bias, np.float32),
            "zero_shot_weight": np.broadcast_to(np.asarray(self.zero_shot_weight, np.float32), (outputs,)),
            "is_learned": np.asarray(self.is_learned, np.bool_),
        }
        return write_head_file(
            tensors,
            {
                "expected_error": float(self.expected_error),
                "kind": self.kind,
                "space": self.space,
                "feature_map": self.feature_map,
                "slots": list(self.slots),
            },
        )

    @classmethod
    def from_bytes(cls, file: bytes) -> "LinearHead":
        """Read a head from the file that `to_bytes` made.

        Raises:
            UnreadableError: the file is no such file, or contains wrong shapes or numbers that are not finite.
        """
        tensors, fields = read_head_file(file)
        return cls(
            tensors["weights"],
            tensors["bias"],
            tensors["zero_shot_weight"],
            tensors["is_learned"],
            fields["expected_error"],
            fields["kind"],
            fields["space"],
            fields["feature_map"],
            tuple(fields["slots"]),
        )
