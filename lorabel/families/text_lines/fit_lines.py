"""Fits the head of lines of text from annotated pictures: which label a line has, and the project's words.

The lines that the base model reads are the examples. A line that no annotator has drawn is one that people leave
out; a line that lies in a larger annotated one, or where nobody knows what people have drawn, says nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lorabel.evaluation.box_matching import match_boxes
from lorabel.families.encoders.heads.fit_spans import SILENT, fit_spans
from lorabel.families.encoders.heads.linear_head import Array, LinearHead
from lorabel.families.text_lines.features import FEATURE_COUNT, line_features
from lorabel.families.text_lines.learned_lines import LABELS, LEFT_OUT, NO_LABEL
from lorabel.families.text_lines.lexicon import Reading, learn_lexicon
from lorabel.space_contracts import TextLine, TextLinesTarget

# An annotated box may be much tighter than the one that was read: this is still the same line.
LEAST_IOU = 0.3
# Most lines that a head learns from, from whole pictures. Their features take 2.4 kB each.
MOST_LINES = 10_000


@dataclass(frozen=True)
class AnnotatedPicture:
    """The lines of a picture as the base model reads them, and as they should be."""

    lines: tuple[TextLine, ...]
    target: TextLinesTarget


def fit_lines(pictures: Sequence[AnnotatedPicture], labels: int) -> LinearHead | None:
    """Fit the head; None if no annotated line was read.

    Args:
        labels: number of labels.
    """
    features: list[Array] = []
    columns: list[int] = []
    owners: list[int] = []
    readings: list[Reading] = []
    has_match = False
    for index, picture in enumerate(pictures):
        if len(columns) + len(picture.lines) > MOST_LINES:
            break
        pairs = dict(_pairs(picture))
        rows = line_features(picture.lines)
        for number, line in enumerate(picture.lines):
            if number in pairs:
                _, text, label = picture.target.lines[pairs[number]]
                column = NO_LABEL if label is None else LABELS + label
                has_match = True
                if text:
                    readings.append(Reading(index, line.text, line.probability, text))
            elif picture.target.has_in_line(line.corners) or picture.target.has_in_unknown(line.corners):
                continue
            else:
                column = LEFT_OUT
            features.append(rows[number])
            columns.append(column)
            owners.append(index)
    if not has_match:
        return None
    head = _fit_columns(np.array(features), columns, owners, LABELS + labels)
    return LinearHead(
        head.weights, head.bias, head.zero_shot_weight, head.is_learned, lexicon=learn_lexicon(readings)
    )


def _fit_columns(features: Array, columns: Sequence[int], owners: Sequence[int], outputs: int) -> LinearHead:
    targets = np.zeros((len(columns), outputs), np.float32)
    targets[np.arange(len(columns)), columns] = 1.0
    # With a single picture its lines judge each other.
    groups = list(owners) if len(set(owners)) > 1 else list(range(len(owners)))
    head = fit_spans(features, np.zeros_like(targets), targets, groups)
    return _constant(columns[0], outputs) if head is None else head


def _constant(column: int, outputs: int) -> LinearHead:
    """The head of lines that all have the same label, or none."""
    bias, is_learned = np.full(outputs, SILENT, np.float32), np.zeros(outputs, np.bool_)
    bias[column], is_learned[column] = 0.0, True
    return LinearHead(np.zeros((FEATURE_COUNT, outputs), np.float32), bias, 0.0, is_learned)


def _pairs(picture: AnnotatedPicture) -> list[tuple[int, int]]:
    read = [line.corners for line in picture.lines]
    return match_boxes(read, [corners for corners, _, _ in picture.target.lines], LEAST_IOU)
