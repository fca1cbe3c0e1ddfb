"""Label config XML -> control tags and object tags. The SDK's `LabelInterface` does the parsing.

<View>
  <Image name="image" value="$image"/>
  <Choices name="label" toName="image"><Choice value="red"/><Choice value="blue" alias="b"/></Choices>
</View>
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any
from xml.etree import ElementTree

from lorabel.errors import LabelConfigError
from lorabel.labeling import config_xml
from lorabel.labeling.config_xml import Attributes
from lorabel.labeling.explanation_tags import is_explanation_tag
from lorabel.labeling.regions import DIRECTIONS, RELATION
from lorabel.labeling.right_regions import RightRegions
from lorabel.labeling.shown_value import has_variable, shown_value

# Attributes of a label that a model may read; the first that is set is used.
TEXT_ATTRIBUTES = ("prompt", "hint", "alias", "value")
# The value of `visibleWhen` that shows a control tag while a region is selected.
REGION_SELECTED = "region-selected"
# The tag of relations between regions. The editor gives it no name, and knows one of them for a task.
RELATIONS = "Relations"
# Its name here, which no tag of a label config can have by chance. Its object tags are those of the other tags.
RELATIONS_NAME = "<Relations>"


@dataclass(frozen=True)
class Label:
    """A label, a choice, or a node of a taxonomy.

    Args:
        value: its name in results: the alias if it has one, else the value.
        texts: what a model reads for it, see `_texts`.
        parent: in a taxonomy, the index of the label above; -1 at the top.
        title: what annotators see: the value, also if there is an alias.
    """

    value: str
    texts: tuple[str, ...]
    parent: int = -1
    title: str = ""


def find_label(labels: Sequence[Label], name: str, candidates: Iterable[int] | None = None) -> int | None:
    """The label that a result or a label config means by a name.

    Its name in results goes first, then its title. The case of letters is ignored only where exactly one label has
    the name then: "US" and "us" are two labels.

    Args:
        candidates: indices of the labels that may be meant; None for all.

    Returns:
        The label's index; None if there is no such label, or several that differ by case.
    """
    indices = range(len(labels)) if candidates is None else tuple(candidates)
    if (index := find_exact_label(labels, name, indices)) is not None:
        return index
    folded = name.casefold()
    matching = [i for i in indices if folded in (labels[i].value.casefold(), labels[i].title.casefold())]
    return matching[0] if len(matching) == 1 else None


def find_exact_label(labels: Sequence[Label], name: str, candidates: Iterable[int] | None = None) -> int | None:
    """The label with this name in results, else the label with this title, as the editor finds it; else None."""
    indices = range(len(labels)) if candidates is None else tuple(candidates)
    by_value = next((i for i in indices if labels[i].value == name), None)
    return next((i for i in indices if labels[i].title == name), None) if by_value is None else by_value


def above(labels: Sequence[Label], end: int) -> tuple[int, ...]:
    """Root-to-label path in a taxonomy, as indices; `end` is the last."""
    parent = labels[end].parent
    return (*(above(labels, parent) if parent >= 0 else ()), end)


def path_of(labels: Sequence[Label], end: int) -> tuple[str, ...]:
    """Root-to-label path in a taxonomy, as the values in a result of Label Studio 1.23.2."""
    return tuple(labels[index].value for index in above(labels, end))


@dataclass(frozen=True)
class ObjectTag:
    """A tag that shows something of a task, such as `<Image>`.

    Args:
        value: its attribute `value`, or `valueList` if it has one: `$image`.
        attributes: those of the label config; in what `parse` returns they are found by names in any case.
        channels: the columns that a `<TimeSeries>` shows, in their order.
    """

    name: str
    tag: str
    value: str
    attributes: Mapping[str, str] = field(default_factory=dict, hash=False)
    channels: tuple[str, ...] = ()

    @property
    def data_key(self) -> str:
        """The key in the task's data (`$image` -> `image`), where the value is a single variable."""
        return self.value.removeprefix("$")

    @property
    def is_static(self) -> bool:
        """Whether it shows the same in every task."""
        return not has_variable(self.value)

    def shown(self, data: Mapping[str, Any]) -> Any:
        """What the editor shows of a task, see `shown_value`; "" if the task has nothing of it."""
        return shown_value(self.value, data)


