"""Computes the answer to a question with a fitted head, from the features of its contents. NumPy only."""

from collections.abc import Sequence

import numpy as np

from lorabel.contracts import (
    Contract,
    Estimate,
    Input,
    ItemScores,
    LabelScores,
    LabelsInput,
    RankingInput,
    RatingInput,
)
from lorabel.errors import UnreadableError
from lorabel.families.encoders.heads.head_features import FEATURE_MAPS, MEAN, PRODUCTS, feature_count, map_features
from lorabel.families.encoders.heads.item_features import item_features, query_similarities
from lorabel.families.encoders.heads.linear_head import Array, LinearHead
from lorabel.families.encoders.heads.rating_scale import to_number


def check_head(head: LinearHead, question: Input, space: str, dim: int) -> None:
    """Check that a head can answer a question with features of this space.

    Args:
        dim: number of features of a content.

    Raises:
        UnreadableError: the head is for another kind of question, base model, or number of labels.
    """
    if head.kind not in ("", question.kind):
        raise _misfit(f"answers questions of kind {head.kind!r}, and this one is of kind {question.kind!r}")
    if head.space not in ("", space):
        raise _misfit(f"was fitted on features of {head.space!r}, and these are of {space!r}")
    if head.feature_map not in FEATURE_MAPS:
        raise _misfit(f"has the unknown feature map {head.feature_map!r}")
    outputs = len(question.labels) if isinstance(question, LabelsInput) else 1
    if isinstance(question, RankingInput):
        features = dim * (2 if head.feature_map == PRODUCTS else 1)
        if head.feature_map != MEAN and not question.has_query:
            raise _misfit("needs a query, and the question has none")
    else:
        features = feature_count(head.feature_map, head.slots, dim)
    if head.weights.shape != (features, outputs):
        raise _misfit(f"has weights of shape {head.weights.shape}, and the question needs {(features, outputs)}")


def answer_with_head(
    head: LinearHead, question: Input, contents: Array, logits: Array, temperature: float = 1.0
) -> Contract:
    """Compute the answer.

    Args:
        contents: (contents, dim) float32 of length 1.
        logits: (labels,) float32: the base model's logits; empty without labels.
        temperature: see `label_probabilities`.
    """
    if isinstance(question, RankingInput):
        items = item_features(head.feature_map, question, contents)
        scores = head.logits(items, query_similarities(question, contents))
        return ItemScores(scores=tuple(scores[:, 0].tolist()))
    modalities = [content.modality for content in question.contents]
    features = map_features(head.feature_map, head.slots, modalities, contents)[None]
    if isinstance(question, RatingInput):
        return _estimate(head, question, features)
    if not isinstance(question, LabelsInput):
        raise _misfit(f"answers no questions of kind {question.kind!r}")
    probabilities = label_probabilities(
        head, features, logits[None], question.parents, question.is_multiple, temperature
    )
    return LabelScores(probabilities=tuple(probabilities[0].tolist()))


def label_probabilities(
    head: LinearHead,
    features: Array,
    zero_shot: Array,
    parents: Sequence[int] = (),
    is_multiple: bool = False,
    temperature: float = 1.0,
) -> Array:
    """Compute the probabilities of labels. A label about which nothing was learned keeps its zero-shot probability.

    Args:
        features: (inputs, features).
        zero_shot: (inputs, labels).
        parents: see `LabelsInput`.
        temperature: divides the base model's logits where they alone give the probability. What was learned is
            calibrated by the fit.

    Returns:
        (inputs, labels) float32; see `LabelScores.probabilities`.
    """
    logits = head.logits(features, zero_shot)
    zero_shot = zero_shot / temperature
    if is_multiple:
        return np.asarray(_sigmoid(np.where(head.is_learned, logits, zero_shot)), np.float32)
    groups = np.array(parents) if parents else np.zeros(logits.shape[1], int)
    probabilities = np.empty_like(logits)
    for group in np.unique(groups):
        columns = np.flatnonzero(groups == group)
        learned = columns[head.is_learned[columns]]
        probabilities[:, columns] = _softmax(zero_shot[:, columns])
        share = probabilities[:, learned].sum(1, keepdims=True)
        if len(learned):
            probabilities[:, learned] = share * _softmax(logits[:, learned])
    return probabilities


def _estimate(head: LinearHead, question: RatingInput, features: Array) -> Estimate:
    position = head.logits(features, np.zeros((1, 1), np.float32))
    return to_number(question, float(position[0, 0]), head.expected_error)


def _softmax(logits: Array) -> Array:
    exponentials = np.exp(logits - logits.max(1, keepdims=True))
    return np.asarray(exponentials / exponentials.sum(1, keepdims=True), np.float32)


def _sigmoid(logits: Array) -> Array:
    return np.asarray(0.5 * (1 + np.tanh(0.5 * logits)), np.float32)


def _misfit(reason: str) -> UnreadableError:
    return UnreadableError(f"the fitted head {reason}; fit it again", is_permanent=False)
