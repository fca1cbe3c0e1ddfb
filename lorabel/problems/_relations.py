"""What the problems of relations between regions share: `<Relations>` beside the tags that mark regions.

A relation is an item of a result that names two regions of the same result by their ids:

    {"id": "a", "type": "labels", "from_name": "entity", "value": {"start": 0, "end": 3, "labels": ["Person"]}}
    {"id": "b", "type": "labels", "from_name": "entity", "value": {"start": 9, "end": 12, "labels": ["Thing"]}}
    {"type": "relation", "from_id": "a", "to_id": "b", "direction": "right", "labels": ["owns"]}

`right` goes from the first region to the second, `left` the other way, `bi` both ways. Relations are predicted
between the regions that other bindings predict for the task. What is learned is how the regions that people marked
are related: each pair of regions that nobody related says that there is no relation.
"""

from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Self

from lorabel.contracts import Contract, Input
from lorabel.errors import MissingTargetError
from lorabel.evaluation.metrics import Metrics
from lorabel.evaluation.relation_metrics import relations as relation_metrics
from lorabel.labeling import regions as build
from lorabel.labeling.label_config import RELATIONS, ControlTag, Label, ObjectTag
from lorabel.labeling.regions import BOTH, LEFT, RELATION, RIGHT, Region
from lorabel.problems._answers import known_labels, regions_of, shown
from lorabel.problems._most_related import bounded_target
from lorabel.problems.base import Prediction, Problem, TaskData
from lorabel.relation_contracts import (
    MOST_RELATED,
    UNLABELLED,
    Link,
    RelatedRegion,
    Relation,
    Relations,
    RelationsInput,
    RelationTarget,
)

# Returns a region as it is asked about, from the items of the result with its id and the index of its label among
# those of all marks. Raises MissingTargetError if the region has no place that can be used.
PlaceOf = Callable[[Sequence[Region], int], RelatedRegion]


@dataclass(frozen=True)
class Marks:
    """The control tags with which one binding marks regions that relations are between.

    Args:
        names: of the control tags; the first gives the labels.
        kind: the key of the labels in the values of its regions.
        labels: of the regions.
        has_bare: whether a region may have no label.
        first: index of the first label among those of all such bindings; that of no label comes after the last.
    """

    names: tuple[str, ...]
    kind: str
    labels: tuple[Label, ...]
    has_bare: bool
    first: int

    @property
    def label_names(self) -> list[str]:
        """The names of the labels for `RelationsInput.region_labels`, also that of no label."""
        values = [*(label.value for label in self.labels), *([""] if self.has_bare else [])]
        return [f"{self.names[0]}: {value}" for value in values]

    def label_of(self, parts: Sequence[Region]) -> int:
        """Return the index of a region's first label among those of all bindings.

        Args:
            parts: the regions with its id.

        Raises:
            MissingTargetError: it has none, or none that the label config has.
        """
        values = [part.get("value") for part in parts if part.get("from_name") == self.names[0]]
        lists = [value.get(self.kind) for value in values if isinstance(value, dict)]
        names = next((names for names in lists if isinstance(names, list) and names), [])
        labels, reasons = known_labels(self.labels, names, self.names[0])
        if labels:
            return self.first + labels[0]
        if reasons or not self.has_bare:
            raise MissingTargetError(reasons[0] if reasons else f"it has no label of {self.names[0]!r}")
        return self.first + len(self.labels)