@dataclass(frozen=True)
class Condition:
    """`visibleWhen` of a control tag, or of a view around it (https://labelstud.io/tags/view).

    Args:
        kind: value of the attribute: `choice-selected`, `region-selected` and so on.
        tag: name of the control tag whose answer decides; None for any control tag.
        values: the condition holds if one of them is answered; empty means any answer.
    """

    kind: str
    tag: str | None
    values: tuple[str, ...]


@dataclass(frozen=True)
class ControlTag:
    """A tag that asks for an answer, such as `<Choices>`.

    `<Relations>` is one too, with the name RELATIONS_NAME and all object tags that other control tags name.

    Args:
        attributes: those of the label config; in what `parse` returns they are found by names in any case.
        labels: its labels; in a taxonomy each before the labels below it.
        objects: the object tags that `toName` names.
        context: object tags that show something of the task and that no control tag names.
        buckets: names of the buckets of a Ranker.
        conditions: the control tag is shown if all of them hold.
        is_repeated: whether it stands in a `<Repeater>`, and so is shown once for each item of a list.
        siblings: the other control tags of the label config with the same object tags, in its order. They have no
            siblings of their own here.
        header: text of the last `<Header>` before it, or else of the first one. "" if there is none, or if what
            the header shows depends on the task.
        order: its place among the control tags of the label config, from 0.
    """

    name: str
    tag: str
    attributes: Mapping[str, str] = field(hash=False)
    labels: tuple[Label, ...]
    objects: tuple[ObjectTag, ...]
    context: tuple[ObjectTag, ...] = ()
    buckets: tuple[str, ...] = ()
    conditions: tuple[Condition, ...] = ()
    is_repeated: bool = False
    siblings: tuple["ControlTag", ...] = ()
    header: str = ""
    order: int = 0

    @property
    def is_smart(self) -> bool:
        """Whether it is also a smart tool: what is drawn with it is sent to the backend at once."""
        return self.attributes.get("smart", "false").lower() == "true"

    @property
    def is_per_region(self) -> bool:
        """Whether it asks about each region, or about pairs of regions, and not about the task."""
        return self.tag == RELATIONS or self.attributes.get("perRegion", "false").lower() == "true"


@dataclass(frozen=True)
class LabelConfig:
    """A parsed label config.

    Args:
        explanations: tags that ask for no answer, see `lorabel.labeling.explanation_tags`; not among `controls`.
    """

    controls: tuple[ControlTag, ...]
    _interface: Any = field(repr=False, hash=False, compare=False)
    explanations: tuple[ControlTag, ...] = ()
    _right: RightRegions = field(default_factory=RightRegions, repr=False, hash=False, compare=False)

    @property
    def has_smart_tools(self) -> bool:
        """Whether what is drawn with some control tag is sent to the backend at once (`smart="true"`)."""
        return any(control.is_smart for control in self.controls)

    def find_region_errors(self, region: dict[str, Any]) -> list[str]:
        """Return what is wrong with a region of a result; an empty list if it fits the label config.

        The SDK checks all but the paths of a taxonomy, where it accepts any list of labels, and `<Labels>` on a
        picture, of which it expects places in a text.
        """
        if region in self._right:
            return []
        if region.get("type") == RELATION:
            return _find_relation_errors(self.controls, region)
        control = next((control for control in self.controls if control.name == region.get("from_name")), None)
        if control is not None and control.tag == "Labels" and control.objects[0].tag == "Image":
            return _find_label_errors(control, region)
        is_valid, errors = self._interface.validate_region(region, return_errors=True), []
        if isinstance(is_valid, list):
            errors = [str(error) for error in is_valid]
        elif not is_valid:
            errors = [f"region {region!r} does not fit the label config"]
        return self._right.note(region, errors or self._find_path_errors(region))

    def _find_path_errors(self, region: dict[str, Any]) -> list[str]:
        tags = (*self.controls, *self.explanations)
        control = next(control for control in tags if control.name == region["from_name"])
        if control.tag != "Taxonomy" or not control.labels:
            return []
        paths = [path_of(control.labels, end) for end in range(len(control.labels))]
        unknown_paths = [path for path in region["value"]["taxonomy"] if tuple(path) not in paths]
        return [f"{control.name!r} has no path {path!r}" for path in unknown_paths]


