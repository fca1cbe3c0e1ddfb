"""Fits the head of segments: for each window of a recording and each label whether it fits. NumPy and SciPy only.

The logit of a label is `zero_shot_weight * zero_shot + features @ weights + bias`. It is the mean of two logistic
regressions on the windows of all recordings, each at its maximum a posteriori. The prior of one is the base
model's own logit, that of the other nothing: what the label texts say wrongly is hard to unlearn for the first,
and the second knows too little after few annotations. docs/decisions/0040 has figures.

Scores of segments are calibrated for each label on recordings that were left out (docs/decisions/0052).
"""

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from lorabel.evaluation.segment_metrics import right_segments
from lorabel.families.encoders.heads.even_basis import EvenBasis
from lorabel.families.encoders.heads.linear_head import Array, LinearHead, probabilities
from lorabel.families.encoders.heads.platt import FOLDS, MOST_TESTED, ScoredFinding, group_numbers, score_scales
from lorabel.families.encoders.heads.ridge import Float64
from lorabel.families.segments.found_segments import found_segments
from lorabel.time_contracts import TimedLabel

# Precisions of the prior, for features that are centred and have length 1 on average. The weight of the zero-shot
# logit is near 1 before anything is known, and everything else near 0.
OF_WEIGHTS, OF_BIAS, OF_ZERO_SHOT = 0.03, 0.01, 1.0
# Most windows that a head is fitted on. Of more, every second, third, ... of each recording is taken: neighbours
# are much alike.
MOST_ROWS = 4000
# The same where scores are calibrated, so that a fit takes no more than twice as long.
MOST_FOLD_ROWS = 1000
# Mean of p (1 - p), by which the curvature of the loss is guessed: how fast the maximum is found, not where it is.
CURVATURE = 0.05
MOST_STEPS = 100


@dataclass(frozen=True)
class AnnotatedRecording:
    """A sound or a video as a head learns from it.

    Args:
        features: (windows, dim).
        zero_shot: (windows, labels): the base model's logits.
        truth: (windows, labels), see `window_truth`.
        group: two recordings of the same group are taken for one.
        segments: what is marked.
        step_s: seconds from window to window.
    """

    features: Array
    zero_shot: Array
    truth: Array
    group: Hashable
    segments: tuple[TimedLabel, ...] = ()
    step_s: float = 1.0

    @property
    def marked(self) -> list[TimedLabel]:
        """What is marked in the part that was read."""
        end_s = len(self.features) * self.step_s
        return [(start, min(end, end_s), label) for start, end, label in self.segments if start < end_s]


@dataclass(frozen=True)
class _Rows:
    """Windows in the coordinates of an `EvenBasis`.

    Args:
        features: (rows, dim + 1).
        zero_shot: (rows, labels).
        truth: (rows, labels).
        groups: (rows,): number of the group of recordings.
    """

    features: Float64
    zero_shot: Float64
    truth: Float64
    groups: NDArray[np.intp]

    def __getitem__(self, chosen: NDArray[np.intp]) -> "_Rows":
        return _Rows(self.features[chosen], self.zero_shot[chosen], self.truth[chosen], self.groups[chosen])


@dataclass(frozen=True)
class _Fit:
    """The mean of both regressions, and what the search for others may begin with.

    Args:
        weights: (dim + 1, labels), in the coordinates of an `EvenBasis`.
        zero_shot_weight: (labels,).
        found: what was found with and without the label texts.
    """

    weights: Float64
    zero_shot_weight: Float64
    found: tuple[Float64, Float64]


@dataclass(frozen=True)
class _Space:
    """In which the features of windows are learned from: centred, of length 1 on average.

    Args:
        is_learned: (labels,): which labels a fit is about.
    """

    centre: Float64
    scale: float
    basis: EvenBasis
    is_learned: NDArray[np.bool_]

    def head(self, fit: _Fit, is_known: NDArray[np.bool_]) -> LinearHead:
        """The head of a fit; other labels keep their zero-shot probability.

        Args:
            is_known: which of the learned labels the fit has learned.
        """
        labels = np.flatnonzero(self.is_learned)[is_known]
        fitted = (self.basis.matrix @ fit.weights)[:, is_known]
        weights, bias = fitted[:-1] / self.scale, fitted[-1]
        count = len(self.is_learned)
        all_weights, all_bias = np.zeros((len(weights), count), np.float32), np.zeros(count, np.float32)
        factors, is_learned = np.ones(count, np.float32), np.zeros(count, np.bool_)
        all_weights[:, labels], all_bias[labels] = weights, bias - self.centre @ weights
        factors[labels], is_learned[labels] = fit.zero_shot_weight[is_known], True
        return LinearHead(all_weights, all_bias, factors, is_learned)