@dataclass(frozen=True)
class RelationProblem(Problem):
    """Base class of problems of relations. The subclass says which regions there are, and where a region is.

    Attributes:
        tag: the object tag that the regions are of.
        marks: the control tags that mark regions.
        labels: the labels that a relation may have; empty if it has none.
        is_single: whether a relation has one label at most.
        regions: those that are asked about, with ids; empty until `about` was called.
    """

    output_type: ClassVar[type[Contract]] = Relations
    is_per_region: ClassVar[bool] = True

    tag: ObjectTag
    marks: tuple[Marks, ...]
    labels: tuple[Label, ...]
    is_single: bool
    regions: tuple[Region, ...] = field(default=(), hash=False)

    @classmethod
    def match(cls, control: ControlTag) -> Self | None:
        """Bind the tag of relations beside tags that mark regions which another problem predicts.

        Of several object tags with such regions, the first is served.
        """
        if control.tag != RELATIONS:
            return None
        is_single = control.attributes.get("choice", "multiple") == "single"
        for tag in control.objects:
            served = [(each, cls.marked_by(each)) for each in control.siblings if each.objects == (tag,)]
            if marks := _marks(served):
                return cls(control.name, tag.name, tag, marks, control.labels, is_single)
        return None

    @classmethod
    @abstractmethod
    def marked_by(cls, control: ControlTag) -> Problem | None:
        """Return the binding of a control tag that marks regions between which relations are found; else None."""

    @abstractmethod
    def places_in(self, data: TaskData) -> PlaceOf:
        """Return the function that finds the regions of a task; what it reads of the task is read once."""

    @abstractmethod
    def question(self, data: TaskData, regions: Sequence[RelatedRegion]) -> RelationsInput:
        """Return the question about relations between some regions of a task."""

    @abstractmethod
    def asked_for(self, question: Input, target: RelationTarget) -> Input:
        """Ask about the regions that people marked; see `Problem.asked_for`."""

    @abstractmethod
    def same_regions(self, first: Sequence[RelatedRegion], second: Sequence[RelatedRegion]) -> dict[int, int]:
        """Return which regions of two results are the same, as indices: of the first -> of the second."""

    @property
    def region_labels(self) -> tuple[str, ...]:
        """The labels that regions may have, each with the name of its control tag."""
        return tuple(name for marks in self.marks for name in marks.label_names)

    def about(self, regions: Sequence[Region]) -> Self | None:
        """Ask about the regions of `marks`, at most MOST_RELATED; None if there are fewer than two."""
        names = {name for marks in self.marks for name in marks.names}
        asked = list(dict.fromkeys(region["id"] for region in regions if region.get("from_name") in names))
        if len(asked) < 2:
            return None
        asked = asked[:MOST_RELATED]
        return replace(self, regions=tuple(region for region in regions if region.get("id") in asked))

    def model_input(self, data: TaskData) -> RelationsInput:
        """Ask for the relations between the regions of `about`; between none before it was called."""
        return self.question(data, [place for _, place in self._places(self.regions, data, [])])

    def prediction(self, output: Relations, data: TaskData) -> Prediction:
        """Predict the relations. The score is their mean probability, or the probability that there is none.

        Two relations of one label in both directions become one where the editor keeps all labels of the pair.
        """
        ids = [id_ for id_, _ in self._places(self.regions, data, [])]
        probabilities = {relation.link: relation.probability for relation in output.relations}
        predicted = [
            build.relation(
                ids[first], ids[second], direction, [self.labels[label].value for label in labels if self.labels]
            )
            for first, second, direction, labels in _as_written(probabilities)
        ]
        if not predicted:
            return Prediction([], output.no_relation_probability)
        return Prediction(predicted, sum(probabilities.values()) / len(probabilities))

    def target(self, result: list[Region], data: TaskData) -> RelationTarget:
        """Return the regions of the annotation and how they are related.

        A relation or a region that cannot be used is left out by itself, and so are regions beyond MOST_RELATED.
        How a pair is related is not known where one of its relations has no label that the label config has.

        Raises:
            MissingTargetError: see `Problem.target`; also if there are fewer than two regions, or if there are
                relations and none can be used.
        """
        items, faults = regions_of(result), list[str]()
        places = self._places([item for item in items if item.get("type") != RELATION], data, faults)
        indices = {id_: index for index, (id_, _) in enumerate(places)}
        links, unknown = set[Link](), set[tuple[int, int]]()
        for item in items:
            if item.get("type") == RELATION:
                try:
                    pairs = self._pairs_of(item, indices)
                except MissingTargetError as error:
                    faults.append(str(error))
                    continue
                labels, reasons = self._labels_of(item)
                faults += reasons
                links |= {(*pair, label) for pair in pairs for label in labels}
                unknown |= {pair for pair in pairs if not labels}
        if faults and not links:
            raise MissingTargetError(faults[0])
        if len(places) < 2:
            raise MissingTargetError(f"{len(places)} regions are marked, and relations are between two")
        unknown -= {(first, second) for first, second, _ in links}
        return bounded_target([place for _, place in places], sorted(links), sorted(unknown), faults)

    def left_out(self, target: RelationTarget) -> Sequence[str]:
        """Return why regions and relations are left out."""
        return target.left_out

    def perfect_output(self, target: RelationTarget) -> Relations:
        """Return the right relations, each with probability 1."""
        links = (Relation(first=first, second=second, label=label) for first, second, label in target.links)
        return Relations(relations=tuple(links))

    def metrics(self, targets: Sequence[RelationTarget], outputs: Sequence[Any]) -> Metrics:
        """Compute the metrics of `lorabel.evaluation.relation_metrics`, of relations between the true regions."""
        predicted = [
            [relation.link for relation in output.relations if relation.link[:2] not in target.unknown]
            for target, output in zip(targets, outputs, strict=True)
        ]
        names = [label.value for label in self.labels] or ["relation"]
        return relation_metrics([target.links for target in targets], predicted, names)

    def aggregate(self, targets: Sequence[RelationTarget]) -> RelationTarget:
        """Keep the relations of more than half of the annotators, between the regions of the newest.

        The newest decides on exactly half.
        """
        if len(targets) == 1:
            return targets[0]
        newest = targets[-1]
        votes: Counter[Link] = Counter()
        for target in targets:
            same = self.same_regions(target.regions, newest.regions)
            votes.update(
                (same[first], same[second], label)
                for first, second, label in target.links
                if first in same and second in same
            )
        half = len(targets) / 2
        kept = {link for link, count in votes.items() if count > half or (count == half and link in newest.links)}
        unknown = {*newest.unknown} - {(first, second) for first, second, _ in kept}
        return RelationTarget(newest.regions, tuple(sorted(kept)), tuple(sorted(unknown)))

    @property
    def is_silent_until_taught(self) -> bool:
        """Return True: only annotations show what is related."""
        return True

    def may_be_unused(self, target: RelationTarget) -> bool:
        """Return whether nothing is related."""
        return not target.links

    def class_of(self, target: RelationTarget) -> tuple[int, ...]:
        """Return the labels of the relations of the task."""
        return tuple(sorted({label for _, _, label in target.links}))

    def _places(
        self, regions: Sequence[Region], data: TaskData, faults: list[str]
    ) -> list[tuple[str, RelatedRegion]]:
        """The id and the place of each region of `marks`. Adds to `faults` why there are no more."""
        by_name = {name: marks for marks in self.marks for name in marks.names}
        by_id: dict[str, list[Region]] = {}
        for number, region in enumerate(regions):
            id_ = region.get("id")
            if region.get("from_name") in by_name:
                by_id.setdefault(id_ if isinstance(id_, str) else f" {number}", []).append(region)
        places: list[tuple[str, RelatedRegion]] = []
        if not by_id:
            return places
        place_of = self.places_in(data)
        for id_, parts in by_id.items():
            try:
                label = by_name[parts[0]["from_name"]].label_of(parts)
                places.append((id_, place_of(parts, label)))
            except MissingTargetError as error:
                faults.append(f"region {shown(id_)}: {error}")
        return places

    def _pairs_of(self, item: Region, indices: Mapping[str, int]) -> list[tuple[int, int]]:
        """The pairs of regions, from the first to the second, that a relation joins: two if it goes both ways.

        Raises:
            MissingTargetError: it is no relation between two regions that can be used.
        """
        ends = []
        for key in ("from_id", "to_id"):
            id_ = item.get(key)
            if not isinstance(id_, str) or id_ not in indices:
                names = ", ".join(repr(marks.names[0]) for marks in self.marks)
                raise MissingTargetError(f"a relation names the region {shown(id_)}, which is none of {names}")
            ends.append(indices[id_])
        first, second = ends
        if first == second:
            raise MissingTargetError(f"a relation joins the region {shown(item['from_id'])} with itself")
        directed = {RIGHT: [(first, second)], LEFT: [(second, first)], BOTH: [(first, second), (second, first)]}
        direction = item.get("direction", RIGHT)
        if not isinstance(direction, str) or direction not in directed:
            raise MissingTargetError(
                f"a relation has the direction {shown(direction)}, expected one of {[*directed]}"
            )
        return directed[direction]

    def _labels_of(self, item: Region) -> tuple[list[int], list[str]]:
        """The labels of a relation, as indices, and why others cannot be used."""
        if not self.labels:
            return [UNLABELLED], []
        names = item.get("labels")
        if names is None or names == []:
            return [], ["a relation has no label"]
        if not isinstance(names, list):
            return [], [f"a relation has the labels {shown(names)}, expected a list"]
        return known_labels(self.labels, names, f"<{RELATIONS}>")


