"""The folds of cross-validation for examples of one control tag: balanced by class, and what is alike together.

Near duplicates in different folds would let a procedure that learns by heart look better than it is. Where there
are few others, as with sentences of some templates, each fold tests a part of every class that is unlike what is
learned of the class.
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Hashable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import AgglomerativeClustering

FOLDS = 3
# Two examples are near duplicates if their squared distance is below this share of the mean squared distance.
NEAR = 0.05
# No group may have more than this share of the examples, or more of a class than a fold tests: little of the class
# would be left to learn from. The limit of the distance is halved until none has.
LARGEST_GROUP = 1 / 6
MOST_HALVINGS = 10


class Fold(NamedTuple):
    """Indices of examples: those to learn from, and those to test."""

    train: list[int]
    tested: list[int]


def make_folds(groups: Sequence[int], classes: Sequence[Hashable], tested: Collection[int]) -> list[Fold]:
    """Divide examples into up to FOLDS folds.

    Args:
        groups: of each example, by `near_duplicates` or `clusters`. Examples of a group are tested in the same
            fold.
        classes: of each example; each fold gets about equally many of each class to test.
        tested: indices of the examples that are tested, each in exactly one fold. The others are learned from in
            every fold, except those of groups that the fold tests.
    """
    members: dict[int, list[int]] = defaultdict(list)
    for index in sorted(tested):
        members[groups[index]].append(index)
    by_fold: list[list[int]] = [[] for _ in range(min(FOLDS, len(members)))]
    counts: list[Counter[Hashable]] = [Counter() for _ in by_fold]
    # The largest groups first, because they are the hardest to balance.
    for group in sorted(members, key=lambda group: (-len(members[group]), members[group][0])):
        group_classes = [classes[index] for index in members[group]]

        def load(fold: int, group_classes: Sequence[Hashable] = group_classes) -> tuple[int, int]:
            return sum(counts[fold][label_class] for label_class in group_classes), len(by_fold[fold])

        fold = min(range(len(by_fold)), key=load)
        by_fold[fold] += members[group]
        counts[fold].update(group_classes)
    folds = []
    for indices in by_fold:
        tested_groups = {groups[index] for index in indices}
        train = [index for index, group in enumerate(groups) if group not in tested_groups]
        folds.append(Fold(train, sorted(indices)))
    return folds


def choosing_folds(folds: int) -> list[int]:
    """For each fold, the number of the fold on which its way to train is chosen: always another one.

    The fold that chooses the best of several ways makes it look better than it is. So all ways are tried on the
    first two folds only, and every fold can still be judged.
    """
    return [1] + [0] * (folds - 1)


def clusters(features: NDArray[np.float32], classes: Sequence[Hashable]) -> list[int]:
    """Return the group of each example, a number. Each class has FOLDS clusters of examples that are alike.

    Args:
        features: (examples, dim).
        classes: of each example.
    """
    members: dict[Hashable, list[int]] = defaultdict(list)
    for index, label_class in enumerate(classes):
        members[label_class].append(index)
    groups, first = [0] * len(classes), 0
    for indices in members.values():
        count = min(FOLDS, len(indices))
        cluster_of = [0] * len(indices)
        if count > 1:
            cluster_of = AgglomerativeClustering(count).fit_predict(features[indices]).tolist()
        for index, cluster in zip(indices, cluster_of, strict=True):
            groups[index] = first + cluster
        first += count
    return groups


def near_duplicates(features: NDArray[np.float32], classes: Sequence[Hashable]) -> list[int]:
    """Return the group of each example, a number: near duplicates, and theirs, have the same.

    Args:
        features: (examples, dim).
        classes: of each example.
    """
    squares = (features**2).sum(1)
    distances = np.maximum(squares[:, None] + squares[None] - 2 * features @ features.T, 0.0)
    limit = NEAR * float(distances.mean())
    groups = _components(distances < limit)
    for _ in range(MOST_HALVINGS):
        if not _has_large_group(groups, classes):
            break
        limit /= 2
        groups = _components(distances < limit)
    return groups


def _has_large_group(groups: Sequence[int], classes: Sequence[Hashable]) -> bool:
    of_class = Counter(classes)
    of_group = Counter(groups)
    of_both = Counter(zip(groups, classes, strict=True))
    return max(of_group.values()) > max(2, LARGEST_GROUP * len(groups)) or any(
        count > max(2, of_class[label_class] / FOLDS) for (_, label_class), count in of_both.items()
    )


def _components(is_near: NDArray[np.bool_]) -> list[int]:
    """The connected component of each example, named by its first example."""
    groups = [-1] * len(is_near)
    for first in range(len(is_near)):
        waiting = [first] if groups[first] < 0 else []
        while waiting:
            index = waiting.pop()
            if groups[index] < 0:
                groups[index] = first
                waiting += [int(other) for other in np.flatnonzero(is_near[index]) if groups[other] < 0]
    return groups
