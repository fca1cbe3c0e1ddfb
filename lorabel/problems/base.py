"""A problem is what a control tag asks a model to do; each file here holds one kind of labeling.

A subclass of `Problem` is found by itself. Its instance is a frozen *binding* of one control tag: it knows
names, labels and data keys, and turns tasks into inputs, outputs into regions, annotations into targets.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar, Self

from lorabel.contracts import Contract, Input, MediaRef
from lorabel.errors import UnservedError
from lorabel.evaluation.metrics import Metrics
from lorabel.labeling.label_config import ControlTag
from lorabel.labeling.regions import Region
from lorabel.settings import Settings

TaskData = dict[str, Any]
# Attribute -> why a control tag that has it is not served.
UNSERVED: Mapping[str, str] = MappingProxyType(
    {"perRegion": "it asks about each region that a person draws", "perItem": "it asks about each item of a list"}
)
SERVED_CONDITIONS = ("choice-selected", "choice-unselected")


@dataclass(frozen=True)
class Sample:
    """An example that every test of problems and families runs: a task's data and an annotation's result for it;
    `opposite` is another result that it might have had."""

    label_config: str
    data: TaskData
    result: list[Region]
    opposite: list[Region]


@dataclass(frozen=True)
class Prediction:
    """Regions of one control tag and the model's confidence in them, in [0, 1].

    `margin`: how far they are ahead of the next best answer, in [0, 1]; None if the problem cannot say.
    """

    regions: list[Region]
    score: float
    margin: float | None = None


@dataclass(frozen=True)
class Problem(ABC):
    """
    Attributes:
        name: the file's, and what `TEMPLATE_<NAME>` in the settings goes by.
        zero_shot, learns: what is predicted before anything was learned, and what is learned from annotations; a
            sentence each for docs/problems.md.
        best_figure: the primary figure of a model that is always right.
    """

    name: ClassVar[str]
    zero_shot: ClassVar[str]
    learns: ClassVar[str]
    input_type: ClassVar[type[Input]]
    output_type: ClassVar[type[Contract]]
    SAMPLES: ClassVar[tuple[Sample, ...]]
    best_figure: ClassVar[float] = 1.0

    from_name: str
    to_name: str

    @classmethod
    @abstractmethod
    def match(cls, control: ControlTag) -> Self | None:
        """The binding, if this problem serves the control tag with its object tags; else None.

        Raises:
            UnservedError: it is this problem's kind of tag, but something about it is not served; says what.
            LabelConfigError: it contradicts itself.
        """

    @abstractmethod
    def model_input(self, data: TaskData) -> Input:
        """The model's question about a task's `data`, with media as written there (relative URLs too).

        Raises:
            UnreadableError: the data lacks what the label config names.
        """

    @abstractmethod
    def prediction(self, output: Any, data: TaskData) -> Prediction: ...

    @abstractmethod
    def target(self, result: list[Region], data: TaskData) -> Any:
        """What an annotation's result teaches; regions of other control tags are among it.

        Raises:
            MissingTargetError: nothing, with the reason.
        """

    @abstractmethod
    def perfect_output(self, target: Any) -> Contract:
        """The output of a model that is right and certain."""

    @abstractmethod
    def metrics(self, targets: Sequence[Any], outputs: Sequence[Any]) -> Metrics: ...

    def agree(self, targets: Sequence[Any]) -> Any:
        """One target of what several annotators said about one task, the newest last."""
        return targets[-1]

    def class_of(self, target: Any) -> Hashable:
        """Rare classes are replayed as often as common ones, and weigh as much in the loss."""
        return None

    def answers(self, target: Any) -> frozenset[str] | None:
        """The target in the words of the label config, to look for label errors; None if words cannot say it."""
        return None

    def distributions(self, output: Any) -> Sequence[Sequence[float]]:
        """The probabilities that the output consists of, one distribution for each set of answers that exclude
        each other. None at all: scores are not calibrated."""
        return ()

    def right_answers(self, target: Any) -> Sequence[int | None]:
        """The place in each of `distributions` of what is right; None if the target does not say."""
        return ()

    def calibrated(self, output: Any, temperature: float) -> Any:
        """The output with each of its distributions tempered: the same answers, more or less certain."""
        return output


def question(binding: Problem, data: TaskData, settings: Settings) -> Input:
    """What the model is asked, as prediction and training both ask it. Raises as `Problem.model_input`."""
    return binding.model_input(data).with_template(settings.template(binding.name))


def with_media(question: Input, resolve: Callable[[MediaRef], MediaRef]) -> Input:
    """The same question with each MediaRef put through `resolve` (relative URL -> full URL with its token)."""
    contents = tuple(
        content if content.media is None else content.model_copy(update={"media": resolve(content.media)})
        for content in question.contents
    )
    return question.model_copy(update={"contents": contents})


def refuse(control: ControlTag, attributes: Mapping[str, str]) -> None:
    """Raises UnservedError if the control tag has one of the attributes, with why that is not served."""
    for name, why in attributes.items():
        if control.attributes.get(name, "false") != "false":
            raise UnservedError(f"{name}={control.attributes[name]!r}: {why}")
