"""Label config XML -> control tags and object tags, on the SDK's `LabelInterface`.

<View>
  <Image name="image" value="$image"/>
  <Choices name="label" toName="image"><Choice value="red"/><Choice value="blue" alias="b"/></Choices>
</View>
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any
from xml.etree import ElementTree

from label_studio_sdk.label_interface import LabelInterface

from lorabel.errors import LabelConfigError

TEXT_ATTRIBUTES = ("prompt", "hint", "alias", "value")


@dataclass(frozen=True)
class Label:
    """One label, choice, or node of a taxonomy.

    Args:
        value: what stands in results: the alias, where there is one.
        texts: what a model reads, see `_texts`.
        parent: in a taxonomy, the index of the label above; -1 at the top.
    """

    value: str
    texts: tuple[str, ...]
    parent: int = -1


def above(labels: Sequence[Label], end: int) -> tuple[int, ...]:
    """In a taxonomy: the labels from the top down to that one, as indices."""
    parent = labels[end].parent
    return (*(above(labels, parent) if parent >= 0 else ()), end)


def path_of(labels: Sequence[Label], end: int) -> tuple[str, ...]:
    """The same as they stand in a result, as Label Studio 1.23.2 writes them."""
    return tuple(labels[i].value for i in above(labels, end))


@dataclass(frozen=True)
class ObjectTag:
    """`data_key` is the key in `task.data` (`$image` -> `image`)."""

    name: str
    tag: str
    data_key: str
    attributes: Mapping[str, str] = field(default_factory=dict, hash=False)


@dataclass(frozen=True)
class Condition:
    """`visibleWhen` of a control tag, or of a view around it (https://labelstud.io/tags/view).

    Args:
        kind: `choice-selected`, `region-selected` and so on.
        tag: the control tag that it looks at, None for any.
        values: one of them is enough; empty means any.
    """

    kind: str
    tag: str | None
    values: tuple[str, ...]


@dataclass(frozen=True)
class ControlTag:
    """`objects` are those that `toName` names; `context` those of the label config that show something of the task
    and that no control tag names; `buckets` the names of a Ranker's; `conditions` say when it is shown, all
    together."""

    name: str
    tag: str
    attributes: Mapping[str, str] = field(hash=False)
    labels: tuple[Label, ...]
    objects: tuple[ObjectTag, ...]
    context: tuple[ObjectTag, ...] = ()
    buckets: tuple[str, ...] = ()
    conditions: tuple[Condition, ...] = ()


@dataclass(frozen=True)
class LabelConfig:
    controls: tuple[ControlTag, ...]
    _interface: Any = field(repr=False, hash=False, compare=False)

    def find_region_errors(self, region: dict[str, Any]) -> list[str]:
        """What the SDK finds wrong with one region of a result, and paths that its taxonomy has not (the SDK takes
        any list of labels for one); an empty list if it is right."""
        is_valid, errors = self._interface.validate_region(region, return_errors=True), []
        if isinstance(is_valid, list):
            errors = [str(error) for error in is_valid]
        elif not is_valid:
            errors = [f"region {region!r} does not fit the label config"]
        return errors or self._find_path_errors(region)

    def _find_path_errors(self, region: dict[str, Any]) -> list[str]:
        control = next(one for one in self.controls if one.name == region["from_name"])
        if control.tag != "Taxonomy" or not control.labels:
            return []
        known = [path_of(control.labels, end) for end in range(len(control.labels))]
        unknown = [path for path in region["value"]["taxonomy"] if tuple(path) not in known]
        return [f"{control.name!r} has no path {path!r}" for path in unknown]


@lru_cache(maxsize=512)
def parse(xml: str) -> LabelConfig:
    """Raises LabelConfigError with the parser's own words."""
    try:
        interface = LabelInterface(xml)
    except Exception as error:
        raise LabelConfigError(
            f"label config cannot be read: {error}; label config begins {xml[:80]!r}"
        ) from error
    found = interface.controls or ()
    named = {tag.name for control in found for tag in control.objects or ()}
    # A value without $ is a text of the label config itself, the same for every task.
    shown = [tag for tag in interface.objects or () if (tag.value or "").startswith("$")]
    context = tuple(_object(tag) for tag in shown if tag.name not in named)
    paths = dict(_paths(ElementTree.fromstring(xml), ()))
    return LabelConfig(tuple(_control(tag, paths[tag.name], context) for tag in found), interface)


def _paths(
    element: ElementTree.Element, above: tuple[ElementTree.Element, ...]
) -> Iterator[tuple[str | None, tuple[ElementTree.Element, ...]]]:
    """By name, each element below those around it."""
    path = (*above, element)
    yield element.get("name"), path
    for child in element:
        yield from _paths(child, path)


def _control(tag: Any, path: tuple[ElementTree.Element, ...], context: tuple[ObjectTag, ...]) -> ControlTag:
    objects = tuple(_object(tag) for tag in tag.objects or ())
    if tag.tag == "Taxonomy":
        labels = tuple(_nodes(path[-1], -1, 0))
    else:
        attributes = tag.labels_attrs or {}
        labels = tuple(
            Label(value, _texts(attributes[value].attr)) if value in attributes else Label(value, (value,))
            for value in tag.labels or ()
        )
    conditions = tuple(_condition(element) for element in path if element.get("visibleWhen"))
    buckets = tuple(bucket.attrib.get("name", "") for bucket in path[-1].iter("Bucket"))
    return ControlTag(tag.name, tag.tag, dict(tag.attr or {}), labels, objects, context, buckets, conditions)


def _condition(element: ElementTree.Element) -> Condition:
    values = element.get("whenChoiceValue") or element.get("whenLabelValue") or ""
    wanted = tuple(value.strip() for value in values.split(",") if value.strip())
    return Condition(element.get("visibleWhen", ""), element.get("whenTagName"), wanted)


def _object(tag: Any) -> ObjectTag:
    return ObjectTag(tag.name, tag.tag, (tag.value or "").lstrip("$"), dict(tag.attr or {}))


def _nodes(element: ElementTree.Element, parent: int, index: int) -> Iterator[Label]:
    """The choices below an element, each before those below it. The SDK gives them without their parents."""
    for choice in element.findall("Choice"):
        attributes = choice.attrib
        yield Label(attributes.get("alias") or attributes.get("value", ""), _texts(attributes), parent)
        below = list(_nodes(choice, index, index + 1))
        yield from below
        index += 1 + len(below)


def _texts(attributes: Mapping[str, str]) -> tuple[str, ...]:
    """What a model reads for a label: `prompt`, else `hint`, `alias`, `value`; and what Label Studio's
    `predicted_values` name, separated by commas (https://labelstud.io/guide/ml_create)."""
    first = next((attributes[name] for name in TEXT_ATTRIBUTES if attributes.get(name)), "")
    others = (text.strip() for text in attributes.get("predicted_values", "").split(","))
    return tuple(dict.fromkeys([first, *(text for text in others if text)]))
