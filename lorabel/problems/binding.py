"""A label config -> bindings: which problem serves which control tag, and why the rest is not served."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import lorabel.problems
from lorabel.discovery import discover
from lorabel.errors import LabelConfigError, UnservedError
from lorabel.labeling.label_config import ControlTag, LabelConfig, parse
from lorabel.problems.base import SERVED_CONDITIONS, UNSERVED, Problem

_binding = threading.Lock()


@dataclass(frozen=True)
class Unclaimed:
    """A control tag that no problem serves, and why."""

    control: ControlTag
    reason: str


@dataclass(frozen=True)
class BoundConfig:
    config: LabelConfig
    bindings: tuple[Problem, ...]
    unclaimed: tuple[Unclaimed, ...]


def bind(label_config: str) -> BoundConfig:
    """Kept by its text, and worked out by one thread while others wait for the same: it takes a tenth of a second.

    Raises:
        LabelConfigError: it cannot be read, or two problems claim one control tag.
    """
    with _binding:
        return _bind(label_config)


@lru_cache(maxsize=512)
def _bind(label_config: str) -> BoundConfig:
    config = parse(label_config)
    problems = discover(lorabel.problems, Problem)  # type: ignore[type-abstract]
    bindings: list[Problem] = []
    unclaimed: list[Unclaimed] = []
    for control in config.controls:
        claims, reasons = _claims(control, problems)
        if len(claims) > 1:
            names = ", ".join(type(claim).__name__ for claim in claims)
            raise LabelConfigError(
                f"control tag {control.name!r} ({control.tag}) is claimed by {names}; uninstall all but one"
            )
        if claims:
            bindings.append(claims[0])
        else:
            objects = ", ".join(tag.tag for tag in control.objects) or "nothing"
            reasons = reasons or [f"no problem serves {control.tag} on {objects}"]
            unclaimed.append(Unclaimed(control, "; ".join(reasons)))
    return BoundConfig(config, tuple(bindings), tuple(unclaimed))


def _unserved(control: ControlTag) -> str | None:
    """Why nobody can serve the tag, whatever its kind; None if somebody may."""
    for name, why in UNSERVED.items():
        if control.attributes.get(name, "false").lower() == "true":
            return f"{name}: {why}"
    strange = [one.kind for one in control.conditions if one.kind not in SERVED_CONDITIONS]
    return f"visibleWhen={strange[0]!r}: it depends on what a person selects" if strange else None


def _claims(control: ControlTag, problems: Sequence[type[Problem]]) -> tuple[list[Problem], list[str]]:
    claims: list[Problem] = []
    reasons: list[str] = []
    unserved = _unserved(control)
    if unserved:
        return [], [unserved]
    for problem in problems:
        try:
            binding = problem.match(control)
        except UnservedError as error:
            reasons.append(str(error))
        else:
            claims += [] if binding is None else [binding]
    return claims, reasons
