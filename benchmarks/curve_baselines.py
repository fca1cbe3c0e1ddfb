"""What a project could do without this product: logistic regressions on the base model's frozen features.

Features have length 1 and a spread of about 0.04 in each direction, so scikit-learn's default strength suits them
only once they are scaled.
"""

import warnings
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import KFold, StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from benchmarks.curve_features import Part

FOLDS = 5
# The lower, the stronger the penalty, for centred features whose squared length is 1 on average.
STRENGTHS = tuple(10.0 ** (exponent / 2) for exponent in range(-2, 9))
LEAST_PROBABILITY = 1e-4

Array = NDArray[np.float64]


def scaled(learned: Part, unseen: Part) -> Array:
    """Each feature is centred and divided by its spread; C=1.

    Returns:
        (unseen, labels) probabilities.
    """
    if len(np.unique(learned.classes)) < 2:
        return _certain(learned, unseen)
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    model.fit(learned.features, learned.classes)
    return _of_all_labels(model.predict_proba(unseen.features), model.classes_, unseen)


def cross_validated(learned: Part, unseen: Part, strengths: Sequence[float] = STRENGTHS) -> Array:
    """Features are centred; five-fold cross-validation chooses the strength with the highest accuracy."""
    if len(np.unique(learned.classes)) < 2:
        return _certain(learned, unseen)
    centre = learned.features.mean(0)
    scale = np.sqrt(np.square(learned.features - centre).sum(1).mean())
    centred, unseen_centred = (
        Part((part.features - centre) / scale, part.zero_shot, part.classes) for part in (learned, unseen)
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        folds = _folds(centred)
        best = max(strengths, key=lambda strength: (*_score(centred, folds, strength), -strength))
        return _fit(centred, unseen_centred, best)


def _folds(part: Part) -> list[tuple[NDArray[np.intp], NDArray[np.intp]]]:
    """Rows to learn from, and rows to judge; stratified if a label has enough of them."""
    count = min(FOLDS, len(part.classes))
    kind = StratifiedKFold if np.bincount(part.classes).max() >= count else KFold
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return list(kind(count, shuffle=True, random_state=0).split(part.features, part.classes))


def _score(
    part: Part, folds: list[tuple[NDArray[np.intp], NDArray[np.intp]]], strength: float
) -> tuple[float, float]:
    """How many held-out rows are right, and the log-likelihood."""
    right, likelihood = 0.0, 0.0
    for learned, judged in folds:
        held_out = part[judged]
        probabilities = _fit(part[learned], held_out, strength)
        right += float((probabilities.argmax(1) == held_out.classes).sum())
        of_truth = probabilities[np.arange(len(judged)), held_out.classes]
        likelihood += float(np.log(np.maximum(of_truth, LEAST_PROBABILITY)).sum())
    return right, likelihood


def _fit(learned: Part, unseen: Part, strength: float) -> Array:
    if len(np.unique(learned.classes)) < 2:
        return _certain(learned, unseen)
    model = LogisticRegression(C=strength, max_iter=300, tol=1e-3).fit(learned.features, learned.classes)
    return _of_all_labels(model.predict_proba(unseen.features), model.classes_, unseen)


def _certain(learned: Part, unseen: Part) -> Array:
    """The only label so far."""
    return _of_all_labels(np.ones((len(unseen.classes), 1)), learned.classes[:1], unseen)


def _of_all_labels(probabilities: Array, classes: NDArray[np.intp], unseen: Part) -> Array:
    of_all = np.zeros((len(unseen.classes), unseen.zero_shot.shape[1]))
    of_all[:, classes] = probabilities
    return of_all
