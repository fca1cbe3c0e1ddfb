"""A project's rules, bound to its label config: which labels, regions and texts of a prediction they remove.

Rules only remove. They are applied in this order: what a field of the task forbids, what is too small, texts that
do not match, labels that lack another, and all but the likeliest of labels that exclude each other. Then, until
nothing changes any more, labels that lack another once more.

Rules are about the whole task. Only labels of control tags with `perRegion` exclude each other region by region.
"""

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from lorabel.labeling.region_sizes import size_in
from lorabel.labeling.regions import Region, is_relation
from lorabel.labeling.rule_file import compile_pattern
from lorabel.labeling.task_fields import field_text

LABELLED = ("choices", "taxonomy")
BELOW = " / "
# RE2 takes longer the longer a text is.
LONGEST_MATCHED = 10_000

TagLabel = tuple[str, str]
"""A control tag and a label. A label of a taxonomy is its path: `animal / cat`."""


def named_by(label: TagLabel, is_path: bool) -> frozenset[TagLabel]:
    """A label, and those above it in a taxonomy.

    Args:
        is_path: whether it is the label of a taxonomy. Others may have BELOW in their names.
    """
    tag, name = label
    if not is_path:
        return frozenset((label,))
    parts = name.split(BELOW)
    return frozenset((tag, BELOW.join(parts[: end + 1])) for end in range(len(parts)))


@dataclass(frozen=True)
class Removal:
    """What a rule has removed from a prediction.

    Attributes:
        rule: name of the rule.
        from_name: the control tag.
        what: the label; else the text, or the type of the region.
        is_text: whether `what` is a text that was predicted, which may be private.
        why: for people.
    """

    rule: str
    from_name: str
    what: str
    is_text: bool
    why: str


@dataclass(frozen=True)
class Statement:
    """What can be removed of a prediction: a label of a region, a text, or a region that has neither.

    Attributes:
        region: index of its region.
        id: of the region, which regions of other control tags about the same thing have, too; None for none.
        label: None for a text, or a region without label.
        text: None for what is no text.
        score: of the label.
        has_place: whether the region itself is a place, which nothing is said about without its labels.
        is_path: whether the label is a path in a taxonomy.
    """

    region: int
    id: str | None
    from_name: str
    label: str | None
    text: str | None
    score: float
    has_place: bool
    is_path: bool

    @property
    def value(self) -> str | None:
        """The label or the text."""
        return self.text if self.label is None else self.label

    @cached_property
    def named(self) -> frozenset[TagLabel]:
        """What is named: the label, and those above it in a taxonomy."""
        if self.label is None:
            return frozenset()
        return named_by((self.from_name, self.label), self.is_path)


@dataclass(frozen=True)
class BoundFieldRule:
    """See `lorabel.labeling.rule_file.FieldRule`."""

    name: str
    field: str
    values: frozenset[str]
    allowed: frozenset[TagLabel]
    forbidden: frozenset[TagLabel]

    def apply(self, left: "Left", data: Any) -> None:
        """Remove what the rule forbids in a task with this data."""
        value = field_text(data, self.field)
        if value is None or value not in self.values:
            return
        tags = {tag for tag, _ in self.allowed}
        why = f"{self.field} is {value!r}"
        for number, statement in left.numbered():
            if statement.label is None:
                continue
            is_allowed = statement.from_name not in tags or not statement.named.isdisjoint(self.allowed)
            if not is_allowed or not statement.named.isdisjoint(self.forbidden):
                left.remove(number, self.name, why)


