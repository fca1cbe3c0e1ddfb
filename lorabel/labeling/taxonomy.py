"""`<Taxonomy>`: the tree of its labels, and the path from the top to the label that fits.

A result holds paths from the top, `{"taxonomy": [["machine", "bearing", "worn"]]}`, with aliases where the label
config has them (Label Studio 1.23.2, `Taxonomy.jsx`).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from lorabel.contracts import LabelScores, LabelTarget
from lorabel.labeling.label_config import Label, above, find_label, path_of

# A path goes on to a label below whose score is greater.
LIKELIER_THAN_NOT = 0.5
# The parent of labels that have no label above.
TOP = -1


@dataclass(frozen=True)
class Taxonomy:
    """The labels of a `<Taxonomy>` as a tree. A label is meant by its index; a path by the label that it ends at.

    Immutable and thread-safe.

    Args:
        labels: each before the labels below it.
        has_leaves_only: whether a path must end at a label with no label below.
    """

    labels: tuple[Label, ...]
    has_leaves_only: bool

    @property
    def parents(self) -> tuple[int, ...]:
        """The parent of each label, or `TOP`."""
        return tuple(label.parent for label in self.labels)

    @cached_property
    def paths(self) -> tuple[tuple[str, ...], ...]:
        """Root-to-label path of each label, as values."""
        return tuple(path_of(self.labels, end) for end in range(len(self.labels)))

    def above(self, end: int) -> tuple[int, ...]:
        """Root-to-label path of a label, as indices."""
        return above(self.labels, end)

    def find(self, path: Sequence[str]) -> int | None:
        """The label that a path of names ends at; each as by `find_label`. None if there is none."""
        end: int | None = TOP if path else None
        for name in path:
            end = None if end is None else find_label(self.labels, name, self._below.get(end, ()))
        return end

    def descend(self, output: LabelScores) -> tuple[int, float]:
        """Follow the likeliest path, see `likeliest_path`.

        Returns:
            The label that the path ends at, and the probability that the whole path is right.
        """
        path = likeliest_path(self._below, output.probabilities, has_leaves_only=self.has_leaves_only)
        return path[-1], math.prod(output.probabilities[index] for index in path)

    def path_probabilities(self, output: LabelScores) -> list[float]:
        """For each label, the probability that the right path goes through it."""
        return [
            math.prod(output.probabilities[index] for index in self.above(end)) for end in range(len(self.labels))
        ]

    def target(self, ends: Sequence[int]) -> LabelTarget:
        """The target for right paths, which are given by their ends.

        A path that is the beginning of another is left out, since the other says more.

        Returns:
            All labels on the paths; with several paths also, for each label, the share of paths through it.
        """
        paths = {end: self.above(end) for end in ends}
        last_ends = [end for end in paths if not any(end in path[:-1] for path in paths.values())]
        indices = tuple(sorted({index for end in last_ends for index in paths[end]}))
        if len(last_ends) == 1:
            return LabelTarget(indices)
        counts = [sum(index in paths[end] for end in last_ends) for index in range(len(self.labels))]
        return LabelTarget(indices, tuple(count / len(last_ends) for count in counts))

    def ends(self, target: LabelTarget) -> tuple[int, ...]:
        """The labels that the paths of a target end at."""
        inner = {self.labels[index].parent for index in target.indices}
        return tuple(index for index in target.indices if index not in inner)

    def aggregate(self, targets: Sequence[LabelTarget]) -> LabelTarget:
        """The target that most annotators agree on.

        Each annotator has one vote, divided among the annotator's paths. From the top down, the path goes on to
        the label with the most votes, and ends where more votes end than go on. The newest target decides a tie.

        Args:
            targets: one for each annotator, the newest last.
        """
        shares = [0.0] * len(self.labels)
        for target in targets:
            for index in target.indices:
                shares[index] += (1.0 if target.shares is None else target.shares[index]) / len(targets)
        end, share = TOP, 1.0
        newest = targets[-1].indices
        while below := self._below.get(end):
            best = max(below, key=lambda index: (shares[index], index in newest))
            share_that_ends = share - sum(shares[index] for index in below)
            if end != TOP and (share_that_ends, end in self.ends(targets[-1])) > (shares[best], best in newest):
                break
            end, share = best, shares[best]
        return LabelTarget(self.above(end), tuple(shares))

    def perfect_output(self, target: LabelTarget) -> LabelScores:
        """The output of a model that knows the target: each label's share of its parent's share."""
        shares = target.shares or tuple(float(index in target.indices) for index in range(len(self.labels)))
        parent_shares = [1.0 if label.parent == TOP else shares[label.parent] for label in self.labels]
        probabilities = tuple(
            share / parent_share if parent_share else 0.0
            for share, parent_share in zip(shares, parent_shares, strict=True)
        )
        return LabelScores(probabilities=probabilities)

    def accuracy_by_level(self, targets: Sequence[LabelTarget], predicted: Sequence[int]) -> list[float]:
        """Accuracy on each level, the top level first.

        The accuracy of a level is over the tasks that have a right label on it. Such a task counts as predicted if
        the predicted path has one of its right labels there.

        Args:
            predicted: for each target, the label that the predicted path ends at.
        """
        depths = [len(path) for path in self.paths]
        hits: list[list[bool]] = [[] for _ in range(max(depths))]
        for target, end in zip(targets, predicted, strict=True):
            path = self.above(end)
            for level in {depths[index] - 1 for index in target.indices}:
                hits[level].append(level < len(path) and path[level] in target.indices)
        return [sum(level_hits) / len(level_hits) for level_hits in hits if level_hits]

    @cached_property
    def _below(self) -> Mapping[int, tuple[int, ...]]:
        """For each label that has labels directly below it, and for TOP, these labels."""
        return labels_below(self.parents)


def labels_below(parents: Sequence[int]) -> Mapping[int, tuple[int, ...]]:
    """For each label that has labels directly below it, and for TOP, these labels, in their order.

    Args:
        parents: of each label, as in `LabelsInput`.
    """
    children: dict[int, list[int]] = {}
    for index, parent in enumerate(parents):
        children.setdefault(parent, []).append(index)
    return {above: tuple(below) for above, below in children.items()}


def likeliest_path(
    below: Mapping[int, Sequence[int]], probabilities: Sequence[float], *, has_leaves_only: bool
) -> tuple[int, ...]:
    """Follow the most probable label of each level, as far as it is more probable than not.

    There is always a label of the first level, if there is such a level.

    Args:
        below: see `labels_below`.
        probabilities: of each label, given the label above it.
        has_leaves_only: whether the path goes down to a label with no label below.

    Returns:
        The indices of its labels, from the top.
    """
    path: list[int] = []
    while children := below.get(path[-1] if path else TOP):
        best = max(children, key=probabilities.__getitem__)
        if path and not (has_leaves_only or probabilities[best] > LIKELIER_THAN_NOT):
            break
        path.append(best)
    return tuple(path)
