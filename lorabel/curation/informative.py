"""The order `auto`: typical tasks first, then those whose labels reduce the expected error of all open tasks most.

While little is annotated, probabilities say nothing about what a model lacks, so the first tasks are typical ones
of groups in which nothing is annotated (TypiClust, https://arxiv.org/abs/2202.02794). After that, tasks are chosen
as an optimal design for the head, which is a regression on the vectors: how much a label reduces its variance at
every open task is known before anybody gives the label (transductive design,
https://doi.org/10.1145/1143844.1143980). The tasks that are helped, and more so the task itself, count by how
unsure the model is of them. Each task is chosen as if those before it were annotated, so near duplicates do not
follow each other.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import KMeans

from lorabel.curation.sampling import Vectors

Indices = NDArray[np.intp]

# The first tasks are typical ones until so many tasks per label are annotated.
TYPICAL_PER_LABEL, MOST_TYPICAL = 2, 100
# A task is typical if it is similar to its nearest neighbours among so many tasks of its group.
NEAREST, MOST_NEIGHBOURS = 20, 1000
# Tasks that are chosen one after the other, from a random sample. The rest is ordered at once.
PICKS, SAMPLE = 50, 5000
RIDGE = 1.0
# Power of a candidate's uncertainty. The uncertainty of the tasks that it helps counts once.
SHARPNESS = 2.0
# Uncertainty of a task of which the model is sure.
LEAST_UNCERTAINTY = 0.02


def typical_then_informative(
    vectors: Vectors, annotated: Vectors, margins: Vectors, label_count: int, seed: int
) -> list[int]:
    """Order all open tasks.

    Args:
        vectors: (n, dim), of the open tasks, of length 1.
        annotated: (m, dim), of annotated tasks, of length 1.
        margins: (n,) in [0, 1]: how far the best answer leads over the second best.
        label_count: number of labels; 1 where there are none.
        seed: of the groups, and of the sample if there are more than SAMPLE tasks.

    Returns:
        the indices of the open tasks, the first to be annotated first.
    """
    sample = np.sort(np.random.default_rng(seed).permutation(len(vectors))[:SAMPLE])
    missing = min(TYPICAL_PER_LABEL * label_count, MOST_TYPICAL) - len(annotated)
    first = sample[typical(vectors[sample], annotated, max(0, missing), seed)]
    others = np.setdiff1d(np.arange(len(vectors)), first)
    known = np.concatenate([annotated, vectors[first]]) if len(annotated) else vectors[first]
    candidates = np.flatnonzero(np.isin(others, sample))
    return [*first.tolist(), *others[informative(vectors[others], known, margins[others], candidates)].tolist()]


def typical(vectors: Vectors, annotated: Vectors, count: int, seed: int) -> Indices:
    """Choose up to `count` tasks: the most typical one of each group, of the groups with the fewest annotations.

    The tasks are grouped by k-means, annotated ones included. Among equally annotated groups the largest is first.

    Args:
        vectors: (n, dim), of the open tasks, of length 1.
        annotated: (m, dim), of length 1.
    """
    count = min(count, len(vectors))
    if not count:
        return np.zeros(0, dtype=np.intp)
    every = np.concatenate([vectors, annotated]) if len(annotated) else vectors
    group_count = min(count + len(annotated), len(np.unique(every, axis=0)))
    groups = KMeans(group_count, n_init=1, max_iter=20, random_state=seed).fit_predict(every)
    sizes = np.bincount(groups[: len(vectors)], minlength=group_count)
    annotations = np.bincount(groups[len(vectors) :], minlength=group_count)
    chosen = [group for group in np.lexsort((-sizes, annotations)) if sizes[group]][:count]
    members = [np.flatnonzero(groups[: len(vectors)] == group) for group in chosen]
    return np.array([indices[_most_typical(vectors[indices])] for indices in members], dtype=np.intp)


def _most_typical(members: Vectors) -> int:
    """The index of the vector that is most similar to its nearest neighbours."""
    similarities = members @ members[:MOST_NEIGHBOURS].T
    nearest = min(NEAREST, similarities.shape[1])
    return int(np.partition(similarities, -nearest, axis=1)[:, -nearest:].mean(axis=1).argmax())


def informative(vectors: Vectors, annotated: Vectors, margins: Vectors, candidates: Indices) -> Indices:
    """Order tasks by how much their labels reduce the variance of the regression at all of them.

    Args:
        vectors: (n, dim), of the open tasks.
        annotated: (m, dim).
        margins: (n,) in [0, 1].
        candidates: the first PICKS tasks are chosen from these indices, one after the other.
    """
    if not len(vectors):
        return np.zeros(0, dtype=np.intp)
    tasks, known = _standardised(vectors, annotated)
    uncertainty = (1 - margins + LEAST_UNCERTAINTY).astype(np.float32)
    weights = uncertainty**SHARPNESS
    design = _Design.of(tasks, known, uncertainty)
    picked = candidates[_pick(design, tasks[candidates], weights[candidates])]
    scores = weights * design.gains(tasks)
    rest = np.setdiff1d(np.arange(len(tasks)), picked)
    return np.concatenate([picked, rest[np.argsort(-scores[rest], kind="stable")]])


@dataclass
class _Design:
    """A ridge regression's covariance, and the tasks at which its variance counts.

    Args:
        inverse: (dim, dim), (RIDGE I + sum of x x' over annotated tasks x)^-1.
        moments: (dim, dim), the mean of x x' over the open tasks x, weighted by their uncertainty.
    """

    inverse: Vectors
    moments: Vectors

    @classmethod
    def of(cls, tasks: Vectors, known: Vectors, uncertainty: Vectors) -> Self:
        """The design after the annotated tasks `known`."""
        inverse = np.linalg.inv(RIDGE * np.eye(tasks.shape[1], dtype=np.float32) + known.T @ known)
        moments = (tasks * uncertainty[:, None]).T @ tasks / len(tasks)
        return cls(np.asarray(inverse, np.float32), np.asarray(moments, np.float32))

    def parts(self, tasks: Vectors) -> tuple[Vectors, Vectors]:
        """(n,) each: x' A moments A x and x' A x, with A = inverse, of each task x."""
        projected = tasks @ self.inverse
        return ((projected @ self.moments) * projected).sum(axis=1), (projected * tasks).sum(axis=1)

    def gains(self, tasks: Vectors) -> Vectors:
        """(n,): by how much the label of each task reduces the mean variance."""
        reductions, variances = self.parts(tasks)
        return np.asarray(reductions / (1 + variances))


def _pick(design: _Design, tasks: Vectors, weights: Vectors) -> list[int]:
    """Choose up to PICKS tasks; each changes the design by a matrix of rank one, so a pick costs n * dim steps."""
    reductions, variances = design.parts(tasks)
    is_left = np.ones(len(tasks), dtype=bool)
    picked: list[int] = []
    for _ in range(min(PICKS, len(tasks))):
        pick = int(np.where(is_left, weights * reductions / (1 + variances), -np.inf).argmax())
        picked.append(pick)
        is_left[pick] = False
        direction = design.inverse @ tasks[pick]
        divisor = 1 + tasks[pick] @ direction
        helped = design.moments @ direction
        along, across = (tasks @ np.stack([direction, design.inverse @ helped], axis=1)).T
        reductions += along**2 * (direction @ helped) / divisor**2 - 2 * along * across / divisor
        variances -= along**2 / divisor
        design.inverse = design.inverse - np.outer(direction, direction) / divisor
    return picked


def _standardised(vectors: Vectors, annotated: Vectors) -> tuple[Vectors, Vectors]:
    """Both relative to their common mean, with a mean square length of 1, and a column of ones."""
    every = np.concatenate([vectors, annotated]) if len(annotated) else vectors
    centred = every - every.mean(axis=0)
    spread = np.sqrt(np.square(centred).sum(axis=1).mean()) + np.finfo(np.float32).eps
    extended = np.concatenate([centred / spread, np.ones((len(centred), 1))], axis=1).astype(np.float32)
    return extended[: len(vectors)], extended[len(vectors) :]