@dataclass(frozen=True)
class BoundMinimumSize:
    """See `lorabel.labeling.rule_file.MinimumSize`. Regions of `tags` are measured, in each unit of `sizes`."""

    name: str
    tags: frozenset[str]
    labels: frozenset[TagLabel] | None
    sizes: Mapping[str, float]

    def apply(self, left: "Left", data: Any) -> None:
        """Remove what the rule forbids in a task with this data."""
        for number, statement in left.numbered():
            is_meant = self.labels is None or not statement.named.isdisjoint(self.labels)
            if statement.from_name in self.tags and is_meant:
                reason = self._why_too_small(left.regions[statement.region])
                if reason is not None:
                    left.remove(number, self.name, reason)

    def _why_too_small(self, region: Region) -> str | None:
        for unit, least in self.sizes.items():
            size = size_in(region, unit)
            if size is not None and size < least:
                return f"{unit} is {size:.4g}, and not at least {least:.4g}"
        return None


@dataclass(frozen=True)
class BoundPattern:
    """See `lorabel.labeling.rule_file.Pattern`."""

    name: str
    tag: str
    matches: str

    def apply(self, left: "Left", data: Any) -> None:
        """Remove what the rule forbids in a task with this data."""
        pattern = compile_pattern(self.matches)
        for number, statement in left.numbered():
            if statement.from_name != self.tag or statement.text is None:
                continue
            if len(statement.text) > LONGEST_MATCHED:
                left.remove(number, self.name, f"it has more than {LONGEST_MATCHED} characters")
            elif pattern.fullmatch(statement.text) is None:
                left.remove(number, self.name, f"it does not match {self.matches}")


@dataclass(frozen=True)
class BoundNeeds:
    """See `lorabel.labeling.rule_file.Needs`."""

    name: str
    label: TagLabel
    needs: TagLabel

    def apply(self, left: "Left", data: Any) -> None:
        """Remove what the rule forbids in a task with this data."""
        if left.names(self.needs):
            return
        for number, statement in left.numbered():
            if self.label in statement.named:
                left.remove(number, self.name, f"there is no {self.needs[1]!r}")


@dataclass(frozen=True)
class BoundExclusive:
    """See `lorabel.labeling.rule_file.Exclusive`. `is_per_region`: the labels are answers about regions."""

    name: str
    labels: tuple[TagLabel, ...]
    is_per_region: bool

    def apply(self, left: "Left", data: Any) -> None:
        """Remove what the rule forbids in a task with this data."""
        groups: defaultdict[str | None, list[tuple[int, Statement]]] = defaultdict(list)
        for number, statement in left.numbered():
            if not statement.named.isdisjoint(self.labels):
                groups[statement.id if self.is_per_region else None].append((number, statement))
        for group in groups.values():
            best = self._likeliest([statement for _, statement in group])
            for number, statement in group:
                if best not in statement.named:
                    left.remove(number, self.name, f"{best[1]!r} is likelier")

    def _likeliest(self, group: Sequence[Statement]) -> TagLabel:
        def score_of(label: TagLabel) -> float:
            return max((statement.score for statement in group if label in statement.named), default=-1.0)

        return max(self.labels, key=score_of)


BoundRule = BoundFieldRule | BoundMinimumSize | BoundPattern | BoundNeeds | BoundExclusive


class Left:
    """What is left of a prediction, and what was removed.

    Attributes:
        regions: all regions as they were predicted.
    """

    def __init__(self, regions: Sequence[Region], statements: Iterable[Statement]) -> None:
        self.regions = regions
        self.removals: list[Removal] = []
        self._by_number = dict(enumerate(statements))
        self._numbers: defaultdict[int, list[int]] = defaultdict(list)
        self._regions_by_id: defaultdict[str | None, set[int]] = defaultdict(set)
        for number, statement in self._by_number.items():
            self._numbers[statement.region].append(number)
            self._regions_by_id[statement.id].add(statement.region)

    def numbered(self) -> list[tuple[int, Statement]]:
        """The statements that are left, by their numbers."""
        return list(self._by_number.items())

    def names(self, label: TagLabel) -> bool:
        """Whether a label is left."""
        return any(label in statement.named for statement in self._by_number.values())

    def remove(self, number: int, rule: str, why: str) -> None:
        """Remove a statement. If nothing labels a place any more, all that is said about the place goes, too."""
        statement = self._by_number.pop(number, None)
        if statement is None:
            return
        what = statement.label or statement.text or str(self.regions[statement.region].get("type"))
        is_text = statement.label is None and statement.text is not None
        self.removals.append(Removal(rule, statement.from_name, what, is_text, why))
        if statement.has_place and statement.id is not None and not self._of_region(statement.region):
            for region in self._regions_by_id[statement.id]:
                for other in self._of_region(region):
                    del self._by_number[other]

    def region(self, index: int) -> Region | None:
        """A region as it is left; None if nothing of it is left."""
        region, numbers = self.regions[index], self._numbers.get(index)
        if numbers is None:
            return region
        left = self._of_region(index)
        if not left or len(left) == len(numbers):
            return region if left else None
        kept = {self._by_number[number].value for number in left}
        values = [value for value in _values(region) if _shown(value) in kept]
        return {**region, "value": {**region["value"], _key(region): values}}

    def _of_region(self, index: int) -> list[int]:
        return [number for number in self._numbers[index] if number in self._by_number]


