"""The right probabilities of the words of a text, from its right spans. NumPy only, see `fit_spans`."""

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from lorabel.contracts import SpanTarget


def word_targets(words: Sequence[tuple[int, int]], target: SpanTarget, labels: int) -> NDArray[np.float32]:
    """Return (words, 1 + 2 * labels): columns are "in no span", then BEGINS of each label, then GOES_ON of each.

    A word belongs to the span that covers most of its characters. If several spans cover as many, the word belongs
    to each of them with an equal share.

    Args:
        words: (start, end) of each word, in characters; the end is exclusive.
    """
    starts, ends = [start for start, _ in words], [end for _, end in words]
    # word -> number of characters that a span covers -> columns
    claims: dict[int, dict[int, list[int]]] = defaultdict(lambda: defaultdict(list))
    for start, end, label in target.spans:
        first = bisect_right(ends, start)
        for word in range(first, bisect_left(starts, end)):
            covered = min(end, ends[word]) - max(start, starts[word])
            claims[word][covered].append(1 + label + (labels if word > first else 0))
    truth = np.zeros((len(words), 1 + 2 * labels), np.float32)
    truth[:, 0] = 1.0
    for word, columns_by_cover in claims.items():
        columns = columns_by_cover[max(columns_by_cover)]
        truth[word, 0] = 0.0
        for column in columns:
            truth[word, column] += 1 / len(columns)
    return truth
