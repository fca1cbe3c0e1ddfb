"""`visibleWhen`: which control tags Label Studio shows, given the answers to the others.

The rules are those of Label Studio 1.23.2's editor (https://labelstud.io/tags/choices, visibleWhen). Nothing is
predicted for a hidden control tag, since the annotator could neither see nor correct it.

A control tag with `perRegion` is shown beside the region that is selected. So its conditions are about that
region: about its labels, and about the answers of other such tags to it.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from lorabel.labeling.label_config import REGION_SELECTED, Condition, ControlTag, LabelConfig, find_exact_label
from lorabel.labeling.regions import Region


def regions_shown_to(config: LabelConfig, from_name: str, result: Sequence[Region]) -> list[Region]:
    """Return a result without the regions beside which a control tag with `perRegion` is not shown.

    Args:
        from_name: of that control tag.
    """
    control = next(control for control in config.controls if control.name == from_name)
    if not control.conditions:
        return list(result)
    per_region = {control.name for control in config.controls if control.is_per_region}
    by_id: dict[str | None, list[Region]] = defaultdict(list)
    for region in result:
        by_id[_id(region)].append(region)
    places = {id_ for id_, of_id in by_id.items() if id_ is not None and any(map(_has_place, of_id))}
    about_task = [
        region
        for region in result
        if _id(region) not in places and not _has_place(region) and region.get("from_name") not in per_region
    ]

    def is_shown(id_: str) -> bool:
        answers: dict[str, list[Region]] = {control.name: [] for control in config.controls}
        for region in (*about_task, *by_id[id_]):
            answers.get(region.get("from_name", ""), []).append(region)
        return from_name in shown_controls(config, answers)

    hidden = {id_ for id_ in places if not is_shown(id_)}
    return [region for region in result if _id(region) not in hidden]


def _id(region: Region) -> str | None:
    id_ = region.get("id")
    return id_ if isinstance(id_, str) else None


def _has_place(region: Region) -> bool:
    value = region.get("value")
    return isinstance(value, Mapping) and not {"x", "points", "start"}.isdisjoint(value)


def shown_controls(config: LabelConfig, answers: Mapping[str, Sequence[Region]]) -> frozenset[str]:
    """Names of the answered control tags that are shown: those whose conditions all hold.

    The answer of a hidden control tag does not count in the conditions of others.

    Args:
        answers: the regions of each control tag, by its name.
    """
    controls = {control.name: control for control in config.controls}
    if not any(control.conditions for control in config.controls):
        return frozenset(answers) & controls.keys()
    shown, shown_before = frozenset(answers), None
    while shown != shown_before:
        shown_before = shown
        chosen = {name: _chosen(controls[name], answers[name]) for name in shown if name in controls}
        shown &= {
            control.name
            for control in config.controls
            if all(
                _is_selected(condition, answers)
                if condition.kind == REGION_SELECTED
                else _holds(condition, chosen, controls)
                for condition in control.conditions
            )
        }
    return shown


def _is_selected(condition: Condition, answers: Mapping[str, Sequence[Region]]) -> bool:
    """Whether a region is selected that was labelled by the condition's tag, with one of its labels.

    Args:
        answers: those of one region, which counts as selected.
    """
    labels = [
        label
        for name, regions in answers.items()
        if condition.tag in (None, name)
        for region in regions
        for label in _labels_of(region)
    ]
    if condition.values:
        return not set(condition.values).isdisjoint(labels)
    return condition.tag is None or bool(labels)


def _labels_of(region: Region) -> list[str]:
    value, kind = region.get("value"), region.get("type")
    if not isinstance(value, Mapping) or not isinstance(kind, str) or not kind.endswith("labels"):
        return []
    return [label for label in _list(value.get(kind)) if isinstance(label, str)]


def _holds(condition: Condition, chosen: Mapping[str, frozenset[str]], controls: Mapping[str, ControlTag]) -> bool:
    """Whether a condition holds. A condition that names no tag holds for any choice in any Choices."""
    if condition.tag is None:
        is_selected = any(names for tag, names in chosen.items() if controls[tag].tag == "Choices")
    else:
        names = chosen.get(condition.tag, frozenset())
        wanted = {_name(controls[condition.tag], value) for value in condition.values} if names else set()
        is_selected = bool(names & wanted) if condition.values else bool(names)
    return is_selected != (condition.kind == "choice-unselected")


def _chosen(control: ControlTag, regions: Sequence[Region]) -> frozenset[str]:
    """The chosen labels by their names in results; of a path in a taxonomy, the label that it ends at.

    Label Studio imports values without checking them. Null, or a value of an unexpected type, has none.
    """
    values = [region.get("value") for region in regions]
    fields = [value for value in values if isinstance(value, Mapping)]
    choices = [name for value in fields for name in _list(value.get("choices"))]
    ends = [path[-1] for value in fields for path in _list(value.get("taxonomy")) if _list(path)]
    return frozenset(_name(control, name) for name in (*choices, *ends) if isinstance(name, str))


def _name(control: ControlTag, name: str) -> str:
    """A label's name in results, given that name or its title. The editor does not ignore the case of letters."""
    index = find_exact_label(control.labels, name)
    return name if index is None else control.labels[index].value


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