def _find_relation_errors(controls: Sequence[ControlTag], relation: Mapping[str, Any]) -> list[str]:
    """The errors of a relation, whichever regions it is between."""
    known = {label.value for control in controls if control.tag == RELATIONS for label in control.labels}
    errors = [f"<{RELATIONS}> has no label {name!r}" for name in relation.get("labels") or () if name not in known]
    if relation.get("direction") not in DIRECTIONS:
        errors.append(f"a relation has the direction {relation.get('direction')!r}, expected one of {DIRECTIONS}")
    return errors


def _find_label_errors(control: ControlTag, region: dict[str, Any]) -> list[str]:
    """The errors of a region of `<Labels>` on a picture."""
    names = region["value"].get("labels") or [None]
    known = {label.value for label in control.labels}
    errors = [f"{control.name!r} has no label {name!r}" for name in names if name not in known]
    if region["to_name"] not in {tag.name for tag in control.objects}:
        errors.append(f"{control.name!r} does not label {region['to_name']!r}")
    return errors


@lru_cache(maxsize=512)
def parse(xml: str) -> LabelConfig:
    """Parse a label config. The last 512 are remembered.

    Raises:
        LabelConfigError: the XML cannot be parsed, or the SDK refuses it; the message has the parser's words.
    """
    # It brings in jsonschema, faker and requests: 0.3 s, and most processes start without a label config.
    from label_studio_sdk.label_interface import LabelInterface

    try:
        root = config_xml.read(xml)
        interface = LabelInterface(ElementTree.tostring(root, encoding="unicode"))
    except Exception as error:
        raise LabelConfigError(
            f"label config cannot be read: {error}; label config begins {xml[:80]!r}"
        ) from error
    all_tags = interface.controls or ()
    control_tags = [tag for tag in all_tags if not is_explanation_tag(tag.name)]
    paths = dict(config_xml.paths(root))
    names = {tag.name for control in control_tags for tag in control.objects or ()}
    unnamed_tags = (_object(tag, paths) for tag in interface.objects or () if tag.name not in names)
    context = tuple(tag for tag in unnamed_tags if not tag.is_static and not _is_repeated(paths[tag.name]))
    headers = config_xml.headers(root)
    controls = [
        replace(_control(tag, paths, context), header=_fixed(headers.get(tag.name, "")), order=order)
        for order, tag in enumerate(control_tags)
    ]
    with_siblings = tuple(replace(control, siblings=_siblings(control, controls)) for control in controls)
    explanations = tuple(_control(tag, paths, ()) for tag in all_tags if is_explanation_tag(tag.name))
    return LabelConfig((*with_siblings, *_relations(root, with_siblings)), interface, explanations)


def _relations(root: ElementTree.Element, controls: Sequence[ControlTag]) -> Iterator[ControlTag]:
    """The tag of relations, which the SDK leaves out, with all other control tags as its siblings.

    Of several the editor takes the last. Its labels have neither an alias nor a hint.
    """
    for element in list(root.iter(RELATIONS))[-1:]:
        values = dict.fromkeys(child.get("value", "") for child in element.findall("Relation"))
        labels = tuple(Label(value, (value,), title=value) for value in values if value)
        objects = dict.fromkeys(tag for control in controls for tag in control.objects)
        yield ControlTag(
            RELATIONS_NAME,
            RELATIONS,
            Attributes(element.attrib),
            labels,
            tuple(objects),
            siblings=tuple(controls),
            order=len(controls),
        )


