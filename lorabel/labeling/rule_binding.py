"""Binds the rules of a file to a label config, and says which of them do not fit it or contradict each other."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from lorabel.errors import RulesError
from lorabel.labeling.label_config import RELATIONS, ControlTag, LabelConfig, find_exact_label, path_of
from lorabel.labeling.region_sizes import units_of
from lorabel.labeling.rule_file import (
    Exclusive,
    FieldRule,
    LabelName,
    MinimumSize,
    Needs,
    Pattern,
    RuleFile,
    TaggedLabel,
)
from lorabel.labeling.rules import (
    BELOW,
    BoundExclusive,
    BoundFieldRule,
    BoundMinimumSize,
    BoundNeeds,
    BoundPattern,
    BoundRule,
    BoundRules,
    TagLabel,
    named_by,
)

MOST_NAMED = 20


def bind_rules(file: RuleFile, config: LabelConfig) -> BoundRules:
    """Bind rules to a label config. Rules that do not fit it are left out, and `faults` says why."""
    rules: list[BoundRule] = []
    faults: list[str] = []
    for kind, rule in file.in_order:
        try:
            rules.append(BINDERS[kind](rule, config))
        except RulesError as error:
            faults.append(f"[[{kind}]] ({rule.name!r}): {error}")
    return BoundRules(tuple(rules), (*faults, *_contradictions(rules, config)))


def require_fit(file: RuleFile, config: LabelConfig) -> BoundRules:
    """As `bind_rules`, for rules that people write.

    Raises:
        RulesError: rules do not fit the label config, or contradict each other; a line for each.
    """
    bound = bind_rules(file, config)
    if bound.faults:
        raise RulesError("\n".join(bound.faults))
    return bound


def _bind_exclusive(rule: Exclusive, config: LabelConfig) -> BoundExclusive:
    labels = [_find(config, label) for label in rule.labels]
    twice = [label for label, count in Counter(labels).items() if count > 1]
    if twice:
        raise RulesError(f"label {twice[0][1]!r} is named twice")
    for label in labels:
        for other in labels:
            if label != other and label in named_by(other, _is_taxonomy(config, other)):
                raise RulesError(f"label {other[1]!r} is below {label[1]!r}, so they cannot exclude each other")
    scopes = {_tag(config, tag).is_per_region for tag, _ in labels}
    if len(scopes) > 1:
        raise RulesError(
            "some of the labels are about a region (perRegion), others about the task; write a rule for each"
        )
    return BoundExclusive(rule.name, tuple(labels), scopes.pop())


def _bind_needs(rule: Needs, config: LabelConfig) -> BoundNeeds:
    label, needs = _find(config, rule.label), _find(config, rule.needs)
    if label == needs:
        raise RulesError(f"label {label[1]!r} needs itself; name another label under needs")
    return BoundNeeds(rule.name, label, needs)


def _bind_minimum_size(rule: MinimumSize, config: LabelConfig) -> BoundMinimumSize:
    labels = None if rule.labels is None else frozenset(_find(config, label, rule.tag) for label in rule.labels)
    tags = {tag for tag, _ in labels or ()}
    if rule.tag is not None:
        tags.add(_drawn_by(_tag(config, rule.tag)))
    for name in tags:
        units = units_of(_tag(config, name))
        for unit in rule.sizes:
            if unit not in units:
                known = f"has {', '.join(units)}" if units else "has no size that is known here"
                raise RulesError(f"{unit} does not fit control tag {name!r}, which {known}")
    return BoundMinimumSize(rule.name, frozenset(tags), labels, rule.sizes)


def _bind_pattern(rule: Pattern, config: LabelConfig) -> BoundPattern:
    control = _tag(config, rule.tag)
    if control.tag != "TextArea":
        raise RulesError(f"control tag {rule.tag!r} is <{control.tag}>; a pattern is for texts of a <TextArea>")
    return BoundPattern(rule.name, rule.tag, rule.matches)


def _bind_field(rule: FieldRule, config: LabelConfig) -> BoundFieldRule:
    allowed, forbidden = (
        frozenset(_find(config, label) for label in labels or ()) for labels in (rule.allowed, rule.forbidden)
    )
    return BoundFieldRule(rule.name, rule.field, frozenset(rule.values), allowed, forbidden)


BINDERS: Mapping[str, Callable[[Any, LabelConfig], BoundRule]] = MappingProxyType(
    {
        "exclusive": _bind_exclusive,
        "needs": _bind_needs,
        "minimum_size": _bind_minimum_size,
        "pattern": _bind_pattern,
        "field": _bind_field,
    }
)


def _tag(config: LabelConfig, name: str) -> ControlTag:
    for control in config.controls:
        if control.name == name and control.tag != RELATIONS:
            return control
    names = [control.name for control in config.controls if control.tag != RELATIONS]
    raise RulesError(f"the label config has no control tag {name!r}; it has {_listed(names)}")


def _find(config: LabelConfig, label: LabelName, tag: str | None = None) -> TagLabel:
    """The control tag and the name in results that are meant by a label of the file.

    Raises:
        RulesError: no label has this name, or labels of several control tags have.
    """
    name, tag = (label.label, label.tag) if isinstance(label, TaggedLabel) else (label, tag)
    controls = [control for control in config.controls if control.labels and control.tag != RELATIONS]
    if tag is not None:
        control = _tag(config, tag)
        if (index := _index(control, name)) is None:
            raise RulesError(f"control tag {tag!r} has no label {name!r}; it has {_listed(_names(control))}")
        return _drawn_by(control), _names(control)[index]
    fitting = [(control, index) for control in controls if (index := _index(control, name)) is not None]
    if not fitting:
        known = list(dict.fromkeys(name for control in controls for name in _names(control)))
        raise RulesError(f"the label config has no label {name!r}; it has {_listed(known)}")
    if len(fitting) > 1:
        tags = [control.name for control, _ in fitting]
        raise RulesError(
            f"the control tags {', '.join(map(repr, tags))} have a label {name!r}; say which is meant: "
            f'{{tag = "{tags[0]}", label = "{name}"}}'
        )
    ((control, index),) = fitting
    return _drawn_by(control), _names(control)[index]


def _drawn_by(control: ControlTag) -> str:
    """The control tag of the regions that have the labels of a control tag: of things in videos, another one."""
    boxes = [tag.name for tag in control.siblings if tag.tag == "VideoRectangle"]
    return boxes[0] if control.tag == "Labels" and boxes else control.name


def _index(control: ControlTag, name: str) -> int | None:
    """The label that is meant, by its name in results or by what annotators see; of a taxonomy by its path."""
    if control.tag != "Taxonomy":
        return find_exact_label(control.labels, name)
    paths = _names(control)
    return paths.index(name) if name in paths else None


def _is_taxonomy(config: LabelConfig, label: TagLabel) -> bool:
    return _tag(config, label[0]).tag == "Taxonomy"


def _names(control: ControlTag) -> list[str]:
    """The labels of a control tag by their names in results; those of a taxonomy by their paths."""
    if control.tag == "Taxonomy":
        return [BELOW.join(path_of(control.labels, end)) for end in range(len(control.labels))]
    return [label.value for label in control.labels]


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(map(repr, names[:MOST_NAMED])) or "none"
    return f"{shown} and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else shown


def _contradictions(rules: Sequence[BoundRule], config: LabelConfig) -> Iterator[str]:
    """Rules by which some label could never be predicted, a sentence for each."""
    needs = [rule for rule in rules if isinstance(rule, BoundNeeds)]
    for rule in needs:
        needed = _needed(rule.label, needs, config)
        named = {name for label in needed for name in named_by(label, _is_taxonomy(config, label))}
        for exclusive in (rule for rule in rules if isinstance(rule, BoundExclusive)):
            both = [label for label in exclusive.labels if label in named]
            if len(both) > 1 and not exclusive.is_per_region:
                yield (
                    f"rules {rule.name!r} and {exclusive.name!r} contradict each other: {rule.label[1]!r} could "
                    f"never be predicted, since it needs {both[-1][1]!r}, which {both[0][1]!r} excludes"
                )
        for field_rule in (rule for rule in rules if isinstance(rule, BoundFieldRule)):
            lacking = [label for label in needed if not _permits(field_rule, label, config)]
            if rule.label in field_rule.allowed and lacking:
                yield (
                    f"rules {rule.name!r} and {field_rule.name!r} contradict each other: {rule.label[1]!r} is "
                    f"allowed where {field_rule.field} is {_listed(sorted(field_rule.values))}, and needs "
                    f"{lacking[0][1]!r}, which is not"
                )
    yield from _contradicting_fields([rule for rule in rules if isinstance(rule, BoundFieldRule)], config)


def _needed(label: TagLabel, rules: Sequence[BoundNeeds], config: LabelConfig) -> list[TagLabel]:
    """A label and all that it needs, and what these need."""
    needed = [label]
    for each in needed:
        named = named_by(each, _is_taxonomy(config, each))
        needed += [rule.needs for rule in rules if rule.label in named and rule.needs not in needed]
    return needed


def _permits(rule: BoundFieldRule, label: TagLabel, config: LabelConfig) -> bool:
    """Whether a label may be predicted where the field has one of the rule's values."""
    named, tags = named_by(label, _is_taxonomy(config, label)), {tag for tag, _ in rule.allowed}
    is_allowed = label[0] not in tags or not named.isdisjoint(rule.allowed)
    return is_allowed and named.isdisjoint(rule.forbidden)


def _contradicting_fields(rules: Sequence[BoundFieldRule], config: LabelConfig) -> Iterator[str]:
    for index, rule in enumerate(rules):
        for other in rules[index + 1 :]:
            same_values = rule.values & other.values if rule.field == other.field else frozenset()
            if not same_values:
                continue
            refused = [
                label
                for first, second in ((rule, other), (other, rule))
                for label in sorted(first.allowed)
                if not named_by(label, _is_taxonomy(config, label)).isdisjoint(second.forbidden)
            ]
            words = (
                f"rules {rule.name!r} and {other.name!r} contradict each other: where {rule.field} is "
                f"{min(same_values)!r}, "
            )
            if refused:
                yield f"{words}one allows {refused[0][1]!r}, and the other forbids it"
            for tag in sorted(_tags_of(rule) & _tags_of(other)):
                allowed = [label for label in rule.allowed | other.allowed if label[0] == tag]
                if not any(_permits(rule, label, config) and _permits(other, label, config) for label in allowed):
                    yield f"{words}no label of {tag!r} is allowed by both"


def _tags_of(rule: BoundFieldRule) -> set[str]:
    """The control tags of which a rule allows only some labels."""
    return {tag for tag, _ in rule.allowed}
