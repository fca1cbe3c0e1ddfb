"""Fits the head of rankings from pairs: the better item of a pair should have the higher score.

A score is a * similarity with the query + sum of c_k * ridge_k. The ridges regress on the differences between the
features of the better and the worse item of each pair. The target is 1, so they have no intercept. The factors a
and c are fitted by the logistic loss (Bradley-Terry) on scores of left out tasks: the logistic function of a
difference between two scores is the probability of that order.
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from lorabel.contracts import RankingTarget
from lorabel.families.encoders.heads.factors import fit_logistic, size_of
from lorabel.families.encoders.heads.fusion_choice import FOLDS, fold_of_each
from lorabel.families.encoders.heads.linear_head import Array, LinearHead
from lorabel.families.encoders.heads.ridge import Float64, Groups, Ridge

STRENGTHS = (0.1, 1.0, 10.0)
# What the factors are before anything is known, and how strongly they are held there.
SIMILARITY, RIDGE = (1.0, 1.0), (0.1, 5.0)
# Most pairs of a task, evenly chosen: a list of 50 items has 1225.
MOST_PAIRS = 50


@dataclass(frozen=True)
class RankedItems:
    """An annotated task.

    Args:
        features: (items, features).
        similarities: (items,): with the query; zeros without one.
        target: the annotated order.
        group: tasks with the same group are left out together.
    """

    features: Array
    similarities: Array
    target: RankingTarget
    group: Hashable


def fit_best_ranking(tasks_by_map: Mapping[str, Sequence[RankedItems]]) -> LinearHead | None:
    """Fit the head with the map that has the lowest cross-validated loss; the first of equal ones.

    Args:
        tasks_by_map: the same tasks with the features of each map.
    """
    feature_map = next(iter(tasks_by_map))
    if len(tasks_by_map) > 1:
        losses = {name: _cross_validated_loss(tasks) for name, tasks in tasks_by_map.items()}
        feature_map = min(losses, key=lambda name: losses[name])
    head = fit_ranking(tasks_by_map[feature_map])
    return None if head is None else replace(head, feature_map=feature_map)


def _cross_validated_loss(tasks: Sequence[RankedItems]) -> float:
    """The mean logistic loss of the tasks, each with a head that was fitted without its fold."""
    folds = fold_of_each([task.group for task in tasks])
    losses = []
    for fold in range(FOLDS):
        head = fit_ranking([task for task, number in zip(tasks, folds, strict=True) if number != fold])
        losses += [_loss(head, task) for task, number in zip(tasks, folds, strict=True) if number == fold]
    return float(np.mean(losses))


def _loss(head: LinearHead | None, task: RankedItems) -> float:
    scores = task.similarities if head is None else head.logits(task.features, task.similarities[:, None])[:, 0]
    pairs = np.array(task.target.pairs, int).reshape(-1, 2)
    return float(np.logaddexp(0, scores[pairs[:, 1]] - scores[pairs[:, 0]]).mean()) if len(pairs) else 0.0


def fit_ranking(tasks: Sequence[RankedItems]) -> LinearHead | None:
    """Fit the head; None if fewer than two groups order any items, or all these items have the same features."""
    pairs = [(task, better, worse) for task in tasks for better, worse in _chosen_pairs(task.target)]
    differences = np.array([task.features[better] - task.features[worse] for task, better, worse in pairs], float)
    if len({task.group for task, _, _ in pairs}) < 2 or not differences.any():
        return None
    similarities = np.array(
        [task.similarities[better] - task.similarities[worse] for task, better, worse in pairs]
    )
    scale = float(np.sqrt(np.mean((differences**2).sum(1))))
    groups = Groups.of([task.group for task, _, _ in pairs])
    # Each task counts as one, however many pairs it has.
    row_weights = np.array([1 / len(_chosen_pairs(task.target)) for task, _, _ in pairs])
    roots = np.sqrt(row_weights)[:, None]
    ridge = Ridge(roots * differences / scale)
    scores = [ridge.left_out(roots, strength, groups) / roots for strength in STRENGTHS]
    sizes = [size_of(score, row_weights) for score in scores]
    sources = np.stack([similarities, *(score[:, 0] / size for score, size in zip(scores, sizes, strict=True))], 1)
    factors = _fit(sources, row_weights)
    weights = sum(
        factor / size * ridge.weights(roots, strength)
        for factor, size, strength in zip(factors[1:], sizes, STRENGTHS, strict=True)
    )
    assert isinstance(weights, np.ndarray)
    return LinearHead(
        np.asarray(weights / scale, np.float32), np.zeros(1, np.float32), float(factors[0]), np.ones(1, np.bool_)
    )


def _chosen_pairs(target: RankingTarget) -> list[tuple[int, int]]:
    pairs = target.pairs
    step = max(1, -(-len(pairs) // MOST_PAIRS))
    return pairs[::step]


def _fit(sources: Float64, row_weights: Float64) -> Float64:
    """The factors of the sources, (pairs, sources), for pairs in which the first item is better."""
    prior, precision = np.array([SIMILARITY, *[RIDGE] * (sources.shape[1] - 1)]).T
    rows = len(sources)
    return fit_logistic(sources, np.zeros(rows), np.ones(rows), row_weights, prior, precision)
