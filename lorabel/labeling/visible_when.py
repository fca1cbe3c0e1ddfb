"""`visibleWhen`: which control tags Label Studio shows, given the answers to the others.

The rules are those of Label Studio 1.23.2's editor (https://labelstud.io/tags/choices, visibleWhen). Nothing is
predicted for a hidden control tag, since the annotator could neither see nor correct it.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from lorabel.labeling.label_config import Condition, ControlTag, LabelConfig, find_exact_label
from lorabel.labeling.regions import Region


def shown_controls(config: LabelConfig, answers: Mapping[str, Sequence[Region]]) -> frozenset[str]:
    """Names of the answered control tags that are shown: those whose conditions all hold.

    The answer of a hidden control tag does not count in the conditions of others.

    Args:
        answers: the regions of each control tag, by its name.
    """
    controls = {control.name: control for control in config.controls}
    shown, shown_before = frozenset(answers), None
    while shown != shown_before:
        shown_before = shown
        chosen = {name: _chosen(controls[name], answers[name]) for name in shown if name in controls}
        shown &= {
            control.name
            for control in config.controls
            if all(_holds(condition, chosen, controls) for condition in control.conditions)
        }
    return shown


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