def _fixed(header: str) -> str:
    return "" if has_variable(header) else header


def _siblings(control: ControlTag, controls: Sequence[ControlTag]) -> tuple[ControlTag, ...]:
    return tuple(other for other in controls if other is not control and other.objects == control.objects)


def _control(
    tag: Any, paths: Mapping[str | None, Sequence[ElementTree.Element]], context: tuple[ObjectTag, ...]
) -> ControlTag:
    path = paths[tag.name]
    objects = tuple(_object(tag, paths) for tag in tag.objects or ())
    if tag.tag == "Taxonomy":
        labels = tuple(_nodes(path[-1], -1, 0))
    else:
        attributes = tag.labels_attrs or {}
        labels = tuple(
            Label(value, _texts(attributes[value].attr), title=attributes[value].attr.get("value", value))
            for value in tag.labels or ()
        )
    conditions = (*(_condition(element) for element in path if element.get("visibleWhen")), *_of_region(path[-1]))
    buckets = tuple(bucket.attrib.get("name", "") for bucket in path[-1].iter("Bucket"))
    return ControlTag(
        tag.name,
        tag.tag,
        Attributes(tag.attr or {}),
        labels,
        objects,
        context,
        buckets,
        conditions,
        _is_repeated(path),
    )


def _is_repeated(path: Sequence[ElementTree.Element]) -> bool:
    return any(element.tag == "Repeater" for element in path)


def _condition(element: ElementTree.Element) -> Condition:
    values = element.get("whenChoiceValue") or element.get("whenLabelValue") or ""
    return Condition(
        element.get("visibleWhen", ""),
        element.get("whenTagName"),
        _split(values),
    )


def _of_region(element: ElementTree.Element) -> Iterator[Condition]:
    """`whenLabelValue` of a tag with `perRegion`, which counts without `visibleWhen`, too."""
    is_per_region = element.get("perRegion", "false").lower() == "true"
    labels = element.get("whenLabelValue")
    if is_per_region and labels and element.get("visibleWhen") != REGION_SELECTED:
        yield Condition(REGION_SELECTED, None, _split(labels))


def _split(values: str) -> tuple[str, ...]:
    return tuple(value for value in values.split(",") if value)


def _object(tag: Any, paths: Mapping[str | None, Sequence[ElementTree.Element]]) -> ObjectTag:
    columns = (channel.get("column", "").strip() for channel in paths[tag.name][-1].iter("Channel"))
    channels = tuple(dict.fromkeys(column for column in columns if column))
    return ObjectTag(tag.name, tag.tag, tag.value or "", Attributes(tag.attr or {}), channels)


def _nodes(element: ElementTree.Element, parent: int, index: int) -> Iterator[Label]:
    """The choices below an element, each before the choices below it. The SDK lists them without their parents.

    Args:
        parent: index of the element's own label; -1 for the taxonomy.
        index: index of the first choice below the element.
    """
    for choice in element.findall("Choice"):
        attributes = choice.attrib
        title = attributes.get("value", "")
        yield Label(attributes.get("alias") or title, _texts(attributes), parent, title)
        below = list(_nodes(choice, index, index + 1))
        yield from below
        index += 1 + len(below)


def _texts(attributes: Mapping[str, str]) -> tuple[str, ...]:
    """What a model reads for a label, without duplicates.

    The first text is `prompt`, else `hint`, `alias` or `value`. Then come Label Studio's `predicted_values`, which
    are separated by commas (https://labelstud.io/guide/ml_create).
    """
    first = next((attributes[name] for name in TEXT_ATTRIBUTES if attributes.get(name)), "")
    others = (text.strip() for text in attributes.get("predicted_values", "").split(","))
    return tuple(dict.fromkeys([first, *(text for text in others if text)]))
