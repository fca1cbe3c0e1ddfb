"""Fits the head of boxes: from a few annotated pictures, which places in other pictures show the same things.

A place is a patch of a picture, with the box that the model predicts there. The logit of a label at a place is

    zero_shot_weight * (logit of the label's text) + features @ weights + bias

The features are the class embedding of the place, so a label has a prototype: a vector that is large along what
its boxes have in common, and negative along what is elsewhere in the annotated pictures. It is the maximum a
posteriori of a logistic regression whose prior is the base model's own logit. NumPy and SciPy only.

The search goes in coordinates in which the loss is about as curved in all directions (`EvenBasis`), and in single
precision: a fifth of the time of a plain one, for the same weights.

Scores are calibrated for each label on pictures that were left out.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lorabel.families.encoders.heads.even_basis import EvenBasis
from lorabel.families.encoders.heads.linear_head import Array, LinearHead
from lorabel.families.encoders.heads.platt import platt
from lorabel.families.encoders.heads.ridge import Float64
from lorabel.space_contracts import MOST_PLACES, BoxTarget

# Most rows that a head learns from, in all pictures together. Each picture keeps FEWEST_OTHERS places where
# nothing is drawn, as long as these are no more than half of the rows.
MOST_ROWS = 4000
FEWEST_OTHERS = 8
# Precisions of the prior, for features whose rows have length 1 on average. The weight of the zero-shot logit is
# near 1 before anything is known, and everything else near 0.
OF_WEIGHTS, OF_BIAS, OF_ZERO_SHOT = 0.1, 0.1, 1.0
# That of the weights in videos. A thing looks more alike in two frames than two things of a label do in two
# pictures, so features count for more. With OF_WEIGHTS one drawn box leaves other things above the threshold.
OF_WEIGHTS_IN_FRAMES = 0.03
# Scores are calibrated where there are as many pictures as folds.
FOLDS = 3
MOST_STEPS = 200
# Mean of p (1 - p), by which the curvature of the loss is guessed: how fast the maximum is found, not where it is.
CURVATURE = 0.03


@dataclass(frozen=True)
class AnnotatedPlaces:
    """Places in an annotated picture: first those of its boxes, then some where no box is.

    Args:
        features: (places, dim).
        zero_shot: (places, labels): logits of the label texts.
        target: the boxes; the first MOST_PLACES have a place each.
    """

    features: Array
    zero_shot: Array
    target: BoxTarget

    @property
    def first_other(self) -> int:
        """The first place where no box is."""
        return min(len(self.target.boxes), MOST_PLACES)

    def is_known(self) -> NDArray[np.bool_]:
        """(places, labels): whether the annotators have said if a label is there.."""
        is_known = np.ones(self.zero_shot.shape, bool)
        is_known[self.first_other :, list(self.target.incomplete)] = False
        return is_known

    def truth(self) -> Float64:
        """(places, labels): 1 for the labels of a place. A box may have several."""
        truth = np.zeros(self.zero_shot.shape)
        labels_of: dict[object, set[int]] = {}
        for corners, label in self.target.boxes:
            labels_of.setdefault(corners, set()).add(label)
        for row, (corners, _) in enumerate(self.target.boxes[:MOST_PLACES]):
            truth[row, list(labels_of[corners])] = 1
        return truth


@dataclass(frozen=True)
class _Rows:
    """The places of several pictures.

    Args:
        features: (rows, dim + 1): the features, and 1 for the bias, in the coordinates of a `EvenBasis`.
        zero_shot: (rows, labels).
        truth: (rows, labels).
        is_known: (rows, labels): where the truth is known.
        pictures: (rows,): index of the picture.
    """

    features: Array
    zero_shot: Array
    truth: Array
    is_known: NDArray[np.bool_]
    pictures: NDArray[np.intp]

    def __getitem__(self, chosen: NDArray[np.bool_]) -> "_Rows":
        return _Rows(
            self.features[chosen],
            self.zero_shot[chosen],
            self.truth[chosen],
            self.is_known[chosen],
            self.pictures[chosen],
        )


@dataclass(frozen=True)
class _Fit:
    """Weights (dim + 1, labels) in the coordinates of a `EvenBasis`, and the zero-shot weight of each label."""

    weights: Array
    zero_shot_weight: Array

    def logits(self, rows: _Rows) -> Array:
        """(rows, labels)."""
        logits: Array = self.zero_shot_weight * rows.zero_shot + rows.features @ self.weights
        return logits


def fit_boxes(pictures: Sequence[AnnotatedPlaces], of_weights: float = OF_WEIGHTS) -> LinearHead | None:
    """Fit the head; None if no picture has a box.

    Labels that no picture has are not learned: they keep their zero-shot probability.

    Args:
        of_weights: precision of the prior of the weights.
    """
    chosen = _chosen(pictures)
    truth = np.concatenate([picture.truth()[rows] for picture, rows in chosen])
    is_learned: NDArray[np.bool_] = np.any(truth, axis=0)
    if not is_learned.any():
        return None
    features = np.concatenate([picture.features[rows] for picture, rows in chosen]).astype(np.float64)
    scale = float(np.linalg.norm(features, axis=1).mean()) or 1.0
    inputs = np.column_stack([features / scale, np.ones(len(features))])
    basis = EvenBasis.of(inputs, of_weights, OF_BIAS, CURVATURE)
    precision = basis.precision.astype(np.float32)
    rows = _Rows(
        (inputs @ basis.matrix).astype(np.float32),
        np.concatenate([picture.zero_shot[rows] for picture, rows in chosen])[:, is_learned].astype(np.float32),
        truth[:, is_learned].astype(np.float32),
        np.concatenate([picture.is_known()[rows] for picture, rows in chosen])[:, is_learned],
        np.repeat(np.arange(len(chosen)), [len(rows) for _, rows in chosen]),
    )
    fit = _fit(rows, precision)
    factor, shift = _calibration(rows, fit, precision)
    labels = len(is_learned)
    weights, bias = np.zeros((features.shape[1], labels), np.float32), np.zeros(labels, np.float32)
    zero_shot_weight = np.ones(labels, np.float32)
    weights_and_bias: Float64 = factor * (basis.matrix @ fit.weights)
    weights[:, is_learned] = weights_and_bias[:-1] / scale
    bias[is_learned] = weights_and_bias[-1] + shift
    zero_shot_weight[is_learned] = factor * fit.zero_shot_weight
    return LinearHead(weights, bias, zero_shot_weight, is_learned)


def _chosen(pictures: Sequence[AnnotatedPlaces]) -> list[tuple[AnnotatedPlaces, list[int]]]:
    """The rows of each picture that are learned from: its boxes, and the first of its other places."""
    boxes = _chosen_boxes(pictures, max(MOST_ROWS // 2, MOST_ROWS - FEWEST_OTHERS * len(pictures)))
    others = max(1, (MOST_ROWS - sum(map(len, boxes))) // max(1, len(pictures)))
    chosen: list[tuple[AnnotatedPlaces, list[int]]] = []
    for picture, rows in zip(pictures, boxes, strict=True):
        last = min(len(picture.features), picture.first_other + others)
        chosen.append((picture, [*rows, *range(picture.first_other, last)]))
    return chosen


def _chosen_boxes(pictures: Sequence[AnnotatedPlaces], most: int) -> list[list[int]]:
    """For each picture the rows of boxes that are learned from: of labels in turn, from pictures in turn."""
    of_label: dict[int, list[tuple[int, int, int]]] = {}
    for number, picture in enumerate(pictures):
        counts: Counter[int] = Counter()
        for row, (_, label) in enumerate(picture.target.boxes[:MOST_PLACES]):
            of_label.setdefault(label, []).append((counts[label], number, row))
            counts[label] += 1
    turns = [
        (turn, label, number, row)
        for label, places in of_label.items()
        for turn, (_, number, row) in enumerate(sorted(places))
    ]
    chosen: list[list[int]] = [[] for _ in pictures]
    for _, _, number, row in sorted(turns)[:most]:
        chosen[number].append(row)
    return [sorted(rows) for rows in chosen]


def _fit(rows: _Rows, precision: Array, start: _Fit | None = None) -> _Fit:
    """The maximum a posteriori, for all labels at once, which do not depend on each other.

    There is one maximum, wherever the search begins.

    Args:
        precision: of the prior, see `EvenBasis`.
        start: where the search begins; None: at the mode of the prior.
    """
    from scipy.optimize import minimize

    dim, labels = rows.features.shape[1], rows.truth.shape[1]
    # The last coordinate of a label is how far its zero-shot weight is from 1, in units of a like curvature.
    unit = (OF_ZERO_SHOT + CURVATURE * (rows.zero_shot**2).sum(0)) ** -0.5
    inputs = rows.zero_shot * unit
    precisions = np.vstack([np.tile(precision[:, None], labels), OF_ZERO_SHOT * unit**2])
    known = None if rows.is_known.all() else rows.is_known.astype(np.float32)

    def loss_and_gradient(flat: Float64) -> tuple[float, Float64]:
        values = flat.reshape(dim + 1, labels).astype(np.float32)
        logits = rows.features @ values[:dim] + values[dim] * inputs + rows.zero_shot
        small = np.exp(-np.abs(logits))
        losses = np.maximum(logits, 0) + np.log1p(small) - rows.truth * logits
        errors = np.where(logits >= 0, 1, small) / (1 + small) - rows.truth
        if known is not None:
            losses, errors = losses * known, errors * known
        pull = precisions * values
        loss = losses.sum(dtype=np.float64) + 0.5 * (pull * values).sum(dtype=np.float64)
        gradient = np.vstack([rows.features.T @ errors, (errors * inputs).sum(0)]) + pull
        return float(loss), gradient.astype(np.float64).ravel()

    begin: Float64 = np.zeros((dim + 1, labels))
    if start is not None:
        begin = np.vstack([start.weights, (start.zero_shot_weight - 1) / unit]).astype(np.float64)
    options = {"maxiter": MOST_STEPS, "gtol": 1e-3}
    minimum = minimize(loss_and_gradient, begin.ravel(), jac=True, method="L-BFGS-B", options=options)
    values = minimum.x.reshape(dim + 1, labels).astype(np.float32)
    return _Fit(values[:dim], 1 + unit * values[dim])


def _calibration(rows: _Rows, fit: _Fit, precision: Array) -> tuple[Float64, Float64]:
    """(labels,) each: the factor and the shift of the logits that pictures which were left out ask for.

    Args:
        fit: of all rows, from which the search for those of the folds begins.
        precision: of the prior, see `EvenBasis`.
    """
    labels = rows.truth.shape[1]
    factor, shift = np.ones(labels), np.zeros(labels)
    folds = rows.pictures % FOLDS
    if len(set(folds)) < FOLDS:
        return factor, shift
    logits = np.empty_like(rows.truth)
    is_known = np.empty(rows.truth.shape, bool)
    for fold in range(FOLDS):
        is_tested = folds == fold
        learned = rows[~is_tested]
        logits[is_tested] = _fit(learned, precision, fit).logits(rows[is_tested])
        is_known[is_tested] = learned.truth.any(axis=0) & rows.is_known[is_tested]
    for label in range(labels):
        judged = is_known[:, label]
        if rows.truth[judged, label].any():
            factor[label], shift[label] = platt(logits[judged, label], rows.truth[judged, label])
    return factor, shift
