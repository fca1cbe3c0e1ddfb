"""Fits the head of spans: for each word, whether it is in no span, or begins or goes on a span of a label.

The targets are the columns of `word_targets`. Ridges on the states of the words are weighed against the adapter's
own logits, on scores of left out texts: words of one text never judge what was learned from its other words.
"""

from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import NDArray

from lorabel.families.encoders.heads.factors import fit_softmax, size_of
from lorabel.families.encoders.heads.linear_head import Array, LinearHead
from lorabel.families.encoders.heads.ridge import Float64, Groups, Ridge, Scaling, with_intercept

STRENGTHS = (0.1, 1.0, 10.0)
# What the factors are before anything is known, and how strongly they are held there.
ZERO_SHOT, RIDGE, RATE = (1.0, 1.0), (0.1, 5.0), (0.0, 4.0)
# The logit of a label that no text has, so that it stays silent.
SILENT = -20.0
# Most words on which the factors are fitted, from whole texts.
MOST_JUDGED = 5000


def fit_spans(features: Array, zero_shot: Array, targets: Array, texts: Sequence[Hashable]) -> LinearHead | None:
    """Fit the head; None if no text has a span, or there are fewer than two texts.

    Args:
        features: (words, dim), of all texts.
        zero_shot: (words, 1 + 2 * labels): the logits of the adapter, 0 for "in no span".
        targets: (words, 1 + 2 * labels), see `word_targets`.
        texts: (words,): the text of each word; texts that are left out together have the same name.
    """
    columns = np.flatnonzero(targets.sum(0) > 0)
    if len(columns) < 2 or len(set(texts)) < 2:
        return None
    truth, logits = targets[:, columns].astype(np.float64), zero_shot[:, columns].astype(np.float64)
    row_weights = _row_weights(truth[:, 0] if columns[0] == 0 else np.zeros(len(truth)))
    roots = np.sqrt(row_weights)[:, None]
    scaling = Scaling.of(features.astype(np.float64))
    ridge = Ridge(roots * with_intercept(scaling.apply(features.astype(np.float64))))
    wanted = roots * (truth - 1 / len(columns))
    groups = Groups.of(texts)
    scores = [ridge.left_out(wanted, strength, groups) / roots for strength in STRENGTHS]
    sizes = [size_of(score - score.mean(1, keepdims=True)) for score in scores]
    rates = np.log(truth.mean(0))
    sources = [logits, *(score / size for score, size in zip(scores, sizes, strict=True)), 0 * logits + rates]
    prior, precision = np.array([ZERO_SHOT, *[RIDGE] * len(STRENGTHS), RATE]).T
    judged = slice(MOST_JUDGED)
    factors = fit_softmax(np.stack(sources)[:, judged], truth[judged], prior, precision)
    weights = sum(
        factor / size * ridge.weights(wanted, strength)
        for factor, size, strength in zip(factors[1:-1], sizes, STRENGTHS, strict=True)
    )
    assert isinstance(weights, np.ndarray)
    fitted, bias = scaling.undo(weights[:-1], weights[-1] + factors[-1] * rates)
    return _head(fitted, bias, float(factors[0]), columns, targets.shape[1])


def _row_weights(outside: Float64) -> Float64:
    """(words,): words in spans count more, by the square root of how much rarer they are; see `span_losses`."""
    inside = 1 - outside
    return 1 + inside * max(0.0, float(np.sqrt(outside.sum() / max(inside.sum(), 1.0))) - 1)


def _head(
    weights: Float64, bias: Float64, zero_shot_weight: float, columns: NDArray[np.intp], outputs: int
) -> LinearHead:
    """Put the learned columns between those of labels that no text has."""
    all_weights, all_bias = np.zeros((len(weights), outputs), np.float32), np.full(outputs, SILENT, np.float32)
    factors, is_learned = np.zeros(outputs, np.float32), np.zeros(outputs, np.bool_)
    all_weights[:, columns], all_bias[columns] = weights, bias
    factors[columns], is_learned[columns] = zero_shot_weight, True
    return LinearHead(all_weights, all_bias, factors, is_learned)
