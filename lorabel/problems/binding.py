"""Binds a label config: decides which problem serves each control tag, and why the other tags are not served."""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from types import MappingProxyType

import lorabel.problems
from lorabel.discovery import discover
from lorabel.errors import LabelConfigError, UnservedError, cut
from lorabel.labeling.explanation_regions import kind_of
from lorabel.labeling.label_config import REGION_SELECTED, RELATIONS, ControlTag, LabelConfig, parse
from lorabel.problems.base import Problem
from lorabel.problems.instructions import asking

# Attribute -> why no problem serves a control tag that sets it to true.
UNSERVED_ATTRIBUTES: Mapping[str, str] = MappingProxyType({"perItem": "it asks about each item of a list"})
PER_REGION = "perRegion: it asks about each region that a person draws"
BETWEEN_REGIONS = "no spans, boxes or lines of text are predicted that relations could be between"
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
        unclaimed: the other control tags; they are left to people, or are for explanations.
    """

    config: LabelConfig
    bindings: tuple[Problem, ...]
    unclaimed: tuple[Unclaimed, ...]

    def for_project(self, extra_params: object) -> "BoundConfig":
        """Return the label config with each binding as a project's extra params change it.

        Args:
            extra_params: as the database has them: a JSON object, or None.
        """
        extra = extra_params if isinstance(extra_params, dict) else {}
        controls = {control.name: control for control in self.config.controls}
        bindings = (
            replace(binding.for_project(extra), asking=asking(controls[binding.from_name], extra))
            for binding in self.bindings
        )
        return replace(self, bindings=tuple(bindings))


def bind(label_config: str) -> BoundConfig:
    """Find a problem for each control tag of a label config (XML).

    Thread-safe. Results are cached by text. Only one thread binds at a time, while others wait: several requests
    with the same new label config then bind it once.

    Raises:
        LabelConfigError: the label config cannot be parsed, or two problems claim the same control tag.
        PluginError: a problem cannot be imported, see `lorabel.discovery`.
    """
    with _bind_lock:
        return _bind(label_config)


@cache
def problem_types() -> tuple[type[Problem], ...]:
    """Return every problem that is installed.

    The result is cached: reading entry points takes tens of milliseconds, and every new label config needs it.

    Raises:
        PluginError: a problem cannot be imported, see `lorabel.discovery`.
    """
    return discover(lorabel.problems, Problem)  # type: ignore[type-abstract]


@lru_cache(maxsize=512)
def _bind(label_config: str) -> BoundConfig:
    config = parse(label_config)
    claims = {control.name: _claims(control, problem_types()) for control in config.controls}
    bindings = _without_overlaps({control.name: claims[control.name][0] for control in config.controls})
    owners = {name: binding.from_name for binding in bindings.values() for name in binding.claims}
    unclaimed = [
        Unclaimed(control, _reason(control, *claims[control.name], owners))
        for control in config.controls
        if control.name not in owners
    ]
    unclaimed += [Unclaimed(control, _reason_of_explanation(control)) for control in config.explanations]
    in_order = tuple(bindings[control.name] for control in config.controls if control.name in bindings)
    return BoundConfig(config, in_order, tuple(unclaimed))


def _without_overlaps(claims: Mapping[str, Sequence[Problem]]) -> dict[str, Problem]:
    """Choose bindings so that no control tag is in two of them: the largest groups first, then the first ones.

    Args:
        claims: from_name -> the bindings of all problems that serve the control tag, in the label config's order.

    Returns:
        By from_name.
    """
    chosen: dict[str, Problem] = {}
    taken: set[str] = set()
    candidates = [binding for of_tag in claims.values() for binding in of_tag]
    for binding in sorted(candidates, key=lambda binding: -len(binding.claims)):
        if not taken.isdisjoint(binding.claims):
            continue
        _refuse_rivals(binding, claims[binding.from_name])
        chosen[binding.from_name] = binding
        taken |= {*binding.claims}
    return chosen


def _refuse_rivals(binding: Problem, claims: Sequence[Problem]) -> None:
    rivals = [each for each in claims if len(each.claims) == len(binding.claims)]
    if len(rivals) > 1:
        names = ", ".join(type(rival).__name__ for rival in rivals)
        raise LabelConfigError(f"control tag {binding.from_name!r} is claimed by {names}; uninstall all but one")


def _reason(
    control: ControlTag, claims: Sequence[Problem], reasons: Sequence[str], owners: Mapping[str, str]
) -> str:
    """Why a control tag is left to people.

    Args:
        claims: bindings that would serve it if other bindings had not taken control tags of their groups.
        reasons: of the problems that refuse it.
        owners: name of a control tag that is served -> `from_name` of its binding.
    """
    taken = {name: owners[name] for claim in claims for name in claim.claims if name in owners}
    overlaps = [f"{name!r} is already served together with {owner!r}" for name, owner in taken.items()]
    objects = ", ".join(tag.tag for tag in control.objects) or "nothing"
    return cut("; ".join([*overlaps, *reasons] or [f"no problem serves {control.tag} on {objects}"]))


def _reason_of_explanation(control: ControlTag) -> str:
    """Why a control tag for explanations is not served as others are."""
    try:
        kind = kind_of(control)
    except UnservedError as error:
        return cut(str(error))
    return f"for explanations, which Lorabel writes there if EXPLAIN_IN has {kind!r}"


def _unserved_reason(control: ControlTag) -> str | None:
    """Return why no problem can serve the control tag, whatever its kind; None if a problem may serve it."""
    for attribute, reason in UNSERVED_ATTRIBUTES.items():
        if control.attributes.get(attribute, "false").lower() == "true":
            return f"{attribute}: {reason}"
    if control.is_repeated:
        return "Repeater: it is asked once for each item of a list"
    served = (*SERVED_CONDITIONS, REGION_SELECTED) if control.is_per_region else SERVED_CONDITIONS
    for condition in control.conditions:
        if condition.kind not in served:
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
        if problem.is_per_region is not control.is_per_region:
            continue
        try:
            binding = problem.match(control)
        except UnservedError as error:
            reasons.append(str(error))
        else:
            claims += [] if binding is None else [binding]
    if control.is_per_region and not claims and not reasons:
        reasons = [BETWEEN_REGIONS if control.tag == RELATIONS else PER_REGION]
    return claims, reasons
