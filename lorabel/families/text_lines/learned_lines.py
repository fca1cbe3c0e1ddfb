"""Applies a fitted head to the lines of a picture: corrects readings, labels lines, leaves some out."""

from collections.abc import Sequence

import numpy as np

from lorabel.families.encoders.heads.linear_head import Array, LinearHead
from lorabel.families.text_lines.features import line_features
from lorabel.space_contracts import TextLine

# Columns of a head's answer: the annotators leave the line out, or it has no label; then one for each label.
LEFT_OUT, NO_LABEL, LABELS = 0, 1, 2


def learned_lines(head: LinearHead, lines: Sequence[TextLine]) -> tuple[TextLine, ...]:
    """Return the lines as the annotators of the project would have them, in the same order.

    Args:
        lines: all lines of a picture, as the base model reads them.
    """
    shares = _shares(head, lines)
    is_kept = shares.argmax(1) != LEFT_OUT
    return tuple(
        _learned(head, line, share) for line, share, kept in zip(lines, shares, is_kept, strict=True) if kept
    )


def _learned(head: LinearHead, line: TextLine, share: Array) -> TextLine:
    text = line.text if head.lexicon is None else head.lexicon.corrected(line.text, line.probability)
    probabilities = share[NO_LABEL:] / share[NO_LABEL:].sum()
    known = tuple(probabilities.astype(float).tolist()) if len(head.bias) > LABELS else ()
    return line.model_copy(update={"text": text, "label_probabilities": known})


def _shares(head: LinearHead, lines: Sequence[TextLine]) -> Array:
    """(lines, columns): the probability of each column."""
    features = line_features(lines)
    logits = head.logits(features, np.zeros((len(lines), len(head.bias)), np.float32))
    exponentials = np.exp(logits - logits.max(1, keepdims=True))
    return np.asarray(exponentials / exponentials.sum(1, keepdims=True), np.float32)
