"""Fits the head of relations: for each pair of regions and each label whether it fits. NumPy and SciPy only.

The logit of a label is `features @ weights + bias`, with the features of `pair_features`. It is the maximum a
posteriori of a logistic regression on the pairs of all tasks, in whose prior every weight is near 0.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize

from lorabel.families.encoders.heads.even_basis import EvenBasis
from lorabel.families.encoders.heads.linear_head import Array, LinearHead
from lorabel.families.encoders.heads.ridge import Float64
from lorabel.families.relations.pair_features import pair_features
from lorabel.families.relations.pairs import SILENT, nearest_pairs
from lorabel.relation_contracts import RelationsInput, RelationTarget

# Precisions of the prior.
OF_WEIGHTS, OF_BIAS = 0.1, 0.01
# Most pairs that a head is fitted on, beside those with a relation, and least of each task.
MOST_ROWS, LEAST_OF_TASK = 4000, 10
# Mean of p (1 - p), by which the curvature of the loss is guessed: how fast the maximum is found, not where it is.
CURVATURE = 0.05
MOST_STEPS = 100


@dataclass(frozen=True)
class RelatedTask:
    """A task as a head learns from it.

    Args:
        rows: what `pair_features` takes.
        group: two tasks of the same group are taken for one task.
    """

    question: RelationsInput
    rows: Array
    target: RelationTarget
    group: Hashable


def fit_relations(tasks: Sequence[RelatedTask]) -> LinearHead | None:
    """Fit the head; None if fewer than two tasks have a relation.

    Pairs of which nothing is known are left out. Labels that no task has are never found.
    """
    if len({task.group for task in tasks if task.target.links}) < 2:
        return None
    most = max(LEAST_OF_TASK, MOST_ROWS // len(tasks))
    parts = [_rows_of(task, most) for task in tasks]
    features, truth = (np.concatenate(part).astype(np.float64) for part in zip(*parts, strict=True))
    is_learned = truth.any(0)
    centre = features.mean(0)
    inputs = np.column_stack([features - centre, np.ones(len(features))])
    weights = _fit(inputs, truth[:, is_learned])
    all_weights = np.zeros((features.shape[1], truth.shape[1]), np.float32)
    all_bias = np.full(truth.shape[1], SILENT, np.float32)
    all_weights[:, is_learned] = weights[:-1]
    all_bias[is_learned] = weights[-1] - centre @ weights[:-1]
    return LinearHead(all_weights, all_bias, 0.0, is_learned)


def _rows_of(task: RelatedTask, most: int) -> tuple[Array, Array]:
    """Features and truth, (pairs, labels), of the pairs with a relation, and of the nearest others."""
    linked = {(first, second) for first, second, _ in task.target.links}
    pairs = sorted({*nearest_pairs(task.target.regions, most), *linked} - {*task.target.unknown})
    truth = np.zeros((len(pairs), task.question.label_count), np.float32)
    rows = {pair: row for row, pair in enumerate(pairs)}
    for first, second, label in task.target.links:
        truth[rows[first, second], label] = 1
    question = task.question.model_copy(update={"regions": task.target.regions})
    return pair_features(question, task.rows, pairs), truth


def _fit(features: Float64, truth: Float64) -> Float64:
    """Weights and bias, (dim + 1, labels)."""
    basis = EvenBasis.of(features, OF_WEIGHTS, OF_BIAS, CURVATURE)
    rows, precision = features @ basis.matrix, basis.precision[:, None]
    shape = (features.shape[1], truth.shape[1])

    def loss(parameters: Float64) -> tuple[float, Float64]:
        weights = parameters.reshape(shape)
        logits = rows @ weights
        errors = 0.5 * (1 + np.tanh(0.5 * logits)) - truth
        cross_entropy = (np.logaddexp(0, logits) - truth * logits).sum()
        prior = 0.5 * (precision * weights**2).sum()
        return float(cross_entropy + prior), (rows.T @ errors + precision * weights).ravel()

    minimum = minimize(
        loss, np.zeros(shape).ravel(), jac=True, method="L-BFGS-B", options={"maxiter": MOST_STEPS}
    ).x
    weights: Float64 = basis.matrix @ minimum.reshape(shape)
    return weights
