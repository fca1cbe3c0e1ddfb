"""Binds a label config: decides which problem serves each control tag, and why the other tags are not served."""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType

import lorabel.problems
from lorabel.discovery import discover
from lorabel.errors import LabelConfigError, UnservedError, cut
from lorabel.labeling.label_config import ControlTag, LabelConfig, parse
from lorabel.problems.base import Problem

# Attribute -> why no problem serves a control tag that sets it to true.
UNSERVED_ATTRIBUTES: Mapping[str, str] = MappingProxyType(
    {"perRegion": "it asks about each region that a person draws", "perItem": "it asks about each item of a list"}
)
# Values of visibleWhen that depend on other answers only, not on what a person selects in the editor.
SERVED_CONDITIONS = ("choice-selected", "choice-unselected")

_bind_lock = threading.Lock()


@dataclass(frozen=True)
class Unclaimed:
    """A control tag that no problem serves, with the reason."""

    control: ControlTag
    reason: str


@dataclass(frozen=True)
class BoundConfig:
    """A label config with a binding for each control tag, or group of control tags, that is served.

    Args:
        bindings: at most one per control tag, in the order of the label config. Of a group, see `Problem.claims`.
        unclaimed: the other control tags; they are left to people.
    """

    config: LabelConfig
    bindings: tuple[Problem, ...]
    unclaimed: tuple[Unclaimed, ...]


def bind(label_config: str) -> BoundConfig:
    """Find a problem for each control tag of a label config (XML).

    Thread-safe. Results are cached by text. Binding takes about 0.1 s, so only one thread binds at a time, while
    others wait: several requests with the same new label config then bind it once.

    Raises:
        LabelConfigError: the label config cannot be parsed, or two problems claim the same control tag.
        PluginError: a problem cannot be imported, see `lorabel.discovery`.
    """
    with _bind_lock:
        return _bind(label_config)


@lru_cache(maxsize=512)
def _bind(label_config: str) -> BoundConfig:
    config = parse(label_config)
    problems = discover(lorabel.problems, Problem)  # type: ignore[type-abstract]
    found = {control.name: _claims(control, problems) for control in config.controls}
    grouped: dict[str, Problem] = {}
    for control in config.controls:
        claims, _ = found[control.name]
        if (binding := _largest(control, claims)) is not None:
            for name in binding.claims:
                if name not in grouped or len(grouped[name].claims) < len(binding.claims):
                    grouped[name] = binding
    bindings = [grouped[control.name] for control in config.controls if _is_first(control, grouped)]
    unclaimed = [
        Unclaimed(control, _reason(control, found[control.name][1]))
        for control in config.controls
        if control.name not in grouped
    ]
    return BoundConfig(config, tuple(bindings), tuple(unclaimed))


def _is_first(control: ControlTag, grouped: Mapping[str, Problem]) -> bool:
    return control.name in grouped and grouped[control.name].from_name == control.name


def _largest(control: ControlTag, claims: Sequence[Problem]) -> Problem | None:
    """The binding with the largest group of control tags; None if no problem claims the tag."""
    most = max((len(claim.claims) for claim in claims), default=0)
    largest = [claim for claim in claims if len(claim.claims) == most]
    if len(largest) > 1:
        names = ", ".join(type(claim).__name__ for claim in largest)
        raise LabelConfigError(
            f"control tag {control.name!r} ({control.tag}) is claimed by {names}; uninstall all but one"
        )
    return largest[0] if largest else None


def _reason(control: ControlTag, reasons: Sequence[str]) -> str:
    objects = ", ".join(tag.tag for tag in control.objects) or "nothing"
    return cut("; ".join(reasons or [f"no problem serves {control.tag} on {objects}"]))


def _unserved_reason(control: ControlTag) -> str | None:
    """Return why no problem can serve the control tag, whatever its kind; None if a problem may serve it."""
    for attribute, reason in UNSERVED_ATTRIBUTES.items():
        if control.attributes.get(attribute, "false").lower() == "true":
            return f"{attribute}: {reason}"
    if control.is_repeated:
        return "Repeater: it is asked once for each item of a list"
    for condition in control.conditions:
        if condition.kind not in SERVED_CONDITIONS:
            return f"visibleWhen={condition.kind!r}: it depends on what a person selects"
    if control.objects and all(tag.is_static for tag in control.objects):
        tag = control.objects[0]
        return f"toName={tag.name!r}: the value {tag.value!r} names no key of the task's data"
    return None


def _claims(control: ControlTag, problems: Sequence[type[Problem]]) -> tuple[list[Problem], list[str]]:
    """Return the bindings of all problems that serve the tag, and the reasons of those that refuse it."""
    if reason := _unserved_reason(control):
        return [], [reason]
    claims: list[Problem] = []
    reasons: list[str] = []
    for problem in problems:
        try:
            binding = problem.match(control)
        except UnservedError as error:
            reasons.append(str(error))
        else:
            claims += [] if binding is None else [binding]
    return claims, reasons
