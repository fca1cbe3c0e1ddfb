"""Fits the head of segments of series: for each window and each label whether it fits. NumPy and SciPy only.

The logit of a label is `features @ weights + bias`: the maximum a posteriori of a logistic regression on the
windows of all series, whose features are standardized.

Scores of segments are calibrated for each label on series that were left out (docs/decisions/0052).
"""

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from lorabel.evaluation.series_metrics import right_series_segments
from lorabel.families.encoders.heads.even_basis import EvenBasis
from lorabel.families.encoders.heads.linear_head import Array, LinearHead
from lorabel.families.encoders.heads.platt import FOLDS, MOST_TESTED, ScoredFinding, group_numbers, score_scales
from lorabel.families.encoders.heads.ridge import Float64
from lorabel.families.series.found_series import found_runs, marked_runs
from lorabel.families.series.windows import HOP, MOST_LEARNED
from lorabel.series_contracts import SeriesTarget

# Precisions of the prior, for features that have length 1 on average.
OF_WEIGHTS, OF_BIAS = 0.1, 0.01
# Most windows that a head is fitted on. Of more, every second, third, ... of each series is taken.
MOST_ROWS = 6000
# Mean of p (1 - p), by which the curvature of the loss is guessed: how fast the maximum is found, not where it is.
CURVATURE = 0.05
MOST_STEPS = 100
INSTANT, RANGE = "instant", "range"


@dataclass(frozen=True)
class AnnotatedSeries:
    """A series as a head learns from it.

    Args:
        features: (windows, dim).
        shares: (windows, labels) in [0, 1]: what is right about each window.
        group: two series of the same group are taken for one series.
    """

    features: Array
    shares: Array
    target: SeriesTarget
    group: Hashable


def fit_series(examples: Sequence[AnnotatedSeries]) -> LinearHead | None:
    """Fit the head; None if no series has a segment, or there are fewer than two series.

    Labels that no series has are not learned. A label marks instants if most of its segments are instants; the
    slots of the head say so.
    """
    step = -(-sum(len(example.features) for example in examples) // MOST_ROWS)
    truth = np.concatenate([example.shares[::step] for example in examples]).astype(np.float64)
    is_learned = np.any(truth, axis=0)
    groups = group_numbers(example.group for example in examples)
    if len(set(groups)) < 2 or not is_learned.any():
        return None
    features = np.concatenate([example.features[::step] for example in examples]).astype(np.float64)
    centre, deviation = features.mean(axis=0), features.std(axis=0)
    scale = np.where(deviation > 1e-6, deviation, 1.0) * np.sqrt(features.shape[1])
    inputs = np.column_stack([(features - centre) / scale, np.ones(len(features))])
    basis = EvenBasis.of(inputs, OF_WEIGHTS, OF_BIAS, CURVATURE)
    rows, row_groups = inputs @ basis.matrix, np.repeat(groups, [len(each.features[::step]) for each in examples])
    slots = tuple(_slot([example.target for example in examples], label) for label in range(len(is_learned)))
    fitted = _fit(rows, truth[:, is_learned], basis.precision)

    def head_of(found: Float64, is_known: NDArray[np.bool_]) -> LinearHead:
        weights, bias = np.zeros((len(centre), len(is_known))), np.zeros(len(is_known))
        of_known = (basis.matrix @ found)[:, is_known[is_learned]]
        weights[:, is_known], bias[is_known] = of_known[:-1] / scale[:, None], of_known[-1]
        bias[is_known] -= centre @ weights[:, is_known]
        return LinearHead(weights.astype(np.float32), bias.astype(np.float32), 0.0, is_known, slots=slots)

    def found_without(fold: int) -> Iterator[ScoredFinding]:
        is_kept = row_groups % FOLDS != fold
        found = _fit(rows[is_kept], truth[is_kept][:, is_learned], basis.precision, fitted)
        head = head_of(found, truth[is_kept].any(axis=0))
        for example, group in zip(examples, groups, strict=True):
            if group % FOLDS == fold and group < MOST_TESTED and len(example.features) < MOST_LEARNED:
                yield from _found(head, example)

    head = head_of(fitted, is_learned)
    return replace(head, score_scales=score_scales(groups, len(is_learned), found_without))


def _found(head: LinearHead, example: AnnotatedSeries) -> Iterator[ScoredFinding]:
    """What a head finds in a series of which all windows are known, of the labels that it has learned."""
    is_instant = [slot == INSTANT for slot in head.slots]
    logits = head.logits(example.features.astype(np.float32), np.zeros((1, len(head.bias)), np.float32))
    found = [run for run in found_runs(logits, is_instant) if head.is_learned[run.label]]
    marked = [run for run in marked_runs(example.shares, is_instant) if head.is_learned[run.label]]
    truth, guess = ([(run.start, run.end, run.label) for run in runs] for runs in (marked, found))
    # The step of the series, where a window is 1.
    for run, is_right in zip(found, right_series_segments(truth, guess, 1 / HOP), strict=True):
        yield ScoredFinding(run.probability, is_right, run.label)


def _fit(rows: Float64, truth: Float64, precision: Float64, start: Float64 | None = None) -> Float64:
    """Weights and bias, (dim + 1, labels), in the coordinates of an `EvenBasis`.

    Args:
        start: where the search begins; there is one maximum, wherever it begins.
    """
    precisions, labels = precision[:, None], truth.shape[1]

    def loss(parameters: Float64) -> tuple[float, Float64]:
        weights = parameters.reshape(-1, labels)
        logits = rows @ weights
        errors = 0.5 * (1 + np.tanh(0.5 * logits)) - truth
        cross_entropy = (np.logaddexp(0, logits) - truth * logits).sum()
        prior = 0.5 * (precisions * weights**2).sum()
        return float(cross_entropy + prior), (rows.T @ errors + precisions * weights).ravel()

    begin = np.zeros(rows.shape[1] * labels) if start is None else start.ravel()
    minimum = minimize(loss, begin, jac=True, method="L-BFGS-B", options={"maxiter": MOST_STEPS}).x
    return np.asarray(minimum.reshape(-1, labels))


def _slot(targets: Sequence[SeriesTarget], label: int) -> str:
    marked = [(start, end) for target in targets for start, end, index in target.segments if index == label]
    instants = sum(start == end for start, end in marked)
    return INSTANT if 2 * instants > len(marked) else RANGE