def _marks(served: Sequence[tuple[ControlTag, Problem | None]]) -> tuple[Marks, ...]:
    """What marks regions, by the largest groups of control tags, as bindings are chosen."""
    tags = {control.name: control for control, _ in served}
    marks, taken, count = list[Marks](), set[str](), 0
    bindings = [binding for _, binding in served if binding is not None]
    for binding in sorted(bindings, key=lambda binding: -len(binding.claims)):
        if taken.isdisjoint(binding.claims):
            taken |= {*binding.claims}
            control = tags[binding.from_name]
            has_bare = len(binding.claims) > 1 or not control.labels
            marks.append(Marks(binding.claims, control.tag.lower(), control.labels, has_bare, count))
            count += len(marks[-1].label_names)
    return tuple(marks)


def _as_written(links: Collection[Link]) -> list[tuple[int, int, str, list[int]]]:
    """The relations as the editor keeps them: one from one region to another, with its direction and all labels.

    The labels that two regions have both ways are one relation in both directions, and those of one way only
    another one, which is written from the other end. Where there are labels of one way only for each of the two
    ways, each way is a relation with all its labels.
    """
    labels_of: dict[tuple[int, int], set[int]] = {}
    for first, second, label in links:
        labels_of.setdefault((first, second), set()).add(label)
    relations = []
    for first, second in {(min(pair), max(pair)) for pair in labels_of}:
        there, back = labels_of.get((first, second), set()), labels_of.get((second, first), set())
        both = there & back if there <= back or back <= there else set()
        relations += [
            (first, second, BOTH, sorted(both)),
            (second, first, LEFT, sorted(there - both)) if both else (first, second, RIGHT, sorted(there)),
            (second, first, RIGHT, sorted(back - both)),
        ]
    return sorted(relation for relation in relations if relation[3])
