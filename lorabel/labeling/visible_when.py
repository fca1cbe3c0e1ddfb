"""`visibleWhen`: which control tags Label Studio shows, given the answers to the others.

The rules are those of Label Studio 1.23.2's editor (https://labelstud.io/tags/choices, visibleWhen). Nothing is
predicted for a hidden control tag, since the annotator could neither see nor correct it.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from lorabel.labeling.label_config import Condition, LabelConfig
from lorabel.labeling.regions import Region


def shown_controls(config: LabelConfig, answers: Mapping[str, Sequence[Region]]) -> frozenset[str]:
    """Names of the answered control tags that are shown: those whose conditions all hold.

    The answer of a hidden control tag does not count in the conditions of others.

    Args:
        answers: the regions of each control tag, by its name.
    """
    shown, shown_before = frozenset(answers), None
    while shown != shown_before:
        shown_before = shown
        visible = {name: regions for name, regions in answers.items() if name in shown}
        shown &= {
            control.name
            for control in config.controls
            if all(_holds(condition, visible) for condition in control.conditions)
        }
    return shown


def _holds(condition: Condition, answers: Mapping[str, Sequence[Region]]) -> bool:
    chosen_values = {
        value
        for name, regions in answers.items()
        if condition.tag in (None, name)
        for region in regions
        for value in _values(region.get("value"))
    }
    is_selected = bool(chosen_values & set(condition.values)) if condition.values else bool(chosen_values)
    return is_selected != (condition.kind == "choice-unselected")


def _values(value: Any) -> list[str]:
    """The choices and the nodes of paths in a region's value.

    Label Studio imports values without checking them. Null, or a value of an unexpected type, has none.
    """
    fields = value if isinstance(value, Mapping) else {}
    nodes = [node for path in _list(fields.get("taxonomy")) for node in _list(path)]
    return [name for name in (*_list(fields.get("choices")), *nodes) if isinstance(name, str)]


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
