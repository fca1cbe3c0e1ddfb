"""`<Taxonomy>`: the tree of its choices, and the way down to the one that fits.

A result holds paths from the top, `{"taxonomy": [["machine", "bearing", "worn"]]}`, with aliases where the label
config has them (Label Studio 1.23.2, `Taxonomy.jsx`).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from lorabel.contracts import LabelScores, LabelTarget
from lorabel.labeling.label_config import Label, above, path_of

LIKELIER_THAN_NOT = 0.5
TOP = -1


@dataclass(frozen=True)
class Taxonomy:
    """
    Args:
        labels: each before those below it.
        has_leaves_only: whether a path must end where nothing is below.
    """

    labels: tuple[Label, ...]
    has_leaves_only: bool

    @property
    def parents(self) -> tuple[int, ...]:
        return tuple(label.parent for label in self.labels)

    @cached_property
    def paths(self) -> tuple[tuple[str, ...], ...]:
        """Of each label, its own value the last."""
        return tuple(path_of(self.labels, end) for end in range(len(self.labels)))

    def above(self, end: int) -> tuple[int, ...]:
        """The labels from the top to this one."""
        return above(self.labels, end)

    def find(self, path: Sequence[str]) -> int | None:
        """The label at the end of a path, written in any case; None if there is no such path."""
        return self._ends.get(tuple(value.casefold() for value in path))

    def descend(self, output: LabelScores) -> tuple[int, float]:
        """The label at the end of the best path, and the probability that all of it is right."""
        scores = output.probabilities
        end, confidence = TOP, 1.0
        while below := self._below.get(end):
            best = max(below, key=scores.__getitem__)
            if not (self.has_leaves_only or end == TOP or scores[best] > LIKELIER_THAN_NOT):
                break
            end, confidence = best, confidence * scores[best]
        return end, confidence

    def path_probabilities(self, output: LabelScores) -> list[float]:
        """Of each label, that the right path goes through it."""
        return [math.prod(output.probabilities[i] for i in self.above(end)) for end in range(len(self.labels))]

    def target(self, ends: Sequence[int]) -> LabelTarget:
        """Of one or several right paths by their ends. One that another goes on from says nothing more."""
        paths = {end: self.above(end) for end in ends}
        last = [end for end in paths if not any(end in path[:-1] for path in paths.values())]
        indices = tuple(sorted({i for end in last for i in paths[end]}))
        if len(last) == 1:
            return LabelTarget(indices)
        counts = [sum(i in paths[end] for end in last) for i in range(len(self.labels))]
        return LabelTarget(indices, tuple(count / len(last) for count in counts))

    def ends(self, target: LabelTarget) -> tuple[int, ...]:
        """The labels that its paths end at."""
        inner = {self.labels[i].parent for i in target.indices}
        return tuple(i for i in target.indices if i not in inner)

    def agree(self, targets: Sequence[LabelTarget]) -> LabelTarget:
        """One voice for each annotator; the way down goes with most of them, or stops where most do. Where as many
        say one as the other, the newest decides."""
        shares = [0.0] * len(self.labels)
        for target in targets:
            for i in target.indices:
                shares[i] += (1.0 if target.shares is None else target.shares[i]) / len(targets)
        end, share = TOP, 1.0
        newest = targets[-1].indices
        while below := self._below.get(end):
            best = max(below, key=lambda i: (shares[i], i in newest))
            stopped = share - sum(shares[i] for i in below)
            if end != TOP and (stopped, end in self.ends(targets[-1])) > (shares[best], best in newest):
                break
            end, share = best, shares[best]
        return LabelTarget(self.above(end), tuple(shares))

    def perfect_output(self, target: LabelTarget) -> LabelScores:
        shares = target.shares or tuple(float(i in target.indices) for i in range(len(self.labels)))
        of_parents = [1.0 if label.parent == TOP else shares[label.parent] for label in self.labels]
        probabilities = tuple(
            share / of_parent if of_parent else 0.0 for share, of_parent in zip(shares, of_parents, strict=True)
        )
        return LabelScores(probabilities=probabilities)

    def accuracy_by_level(self, targets: Sequence[LabelTarget], predicted: Sequence[int]) -> list[float]:
        """The top first: of the tasks with a right label that deep, how many were predicted to have one there."""
        depths = [len(path) for path in self.paths]
        hits: list[list[bool]] = [[] for _ in range(max(depths))]
        for target, end in zip(targets, predicted, strict=True):
            path = self.above(end)
            for level in {depths[i] - 1 for i in target.indices}:
                hits[level].append(level < len(path) and path[level] in target.indices)
        return [sum(found) / len(found) for found in hits if found]

    @cached_property
    def _below(self) -> Mapping[int, tuple[int, ...]]:
        """By label, and TOP, the labels directly below it."""
        parents = self.parents
        return {one: tuple(i for i, parent in enumerate(parents) if parent == one) for one in set(parents)}

    @cached_property
    def _ends(self) -> Mapping[tuple[str, ...], int]:
        folded = (tuple(value.casefold() for value in path) for path in self.paths)
        return {path: end for end, path in reversed(list(enumerate(folded)))}
