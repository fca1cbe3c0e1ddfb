"""A fitted head: what a project has learned on frozen features, as one matrix and one bias.

Fitted in closed form from all annotations of a control tag, in milliseconds, after each of them. This module and
the modules that fit need NumPy alone, so that a worker without torch can fit, and any process can compute.
`lorabel.families.encoders.heads.head_answers` turns what a head computes into the answer to a question.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from lorabel.families.encoders.heads.head_file import (
    LEXICON,
    SCALES,
    read_head_file,
    read_lexicon,
    read_scales,
    write_head_file,
)
from lorabel.families.encoders.heads.platt import Scale
from lorabel.families.text_lines.lexicon import Lexicon

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
        slots: see `lorabel.families.encoders.heads.head_features`; empty for `mean`. Of segments of series, for
            each label whether it marks ranges or instants.
        lexicon: of lines of text: the words of the project. None for everything else.
        score_scales: of segments: how the scores of each label are calibrated. Empty if they are not.
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
    lexicon: Lexicon | None = None
    score_scales: tuple[Scale, ...] = ()

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
                **({} if self.lexicon is None else {LEXICON: asdict(self.lexicon)}),
                **({SCALES: [list(scale) for scale in self.score_scales]} if self.score_scales else {}),
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
            read_lexicon(fields),
            read_scales(fields, len(tensors["bias"])),
        )


def probabilities(
    head: LinearHead | None,
    features: Array,
    zero_shot: Array,
    parents: Sequence[int] = (),
    is_multiple: bool = False,
    temperature: float = 1.0,
) -> Array:
    """Compute the probabilities of labels. A label of which nothing was learned keeps its zero-shot probability.

    Args:
        head: None for the base model alone.
        features: (inputs, dim).
        zero_shot: (inputs, labels) logits.
        parents: see `LabelsInput`.
        is_multiple: see `LabelsInput`.
        temperature: divides the base model's logits where they alone give the probability. What was learned is
            calibrated by the fit.

    Returns:
        (inputs, labels) float32; see `LabelScores.probabilities`.
    """
    before = zero_shot / temperature
    learned = np.zeros(zero_shot.shape[1], np.bool_) if head is None else head.is_learned
    after = before if head is None else head.logits(features, zero_shot)
    if is_multiple:
        return _sigmoid(np.where(learned, after, before))
    groups = np.array(parents) if parents else np.zeros(len(learned), int)
    scores = np.empty(before.shape, np.float32)
    for group in np.unique(groups):
        columns = np.flatnonzero(groups == group)
        scores[:, columns] = _softmax(before[:, columns])
        learned_columns = columns[learned[columns]]
        if len(learned_columns):
            rest = scores[:, learned_columns].sum(1, keepdims=True)
            scores[:, learned_columns] = rest * _softmax(after[:, learned_columns])
    return scores


def _softmax(logits: Array) -> Array:
    exponentials = np.exp(logits - logits.max(1, keepdims=True))
    return np.asarray(exponentials / exponentials.sum(1, keepdims=True), np.float32)


def _sigmoid(logits: Array) -> Array:
    return np.asarray(0.5 * (1 + np.tanh(0.5 * logits)), np.float32)
