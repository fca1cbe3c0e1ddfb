"""Orders unlabeled tasks for active learning, so that those come first from which a model learns most.

Each function takes numbers or vectors of tasks and returns the indices of the tasks in the new order.
"""

import random
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]
# Each pick of `core_set` compares every vector. After so many picks, the rest is ordered by distance.
MAX_CENTRES = 2000


def ascending(values: Sequence[float]) -> list[int]:
    """Order by value, the lowest first. Equal values keep their order."""
    return sorted(range(len(values)), key=values.__getitem__)


def shuffled(count: int, seed: int) -> list[int]:
    """Random order of `count` tasks."""
    indices = list(range(count))
    random.Random(seed).shuffle(indices)
    return indices


def core_set(vectors: Vectors, labeled: Vectors, max_picks: int = MAX_CENTRES) -> list[int]:
    """Order by k-centre greedy (https://arxiv.org/abs/1708.00489).

    The next task is always the one farthest from all tasks that are labeled or were picked before.

    Args:
        vectors: (n, dim) of length 1, of the tasks to be ordered.
        labeled: (m, dim) of length 1. If there are none, the first pick is the task nearest to the mean vector.
        max_picks: number of picks, after which the rest is ordered by its distance from them, the farthest first.
    """
    if not len(vectors):
        return []
    if len(labeled):
        similarities = _max_similarities(vectors, labeled)
        picked = []
    else:
        picked = [int((vectors @ vectors.mean(axis=0)).argmax())]
        similarities = vectors @ vectors[picked[0]]
    is_left = np.ones(len(vectors), dtype=bool)
    is_left[picked] = False
    while len(picked) < min(max_picks, len(vectors)):
        pick = int(np.where(is_left, similarities, np.inf).argmin())
        picked.append(pick)
        is_left[pick] = False
        similarities = np.maximum(similarities, vectors @ vectors[pick])
    rest = np.flatnonzero(is_left)
    return [*picked, *rest[np.argsort(similarities[rest], kind="stable")].tolist()]


def _max_similarities(vectors: Vectors, labeled: Vectors) -> Vectors:
    """(n,): cosine of each vector with the most similar labeled vector."""
    chunks = [labeled[start : start + MAX_CENTRES] for start in range(0, len(labeled), MAX_CENTRES)]
    similarities: Vectors = np.max([(vectors @ chunk.T).max(axis=1) for chunk in chunks], axis=0)
    return similarities
