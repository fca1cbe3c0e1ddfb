"""Chooses how several contents are fused, by cross-validated loss, and fits the head on the fused features."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from lorabel.families.encoders.heads.fusion import Fusion
from lorabel.families.encoders.heads.head_features import CONCAT, PRODUCTS, slot_rows, slots_of
from lorabel.families.encoders.heads.linear_head import MEAN, Array, LinearHead
from lorabel.families.encoders.heads.ridge import Float64

FOLDS = 5
# With fewer tasks the map is `mean`.
FEWEST_TASKS = 10
# More slots than these make so many features that only the mean, or no products, are tried.
MOST_SLOTS, MOST_SLOTS_WITH_PRODUCTS = 6, 3

Rows = NDArray[np.intp]


class HeadFit(Protocol):
    """Fits heads of one kind of question on some of its tasks, and computes their losses on others."""

    def fit(self, features: Array, rows: Rows) -> LinearHead | None:
        """Fit a head on the tasks with these indices; `features`: (rows, features), theirs alone."""

    def losses(self, head: LinearHead | None, features: Array, rows: Rows) -> Float64:
        """Return the loss of each of these tasks, (rows,)."""


@dataclass(frozen=True)
class TaskContents:
    """The contents of a task.

    Args:
        modalities: (contents,).
        features: (contents, dim).
        group: tasks with the same group are left out together.
    """

    modalities: tuple[str, ...]
    features: Array
    group: Hashable


def fit_fused(tasks: Sequence[TaskContents], head_fit: HeadFit) -> LinearHead | None:
    """Fit a head with the map that has the lowest cross-validated loss; the simplest of equal ones.

    Args:
        tasks: in an order that does not depend on when they were annotated.
    """
    slots = slots_of(task.modalities for task in tasks)
    maps = _maps(len(slots), len(tasks))
    means = [float(np.mean(_cross_validate(feature_map, slots, tasks, head_fit))) for feature_map in maps[1:]]
    if means:
        means.insert(0, float(np.mean(_cross_validate(maps[0], slots, tasks, head_fit))))
    feature_map = maps[int(np.argmin(means))] if means else maps[0]
    contents = _contents(feature_map, slots, tasks)
    fusion = Fusion.of(feature_map, slots, contents)
    head = head_fit.fit(fusion.mix(contents), np.arange(len(tasks)))
    return None if head is None else fusion.unmix(head)


def _maps(slot_count: int, task_count: int) -> tuple[str, ...]:
    """The maps that are tried, the simplest first."""
    if slot_count == 1 or slot_count > MOST_SLOTS or task_count < FEWEST_TASKS:
        return (MEAN,)
    return (MEAN, CONCAT) if slot_count > MOST_SLOTS_WITH_PRODUCTS else (MEAN, CONCAT, PRODUCTS)


def _cross_validate(
    feature_map: str, slots: tuple[str, ...], tasks: Sequence[TaskContents], head_fit: HeadFit
) -> Float64:
    """(tasks,): the loss of each task with a head that was fitted without its fold."""
    folds = fold_of_each([task.group for task in tasks])
    contents = _contents(feature_map, slots, tasks)
    losses = np.zeros(len(tasks))
    for fold in range(FOLDS):
        test, train = np.flatnonzero(folds == fold), np.flatnonzero(folds != fold)
        if len(test) and len(train):
            fusion = Fusion.of(feature_map, slots, contents[:, train])
            head = head_fit.fit(fusion.mix(contents[:, train]), train)
            losses[test] = head_fit.losses(head, fusion.mix(contents[:, test]), test)
    return losses


def fold_of_each(groups: Sequence[Hashable]) -> NDArray[np.intp]:
    """(tasks,): the fold of each task; groups go into the folds in turn."""
    numbers: dict[Hashable, int] = {}
    return np.array([numbers.setdefault(group, len(numbers)) % FOLDS for group in groups])


def _contents(feature_map: str, slots: tuple[str, ...], tasks: Sequence[TaskContents]) -> Float64:
    """(slots, tasks, dim), or (1, tasks, dim) for the mean; see `Fusion.of`."""
    if feature_map == MEAN:
        each = (task.features for task in tasks)
        means = [features.mean(0) if len(features) > 1 else features[0] for features in each]
        return np.stack(means).astype(np.float64)[None]
    rows = [np.stack(slot_rows(slots, task.modalities, task.features)) for task in tasks]
    return np.stack(rows, axis=1).astype(np.float64)