@dataclass(frozen=True)
class BoundRules:
    """The rules of a project, bound to its label config.

    Attributes:
        rules: in the order in which they are applied.
        faults: why rules of the project are not applied: the label config was changed since they were set.
    """

    rules: tuple[BoundRule, ...] = ()
    faults: tuple[str, ...] = ()

    def apply(
        self,
        regions: Sequence[Region],
        data: Any,
        per_region: Collection[str],
        score_of: Callable[[Region, str], float],
    ) -> tuple[list[Region | None], list[Removal]]:
        """Remove what the rules forbid.

        Args:
            regions: of the whole prediction; relations are left alone.
            data: of the task.
            per_region: names of the control tags with `perRegion`.
            score_of: how likely a region's label is.

        Returns:
            Each region as it is left, or None if nothing of it is, and what was removed by which rule.
        """
        statements = [
            statement
            for index, region in enumerate(regions)
            for statement in _statements(index, region, region.get("from_name") in per_region, score_of)
        ]
        left = Left(regions, statements)
        for rule in self.rules:
            rule.apply(left, data)
        count = -1
        while count != len(left.removals):
            count = len(left.removals)
            for rule in self.rules:
                if isinstance(rule, BoundNeeds):
                    rule.apply(left, data)
        return [left.region(index) for index in range(len(regions))], left.removals


NO_RULES = BoundRules()


def _statements(
    index: int, region: Region, is_about_region: bool, score_of: Callable[[Region, str], float]
) -> list[Statement]:
    value, id_ = region.get("value"), region.get("id")
    if is_relation(region) or not isinstance(value, Mapping):
        return []
    has_place = not is_about_region and not {"x", "points", "rle", "start", "ranges", "sequence"}.isdisjoint(value)
    from_name = str(region.get("from_name"))

    def statement(label: str | None, text: str | None) -> Statement:
        score = 0.0 if label is None else score_of(region, label)
        id_text, is_path = id_ if isinstance(id_, str) else None, region.get("type") == "taxonomy"
        return Statement(index, id_text, from_name, label, text, score, has_place, is_path)

    values = [_shown(item) for item in _values(region)]
    if region.get("type") == "textarea":
        return [statement(None, text) for text in values] or [statement(None, None)]
    return [statement(label, None) for label in values] or [statement(None, None)]


def _key(region: Region) -> str:
    """The key of a region's labels or texts in its value."""
    kind = str(region.get("type"))
    return {"textarea": "text", "videorectangle": "labels"}.get(kind, kind)


def _values(region: Region) -> list[Any]:
    kind = str(region.get("type"))
    is_listed = kind in (*LABELLED, "textarea", "videorectangle") or kind.endswith("labels")
    values = region["value"].get(_key(region)) if is_listed else None
    return values if isinstance(values, list) else [values] if isinstance(values, str) else []


def _shown(value: Any) -> str:
    """A label or a text of a region's value; of a taxonomy its path."""
    return BELOW.join(map(str, value)) if isinstance(value, list) else str(value)
