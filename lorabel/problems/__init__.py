"""A problem is what a control tag asks a model to do; each file here holds one kind of labeling.

A subclass of `Problem` is found by itself. Its instance is a frozen *binding* of one control tag: it knows
names, labels and data keys, and turns tasks into inputs, outputs into regions, annotations into targets.
"""

import sys
import threading
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar, Self

from lorabel.contracts import Contract, MediaRef
from lorabel.discovery import discover
from lorabel.errors import LabelConfigError
from lorabel.label_config import ControlTag, LabelConfig, parse
from lorabel.regions import Region

TaskData = dict[str, Any]
_binding = threading.Lock()


@dataclass(frozen=True)
class Sample:
    """An example that every test of problems runs: a task's data and an annotation's result for it."""

    label_config: str
    data: TaskData
    result: list[Region]


@dataclass(frozen=True)
class Prediction:
    """Regions of one control tag and the model's confidence in them, in [0, 1]."""

    regions: list[Region]
    score: float


@dataclass(frozen=True)
class Metrics:
    """`values[primary]` decides about promotion, higher is better; the rest is for people."""

    primary: str
    values: dict[str, Any]


@dataclass(frozen=True)
class Problem(ABC):
    input_type: ClassVar[type[Contract]]
    output_type: ClassVar[type[Contract]]
    SAMPLE: ClassVar[Sample]

    from_name: str
    to_name: str

    @classmethod
    @abstractmethod
    def match(cls, control: ControlTag) -> Self | None:
        """The binding, if this problem serves the control tag with its object tags; else None."""

    @abstractmethod
    def model_input(self, data: TaskData) -> Contract:
        """The model's question about a task's `data`, with media as written there (relative URLs too).

        Raises:
            UnreadableError: the data lacks what the label config names.
        """

    @abstractmethod
    def prediction(self, output: Any) -> Prediction: ...

    @abstractmethod
    def target(self, result: list[Region]) -> Any:
        """What an annotation's result teaches.

        Raises:
            MissingTargetError: nothing, with the reason.
        """

    @abstractmethod
    def perfect_output(self, target: Any) -> Contract:
        """The output of a model that is right and certain."""

    @abstractmethod
    def metrics(self, targets: Sequence[Any], outputs: Sequence[Any]) -> Metrics: ...


def with_media(question: Contract, resolve: Any) -> Contract:
    """The same question with each MediaRef put through `resolve` (relative URL -> full URL with its token)."""
    changed = {name: resolve(value) for name, value in question if isinstance(value, MediaRef)}
    return question.model_copy(update=changed)


@dataclass(frozen=True)
class BoundConfig:
    """`unclaimed` are the control tags that no problem serves."""

    config: LabelConfig
    bindings: tuple[Problem, ...]
    unclaimed: tuple[ControlTag, ...]


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
    problems = discover(sys.modules[__name__], Problem)  # type: ignore[type-abstract]
    bindings: list[Problem] = []
    unclaimed: list[ControlTag] = []
    for control in config.controls:
        claims = [binding for problem in problems if (binding := problem.match(control)) is not None]
        if len(claims) > 1:
            names = ", ".join(type(claim).__name__ for claim in claims)
            raise LabelConfigError(
                f"control tag {control.name!r} ({control.tag}) is claimed by {names}; uninstall all but one"
            )
        if claims:
            bindings.append(claims[0])
        else:
            unclaimed.append(control)
    return BoundConfig(config, tuple(bindings), tuple(unclaimed))
