"""In which order unlabeled tasks teach most (active learning): numbers in, places out.

Each function returns the places of what it was given, the one to be labeled first at the front.
"""

import random
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]
# Each pick of the core-set looks at every task. After so many, what is left goes by its distance.
MOST_CENTRES = 2000


def ascending(values: Sequence[float]) -> list[int]:
    """Uncertainty by scores, margin by margins; equal ones as they come."""
    return sorted(range(len(values)), key=values.__getitem__)


def shuffled(count: int, seed: int) -> list[int]:
    places = list(range(count))
    random.Random(seed).shuffle(places)
    return places


def core_set(vectors: Vectors, labeled: Vectors, most: int = MOST_CENTRES) -> list[int]:
    """k-centre greedy: always the one that is farthest from all that are labeled or picked
    (https://arxiv.org/abs/1708.00489).

    Args:
        vectors: (n, dim) of length 1.
        labeled: (m, dim) of length 1; where there is none, the one nearest to the middle begins.
        most: picks, after which the rest goes by its distance from them.
    """
    if not len(vectors):
        return []
    if len(labeled):
        nearness = _nearness(vectors, labeled)
        picked = []
    else:
        picked = [int((vectors @ vectors.mean(axis=0)).argmax())]
        nearness = vectors @ vectors[picked[0]]
    is_left = np.ones(len(vectors), dtype=bool)
    is_left[picked] = False
    while len(picked) < min(most, len(vectors)):
        pick = int(np.where(is_left, nearness, np.inf).argmin())
        picked.append(pick)
        is_left[pick] = False
        nearness = np.maximum(nearness, vectors @ vectors[pick])
    rest = np.flatnonzero(is_left)
    return [*picked, *rest[np.argsort(nearness[rest], kind="stable")].tolist()]


def _nearness(vectors: Vectors, labeled: Vectors) -> Vectors:
    """(n,): the cosine with the nearest of the labeled ones."""
    parts = [labeled[start : start + MOST_CENTRES] for start in range(0, len(labeled), MOST_CENTRES)]
    nearness: Vectors = np.max([(vectors @ part.T).max(axis=1) for part in parts], axis=0)
    return nearness
