"""Which regions of an annotation relations are learned between, where it has more than a question may be about."""

from collections.abc import Sequence

import numpy as np

from lorabel.families.relations.pairs import middles
from lorabel.relation_contracts import MOST_RELATED, Link, RelatedRegion, RelationTarget


def bounded_target(
    regions: Sequence[RelatedRegion],
    links: Sequence[Link],
    unknown: Sequence[tuple[int, int]],
    faults: Sequence[str],
) -> RelationTarget:
    """Return the target with at most MOST_RELATED regions, since memory and time of pairs grow with their square.

    Args:
        links, unknown, faults: as in `RelationTarget`, of all regions.
    """
    kept = _most_related(regions, links, MOST_RELATED)
    indices = {index: number for number, index in enumerate(kept)}
    kept_links = tuple(
        (indices[first], indices[second], label)
        for first, second, label in links
        if first in indices and second in indices
    )
    kept_unknown = tuple(
        (indices[first], indices[second]) for first, second in unknown if first in indices and second in indices
    )
    reasons = [*faults]
    if len(kept) < len(regions):
        reasons.append(
            f"{len(regions)} regions are marked, and relations between at most {MOST_RELATED} are learned"
        )
    if lost := len(links) - len(kept_links):
        reasons.append(f"{lost} relations are between regions that are left out")
    return RelationTarget(tuple(regions[index] for index in kept), kept_links, kept_unknown, tuple(reasons))


def _most_related(regions: Sequence[RelatedRegion], links: Sequence[Link], most: int) -> list[int]:
    """The indices of the regions to keep, sorted.

    Relations come first, each with both its regions, in their order, while there is room. Then the regions nearest
    to any of theirs; without relations the first ones.

    Args:
        most: how many are kept; all if there are no more.
    """
    if len(regions) <= most:
        return [*range(len(regions))]
    kept = set[int]()
    for first, second, _ in links:
        if len(kept | {first, second}) <= most:
            kept |= {first, second}
    others = [index for index in range(len(regions)) if index not in kept]
    if kept:
        places = middles(regions)
        offsets = places[others][:, None] - places[sorted(kept)][None]
        distances = np.linalg.norm(offsets, axis=2).min(1)
        others = [others[number] for number in np.argsort(distances, kind="stable").tolist()]
    return sorted([*kept, *others[: most - len(kept)]])
