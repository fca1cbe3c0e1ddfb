"""What the heads of rankings compute with: the features of each item, and its similarity with the query."""

import math

import numpy as np

from lorabel.contracts import RankingInput
from lorabel.families.encoders.heads.head_features import PRODUCTS
from lorabel.families.encoders.heads.linear_head import Array

# Multiplies the cosine with the query. The model's own scale is made for labels that exclude each other, which
# items do not; and, as for labels, a loss at that scale saturates.
QUERY_SCALE = 10.0


def item_features(feature_map: str, question: RankingInput, contents: Array) -> Array:
    """Return the features of each item: the mean of its contents.

    With the map `products`, the products with the query follow, so that a head can learn what makes an item fit a
    query.

    Args:
        contents: (contents, dim) of length 1.

    Returns:
        (items, dim) float32; (items, 2 * dim) for `products`.
    """
    items = _items(question, contents)
    if feature_map != PRODUCTS:
        return items
    query = _rows_of(question, contents, -1)
    return np.concatenate([items, math.sqrt(items.shape[1]) * items * query], axis=1)


def query_similarities(question: RankingInput, contents: Array) -> Array:
    """Return the scaled cosine of each item with the query, (items, 1) float32; zeros if there is no query."""
    items = _items(question, contents)
    if not question.has_query:
        return np.zeros((len(items), 1), np.float32)
    return QUERY_SCALE * (_unit(items) @ _unit(_rows_of(question, contents, -1)))[:, None]


def _items(question: RankingInput, contents: Array) -> Array:
    item_count = max(question.item_indices) + 1
    return np.stack([_rows_of(question, contents, item) for item in range(item_count)])


def _rows_of(question: RankingInput, contents: Array, item: int) -> Array:
    """(dim,): the mean of the contents of an item; of the query if `item` is -1."""
    return np.asarray(contents[np.array(question.item_indices) == item].mean(0), np.float32)


def _unit(rows: Array) -> Array:
    return np.asarray(rows / np.maximum(np.linalg.norm(rows, axis=-1, keepdims=True), 1e-12), np.float32)
