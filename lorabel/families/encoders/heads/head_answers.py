"""Computes the answer to a question with a fitted head, from the features of its contents. NumPy only."""

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
    SpansInput,
)
from lorabel.errors import UnreadableError
from lorabel.families.encoders.heads.head_features import FEATURE_MAPS, PRODUCTS, feature_count, map_features
from lorabel.families.encoders.heads.item_features import item_features, query_similarities
from lorabel.families.encoders.heads.linear_head import MEAN, Array, LinearHead, probabilities
from lorabel.families.encoders.heads.rating_scale import to_number
from lorabel.families.relations.pair_features import feature_width, pair_features
from lorabel.families.relations.pairs import MOST_PAIRS, SILENT, found_relations, nearest_pairs
from lorabel.families.segments.spoken_segments import answered_segments
from lorabel.families.text_lines.learned_lines import LABELS
from lorabel.feature_contracts import in_any_precision
from lorabel.region_contracts import EachInput
from lorabel.relation_contracts import Relations, RelationsInput
from lorabel.space_contracts import BoxesInput, TextLinesInput
from lorabel.time_contracts import SegmentsInput


def check_head(head: LinearHead, question: Input, space: str, dim: int) -> None:
    """Check that a head can answer a question with features of this space.

    Args:
        dim: number of features of a content.

    Raises:
        UnreadableError: the head is for another kind of question, base model, or number of labels.
    """
    if head.kind not in ("", question.kind):
        raise _misfit(f"answers questions of kind {head.kind!r}, and this one is of kind {question.kind!r}")
    if head.space and in_any_precision(head.space) != in_any_precision(space):
        raise _misfit(f"was fitted on features of {head.space!r}, and these are of {space!r}")
    if head.feature_map not in FEATURE_MAPS:
        raise _misfit(f"has the unknown feature map {head.feature_map!r}")
    expected = _shape(head, question, dim)
    if head.weights.shape != expected:
        raise _misfit(f"has weights of shape {head.weights.shape}, and the question needs {expected}")


def _shape(head: LinearHead, question: Input, dim: int) -> tuple[int, int]:
    """The (features, outputs) that a head for a question has."""
    outputs = 1
    if isinstance(question, LabelsInput | BoxesInput):
        outputs = len(question.labels)
    if isinstance(question, SpansInput):
        outputs = 1 + 2 * len(question.labels)
    if isinstance(question, TextLinesInput):
        outputs = LABELS + len(question.labels)
    if isinstance(question, RelationsInput):
        return feature_width(question, dim), question.label_count
    if not isinstance(question, RankingInput):
        return feature_count(head.feature_map, head.slots, dim), outputs
    if head.feature_map != MEAN and not question.has_query:
        raise _misfit("needs a query, and the question has none")
    return dim * (2 if head.feature_map == PRODUCTS else 1), outputs


def answer_with_head(
    head: LinearHead, question: Input, contents: Array, logits: Array, temperature: float = 1.0
) -> Contract:
    """Compute the answer.

    Args:
        contents: (contents, dim) float32 of length 1.
        logits: (labels,) float32: the base model's logits; empty without labels. (contents * labels,) for a
            question about each content, or about segments, whose contents are the windows.
        temperature: see `probabilities`.
    """
    if isinstance(question, EachInput):
        rows = logits.reshape(len(contents), -1 if len(logits) else 0)
        pairs = zip(question.each, contents, rows, strict=True)
        return question.joined(
            [
                answer_with_head(head, item_question, content[None], row, temperature)
                for item_question, content, row in pairs
            ]
        )
    if isinstance(question, SegmentsInput):
        windows = logits.reshape(len(contents), -1)
        chances = probabilities(head, contents, windows, is_multiple=True)
        return answered_segments(question, chances, is_taught=True, scales=head.score_scales)
    if isinstance(question, RelationsInput):
        return related(head, question, contents)
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
    scores = probabilities(head, features, logits[None], question.parents, question.is_multiple, temperature)
    return LabelScores(probabilities=tuple(scores[0].tolist()))


def related(head: LinearHead | None, question: RelationsInput, rows: Array) -> Relations:
    """Return the relations that a head finds; none without a head.

    Args:
        rows: what `pair_features` takes.
    """
    pairs = nearest_pairs(question.regions, MOST_PAIRS)
    if head is None or not pairs:
        return Relations(relations=())
    features = pair_features(question, rows, pairs)
    silence = np.full((len(pairs), question.label_count), SILENT, np.float32)
    return found_relations(question, pairs, probabilities(head, features, silence, is_multiple=True))


def head_word_logits(head: LinearHead, features: Array, logits: Array) -> Array:
    """Compute the logits of the words of a text, relative to the logit of "in no span".

    Args:
        features: (words, dim).
        logits: (words, 2 * labels): without the head.

    Returns:
        (words, 2 * labels) float32.
    """
    zero_shot = np.concatenate([np.zeros((len(logits), 1), np.float32), logits], axis=1)
    fitted = head.logits(features, zero_shot)
    return fitted[:, 1:] - fitted[:, :1]


def _estimate(head: LinearHead, question: RatingInput, features: Array) -> Estimate:
    position = head.logits(features, np.zeros((1, 1), np.float32))
    return to_number(question, float(position[0, 0]), head.expected_error)


def _misfit(reason: str) -> UnreadableError:
    return UnreadableError(f"the fitted head {reason}; fit it again", is_permanent=False)
