"""Fits the head of a control tag from all its annotated tasks: one function for every kind of question.

The head is a function of the set of examples. Their order changes nothing, not a bit, so a deleted annotation is
as if it had never been.
"""

import base64
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from lorabel.contracts import Input
from lorabel.families.encoders.heads.linear_head import Array, LinearHead
from lorabel.feature_contracts import Features


@dataclass(frozen=True)
class Example:
    """An annotated task.

    Args:
        question: what the model is asked about the task: the question itself, not the one for its features.
        features: (contents, dim) float32 of length 1.
        logits: (labels,) float32: the base model's; empty without labels.
        target: of `lorabel.contracts`: what the annotators answered.
        group: tasks with the same group are left out together, for example near duplicates. None: only tasks with
            equal features are.
    """

    question: Input
    features: Array
    logits: Array
    target: Any
    group: Hashable = None

    @classmethod
    def of(cls, question: Input, features: Features, target: Any, group: Hashable = None) -> Self:
        """Return an example with the features that a family has answered."""
        rows = np.frombuffer(base64.b64decode(features.float16), "<f2").reshape(-1, features.dim)
        return cls(question, rows.astype(np.float32), np.array(features.logits, np.float32), target, group)


def fit_head(examples: Sequence[Example], space: str) -> LinearHead | None:
    """Fit the head that answers questions like those of the examples.

    Args:
        examples: the annotated tasks of one control tag, with features of one space and the labels of today's
            label config.
        space: `Features.space` of their features.

    Returns:
        The head; None if the annotations say nothing yet, for example if all of them are of one class. The base
        model then answers as if nobody had annotated.
    """
    raise NotImplementedError
