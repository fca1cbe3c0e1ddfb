"""Which pairs of regions are asked about, and what becomes of their probabilities. NumPy only."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from lorabel.relation_contracts import RelatedRegion, Relation, Relations, RelationsInput

# A pair of regions, from the first to the second, as indices.
Pair = tuple[int, int]
# Most pairs of one task that are asked about; of more the nearest.
MOST_PAIRS = 2000
# A relation is there if its probability is at least this.
THRESHOLD = 0.4
# The logit of a label that no pair has.
SILENT = -20.0


def nearest_pairs(regions: Sequence[RelatedRegion], most: int) -> list[Pair]:
    """Return the pairs of different regions, each in both directions, sorted; of more than `most` the nearest."""
    first, second = np.triu_indices(len(regions), 1)
    places = middles(regions)
    distances = np.linalg.norm(places[first] - places[second], axis=1)
    nearest = np.argsort(distances, kind="stable")[: (most + 1) // 2]
    both_ways = np.stack([first, second, second, first], axis=1)[nearest].reshape(-1, 2)
    return sorted((start, end) for start, end in both_ways[:most].tolist())


def found_relations(
    question: RelationsInput, pairs: Sequence[Pair], probabilities: NDArray[np.float32]
) -> Relations:
    """Return the relations whose probability reaches THRESHOLD.

    Args:
        probabilities: (pairs, labels).
    """
    relations = []
    for (first, second), of_pair in zip(pairs, probabilities.tolist(), strict=True):
        labels = [label for label, probability in enumerate(of_pair) if probability >= THRESHOLD]
        if question.is_single and labels:
            labels = [int(np.argmax(of_pair))]
        relations += [
            Relation(first=first, second=second, label=label, probability=of_pair[label]) for label in labels
        ]
    likeliest = float(probabilities.max()) if probabilities.size else 0.0
    return Relations(relations=tuple(relations), no_relation_probability=1 - likeliest)


def middles(regions: Sequence[RelatedRegion]) -> NDArray[np.float64]:
    """(regions, 2): the middle of each; of a span its middle character and 0."""
    return np.array(
        [
            ((region.start + region.end) / 2, 0.0)
            if region.corners is None
            else ((region.corners[0] + region.corners[2]) / 2, (region.corners[1] + region.corners[3]) / 2)
            for region in regions
        ]
    ).reshape(-1, 2)