def fit_segments(recordings: Sequence[AnnotatedRecording]) -> LinearHead | None:
    """Fit the head; None if no recording has a segment, or there are fewer than two.

    Labels that no recording has are not learned: they keep their zero-shot probability.
    """
    step = -(-sum(len(recording.features) for recording in recordings) // MOST_ROWS)
    truth = np.concatenate([recording.truth[::step] for recording in recordings])
    is_learned: NDArray[np.bool_] = np.any(truth, axis=0)
    groups = group_numbers(recording.group for recording in recordings)
    if len(set(groups)) < 2 or not is_learned.any():
        return None
    features = np.concatenate([recording.features[::step] for recording in recordings]).astype(np.float64)
    zero_shot = np.concatenate([recording.zero_shot[::step] for recording in recordings])
    centre = features.mean(0)
    scale = float(np.linalg.norm(features - centre, axis=1).mean()) or 1.0
    inputs = np.column_stack([(features - centre) / scale, np.ones(len(features))])
    space = _Space(centre, scale, EvenBasis.of(inputs, OF_WEIGHTS, OF_BIAS, CURVATURE), is_learned)
    rows = _Rows(
        inputs @ space.basis.matrix,
        zero_shot[:, is_learned].astype(np.float64),
        truth[:, is_learned].astype(np.float64),
        np.repeat(groups, [len(recording.features[::step]) for recording in recordings]),
    )
    fit = _fit(rows, space.basis.precision)

    def found_without(fold: int) -> Iterator[ScoredFinding]:
        learned = rows[np.flatnonzero(rows.groups % FOLDS != fold)]
        learned = learned[np.arange(0, len(learned.groups), -(-len(learned.groups) // MOST_FOLD_ROWS))]
        is_known: NDArray[np.bool_] = np.any(learned.truth, axis=0)
        head = space.head(_fit(learned, space.basis.precision, fit), is_known)
        for recording, group in zip(recordings, groups, strict=True):
            if group % FOLDS == fold and group < MOST_TESTED:
                yield from _found(head, recording)

    scales = score_scales(groups, len(is_learned), found_without)
    return replace(space.head(fit, np.ones(is_learned.sum(), np.bool_)), score_scales=scales)


def _found(head: LinearHead, recording: AnnotatedRecording) -> Iterator[ScoredFinding]:
    """What a head finds in a recording, of the labels that it has learned."""
    chances = probabilities(head, recording.features, recording.zero_shot, is_multiple=True)
    found = [each for each in found_segments(chances, recording.step_s).segments if head.is_learned[each.label]]
    is_right = right_segments(recording.marked, [(each.start_s, each.end_s, each.label) for each in found])
    for segment, is_right_segment in zip(found, is_right, strict=True):
        yield ScoredFinding(segment.probability, is_right_segment, segment.label)


def _fit(rows: _Rows, precision: Float64, start: _Fit | None = None) -> _Fit:
    """The mean of the maxima with and without the label texts.

    Args:
        start: where the searches begin; None: at the mode of the prior. There is one maximum, wherever they begin.
    """
    dim, labels = rows.features.shape[1], rows.truth.shape[1]
    silent = replace(rows, zero_shot=np.zeros_like(rows.zero_shot))
    origin = np.concatenate([np.zeros(dim * labels), np.ones(labels)])
    starts = (origin, origin) if start is None else start.found
    minimum = _maximum(rows, precision, starts[0]), _maximum(silent, precision, starts[1])
    weights, without_texts = (each[:-labels].reshape(dim, labels) for each in minimum)
    return _Fit((weights + without_texts) / 2, minimum[0][-labels:] / 2, minimum)


def _maximum(rows: _Rows, precision: Float64, start: Float64) -> Float64:
    """Weights and bias, (dim + 1, labels), and the weight of the zero-shot logit of each label, all in one row."""
    dim, labels = rows.features.shape[1], rows.truth.shape[1]
    precisions = precision[:, None]

    def loss(parameters: Float64) -> tuple[float, Float64]:
        weights, zero_shot_weight = parameters[:-labels].reshape(dim, labels), parameters[-labels:]
        logits = zero_shot_weight * rows.zero_shot + rows.features @ weights
        errors, moved = 0.5 * (1 + np.tanh(0.5 * logits)) - rows.truth, zero_shot_weight - 1
        cross_entropy = (np.logaddexp(0, logits) - rows.truth * logits).sum()
        prior = (precisions * weights**2).sum() + OF_ZERO_SHOT * (moved**2).sum()
        of_weights = rows.features.T @ errors + precisions * weights
        of_zero_shot = (errors * rows.zero_shot).sum(0) + OF_ZERO_SHOT * moved
        return float(cross_entropy + 0.5 * prior), np.concatenate([of_weights.ravel(), of_zero_shot])

    options = {"maxiter": MOST_STEPS}
    return np.asarray(minimize(loss, start, jac=True, method="L-BFGS-B", options=options).x)
