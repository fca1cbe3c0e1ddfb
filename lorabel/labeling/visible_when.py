"""`visibleWhen`: which control tags does Label Studio show, given what was answered in the others?

As the editor of Label Studio 1.23.2 decides it (https://labelstud.io/tags/choices, visibleWhen). What a hidden
control tag would be answered is not predicted: the annotator could neither see nor correct it.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from lorabel.labeling.label_config import Condition, LabelConfig
from lorabel.labeling.regions import Region


def shown_controls(config: LabelConfig, answers: Mapping[str, Sequence[Region]]) -> frozenset[str]:
    """Names of the control tags whose conditions hold.

    Args:
        answers: by control tag its regions. Those of a hidden tag count for nothing.
    """
    shown, before = frozenset(answers), None
    while shown != before:
        before = shown
        visible = {name: regions for name, regions in answers.items() if name in shown}
        shown &= {
            control.name
            for control in config.controls
            if all(_holds(condition, visible) for condition in control.conditions)
        }
    return shown


def _holds(condition: Condition, answers: Mapping[str, Sequence[Region]]) -> bool:
    chosen = {
        value
        for name, regions in answers.items()
        if condition.tag in (None, name)
        for region in regions
        for value in _values(region["value"])
    }
    is_selected = bool(chosen & set(condition.values)) if condition.values else bool(chosen)
    return is_selected != (condition.kind == "choice-unselected")


def _values(value: Mapping[str, Any]) -> list[str]:
    paths = value.get("taxonomy", ())
    return [*value.get("choices", ()), *(node for path in paths for node in path)]
