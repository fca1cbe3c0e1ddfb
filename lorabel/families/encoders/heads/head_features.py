"""How the features of a question's contents become the features of a head, the same when it is fitted and applied.

A single content keeps its features, whatever the map. Several contents are fused in one of these ways:

    mean      the mean over the contents: (dim,)
    concat    side by side: (slots * dim,)
    products  side by side, then the product of each two, element by element, times the square root of dim:
              ((slots + pairs) * dim,). A head can learn from these how well two contents go together.

A slot is a place for a content: the first picture, the second picture, the first text. It is named by modality, so
a task that lacks a text leaves the slot of the text empty (zeros), and its pictures stay in theirs. Contents for
which a head has no slot are not used.
"""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import combinations

import numpy as np

from lorabel.families.encoders.heads.linear_head import MEAN, Array

CONCAT, PRODUCTS = "concat", "products"
FEATURE_MAPS = (MEAN, CONCAT, PRODUCTS)


def slots_of(modality_lists: Iterable[Sequence[str]]) -> tuple[str, ...]:
    """Return the slots for questions with these modalities: of each, as many as a question has contents of it.

    The order is that of the names of the modalities, so it does not depend on the order of the questions.
    """
    most: Counter[str] = Counter()
    for modalities in set(map(tuple, modality_lists)):
        most |= Counter(str(modality) for modality in modalities)
    return tuple(sorted(most.elements()))


def feature_count(feature_map: str, slots: Sequence[str], dim: int) -> int:
    """Return the number of features that a map makes of contents with `dim` features."""
    if feature_map == MEAN:
        return dim
    pairs = len(slots) * (len(slots) - 1) // 2
    return dim * (len(slots) + (pairs if feature_map == PRODUCTS else 0))


def map_features(feature_map: str, slots: Sequence[str], modalities: Sequence[str], contents: Array) -> Array:
    """Turn the features of the contents of one question into the features of a head.

    Args:
        slots: see `LinearHead.slots`.
        modalities: (contents,): the modality of each content.
        contents: (contents, dim) of length 1.

    Returns:
        (features,) float32, see `feature_count`.
    """
    if feature_map == MEAN:
        return np.asarray(contents.mean(0), np.float32)
    rows = slot_rows(slots, modalities, contents)
    if feature_map == PRODUCTS:
        scale = math.sqrt(contents.shape[1])
        rows = [*rows, *(scale * first * second for first, second in combinations(rows, 2))]
    return np.concatenate(rows).astype(np.float32)


def slot_rows(slots: Sequence[str], modalities: Sequence[str], contents: Array) -> list[Array]:
    """Return (dim,) for each slot: the features of the content in it, or zeros."""
    waiting = [(str(modality), row) for modality, row in zip(modalities, contents, strict=True)]
    rows = []
    for slot in slots:
        index = next((index for index, (modality, _) in enumerate(waiting) if modality == slot), None)
        rows.append(np.zeros(contents.shape[1], np.float32) if index is None else waiting.pop(index)[1])
    return rows
