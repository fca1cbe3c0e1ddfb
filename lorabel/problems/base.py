"""The base class of problems. A problem is one kind of labeling, such as named entities; each has a file here.

`lorabel.problems.binding` finds every concrete subclass of `Problem` in this package and in the entry points of
other packages. An instance is a *binding*: it serves one control tag of one label config, and knows the tag's
names, labels and data keys.
"""

from abc import ABC, abstractmethod
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

from lorabel.contracts import Contract, Input
from lorabel.errors import UnservedError
from lorabel.evaluation.metrics import Metrics
from lorabel.labeling.label_config import ControlTag
from lorabel.labeling.regions import Region
from lorabel.problems.instructions import Asking

TaskData = dict[str, Any]


@dataclass(frozen=True)
class Sample:
    """An example of a problem, which the tests of all problems and families use.

    Args:
        label_config: a label config with one control tag, or with a group of them. Other problems may serve other
            control tags of it, such as those that draw the regions that the problem asks about.
        data: a task's `data`.
        result: an annotation's result for this task.
        opposite: another valid result for the same task, with another target.
        context: what a smart tool sends to ask for the result; None if there is none, and the task alone asks.
    """

    label_config: str
    data: TaskData
    result: list[Region]
    opposite: list[Region]
    context: list[Region] | None = None


@dataclass(frozen=True)
class Prediction:
    """What is predicted for one control tag of one task.

    Args:
        regions: regions as Label Studio stores them; empty if nothing is predicted.
        score: the model's confidence in the regions, in [0, 1].
        margin: how much likelier they are than the next best answer, in [0, 1]. None if the problem cannot say.
            The order of tasks for active learning uses it.
        label_scores: probability of each label, where a region has several and no score of its own.
    """

    regions: list[Region]
    score: float
    margin: float | None = None
    label_scores: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Case:
    """A predicted distribution over mutually exclusive classes, and the index of the right class.

    Args:
        label: whose scores are calibrated by themselves; None: together with all others.
    """

    distribution: tuple[float, ...]
    true_index: int
    label: str | None = None


@dataclass(frozen=True)
class Problem(ABC):
    """One kind of labeling; an instance serves one control tag. Immutable, so it may be used by several threads.

    Subclasses are frozen dataclasses that add the fields they need, such as labels and object tags.

    Attributes:
        name: the name of the module, which is also the name in `TEMPLATE_<NAME>` settings.
        zero_shot: a sentence for docs/problems.md: what is predicted before any annotation was learned.
        learns: a sentence for docs/problems.md: what is learned from annotations.
        input_type: class of what `model_input` returns.
        output_type: class of the outputs that `prediction` reads.
        SAMPLES: at least one example, see `Sample`.
        silence: for people who connect a project, if `is_silent_until_taught`: until when nothing is predicted.
        perfect_metric: value of the primary metric for a model that is always right.
        is_per_region: whether control tags with `perRegion` are served, which ask about each region of the control
            tags `asks_about`. Other problems are never asked about such control tags.
        has_offset: whether scores are calibrated with an offset beside the temperature. Each of `cases` is then
            (right, not right).
        from_name: name of the control tag.
        to_name: name of the object tag that predicted regions refer to.
        asking: of the project, see `Asking`; `BoundConfig.for_project` sets it.
    """

    name: ClassVar[str]
    zero_shot: ClassVar[str]
    learns: ClassVar[str]
    input_type: ClassVar[type[Input]]
    output_type: ClassVar[type[Contract]]
    SAMPLES: ClassVar[tuple[Sample, ...]]
    silence: ClassVar[str] = (
        "nothing is predicted until it was taught, which is right; predictions begin with the first few "
        "annotations"
    )
    perfect_metric: ClassVar[float] = 1.0
    is_per_region: ClassVar[bool] = False
    has_offset: ClassVar[bool] = False

    from_name: str
    to_name: str
    asking: Asking = field(default=Asking(), kw_only=True)

    @classmethod
    @abstractmethod
    def match(cls, control: ControlTag) -> Self | None:
        """Return a binding if this problem serves the control tag with its object tags, else None.

        Raises:
            UnservedError: the tag is of this problem's kind, but it has a property that is not served. The message
                names the property.
            LabelConfigError: the attributes of the tag are invalid.
        """

    @abstractmethod
    def model_input(self, data: TaskData) -> Input:
        """Return the question for the model about a task's `data`.

        URLs of media stay as they are in the data, relative ones too; `with_resolved_media` completes them.

        Raises:
            UnreadableError: the data lacks a key that the label config names, or its value cannot be used.
        """

    @abstractmethod
    def prediction(self, output: Any, data: TaskData) -> Prediction:
        """Convert the model's output for a task into regions and a score.

        Args:
            output: an instance of `output_type`.
            data: the task's `data`, as it was given to `model_input`.
        """

    @abstractmethod
    def target(self, result: list[Region], data: TaskData) -> Any:
        """Return the target that an annotation's result contains, such as a `LabelTarget`.

        Args:
            result: all regions of the annotation, those of other control tags included.
            data: the `data` of the annotated task.

        Raises:
            MissingTargetError: the result has no valid answer for this control tag. The message says why.
        """

    @abstractmethod
    def perfect_output(self, target: Any) -> Contract:
        """Return the output of a model that gives the target with full confidence."""

    @abstractmethod
    def metrics(self, targets: Sequence[Any], outputs: Sequence[Any]) -> Metrics:
        """Score outputs against targets; one of each per task, in the same order.

        The primary metric decides whether a new version is promoted. An output without an answer must not score
        better than a wrong answer.
        """

    def value(self, target: Any, output: Any) -> float:
        """Return the primary metric of a single task."""
        metrics = self.metrics([target], [output])
        return float(metrics.values[metrics.primary])

    def written(self, question: Any, data: TaskData) -> Input | None:
        """Return the question as a model that writes is asked; None if it cannot be asked so, as by default.

        The output is the same class, so all other methods stay as they are.

        Args:
            question: of `model_input` about the task.
            data: the task's `data`.
        """
        return None

    def prompted(self, question: Input, context: Sequence[Region]) -> Input | None:
        """Return the question that a smart tool asks; None if the context is of no smart tool of this binding.

        By default there is none: a smart tool then gets what any request for a prediction gets.

        Args:
            question: of `model_input` about the task.
            context: `params.context.result` of Label Studio: what the annotator has drawn and not yet accepted,
                with the newest region last, which is of a control tag of `claims`. The editor sends regions of one
                control tag and one label.

        Raises:
            UnreadableError: the context cannot be answered.
        """
        return None

    def typed_instruction(self, context: Sequence[Region]) -> str | None:
        """Return what the annotator has typed into a prompt box; None if the context is of no prompt box.

        Args:
            context: as for `prompted`, which has found it right.
        """
        return None

    def repeated(self, context: Sequence[Region]) -> list[Region]:
        """Return the regions of a smart tool's context that stay, beside what is found; by default none does.

        Where suggestions are accepted, the editor deletes what was drawn with the smart tool, unless a suggestion
        has its id (Label Studio 1.23.2).

        Args:
            context: as for `prompted`.
        """
        return []

    def asked_for(self, question: Input, target: Any) -> Input:
        """Return the question as a person would ask it who wants the target; by default it is the same.

        Training and evaluation use this, since an annotation keeps no clicks, and has regions of its own.
        """
        return question

    def shown_from(self, question: Input, threshold: float) -> Input:
        """Return the question with a project's threshold, where the model needs to know it; by default the same.

        See `has_threshold`. What is shown in the end `with_threshold` says.
        """
        return question

    def going_on(self, question: Input, data: TaskData, results: Sequence[list[Region]]) -> Input:
        """Return the question with what annotators have begun in the task, to go on with; by default the same.

        Called only where the settings name a model for it (MODEL_TRACKER).

        Args:
            question: from `model_input`.
            results: of the task's annotations as they are now.
        """
        return question

    def begun(self, results: Sequence[list[Region]]) -> list[Region]:
        """Return regions that annotators drew and left without this binding's answer; by default none.

        They are then predicted in place of what other bindings find, and `about` asks about them. Only called if
        `is_per_region`.

        Args:
            results: of the task's annotations as they are now, the newest last.
        """
        return []

    def for_project(self, extra_params: Mapping[str, Any]) -> Self:
        """Return the binding as a project's extra params change it; by default it is the same."""
        return self

    def about(self, regions: Sequence[Region]) -> Self | None:
        """Return the binding that asks about these regions of a task; None if it asks about none of them.

        Only called if `is_per_region`. The regions are what other bindings predict for the task.

        Args:
            regions: each with an id of its own, or the id of its group.
        """
        return None

    @property
    def claims(self) -> tuple[str, ...]:
        """Names of the control tags that the binding serves: `from_name`, then those of its group, if it has one.

        A group is predicted, learned and named as one: what `from_name` asks. Of bindings that claim the same
        control tag, the one that claims the most control tags is taken, and the others serve nothing.
        """
        return (self.from_name,)

    @property
    def is_silent_until_taught(self) -> bool:
        """Whether nothing is predicted before annotations were learned. By default the base model answers."""
        return False

    @property
    def has_threshold(self) -> bool:
        """Whether regions have scores, and are shown from some score on, which `with_threshold` changes."""
        return False

    def with_threshold(self, output: Any, threshold: float) -> Any:
        """Return the output with another smallest score of the regions that are shown. See `has_threshold`."""
        return output

    def aggregate(self, targets: Sequence[Any]) -> Any:
        """Combine the targets of several annotators of one task into one. By default the newest is taken.

        Args:
            targets: one per annotator, the newest last; at least one.
        """
        return targets[-1]

    def left_out(self, target: Any) -> Sequence[str]:
        """Return why parts of the annotation are missing in its target; empty if none are."""
        return ()

    def may_be_unused(self, target: Any) -> bool:
        """Return whether the target is empty, and people may mark with other control tags of the project alone.

        Where all targets are like this, the control tag is not used, and nothing is learned of it.
        """
        return False

    def class_of(self, target: Any) -> Hashable:
        """Return the class of a target, by which training is balanced; None if there are no classes.

        Rare classes are replayed as often as common ones, and have the same total weight in the loss.
        """
        return None

    def label_names(self, target: Any) -> frozenset[str] | None:
        """Return the labels of the target, as the label config names them; None if it has no labels.

        The search for label errors compares these with what a model predicts.
        """
        return None

    def distributions(self, output: Any) -> Sequence[Sequence[float]]:
        """Return the probability distributions in the output: one for each set of mutually exclusive classes.

        Returns:
            For each distribution, the probability of each class; they sum to 1. Empty if the output holds no
            probabilities; then scores are not calibrated.
        """
        return ()

    def true_indices(self, target: Any) -> Sequence[int | None]:
        """Return the index of the right class in each distribution of `distributions`, in the same order.

        None stands for a distribution about which the target says nothing.
        """
        return ()

    def cases(self, output: Any, target: Any) -> Sequence[Case]:
        """Return the predicted distributions about which the target says something, each with the right class.

        Scores are calibrated on them. By default they are `distributions`, each with its index of `true_indices`.
        Problems whose answers must first be matched with those of the target, such as boxes, do that here.
        """
        pairs = zip(self.distributions(output), self.true_indices(target), strict=True)
        return [Case(tuple(distribution), index) for distribution, index in pairs if index is not None]

    def calibrated(self, output: Any, temperature: float) -> Any:
        """Return the output with temperature scaling applied to each of its distributions.

        The order of the classes stays the same; a temperature above 1 makes them less certain. By default the
        output is returned unchanged.
        """
        return output

    def calibrated_by_label(
        self, output: Any, temperature: float, by_label: Mapping[str, float], *, is_for_threshold: bool
    ) -> Any:
        """Return the output with a temperature for each label, see `Case.label`; by default with the one for all.

        Args:
            by_label: the labels that have one of their own, as the label config names them.
            is_for_threshold: whether `with_threshold` chooses what is shown; else it is what `output` shows.
        """
        return self.calibrated(output, temperature)

    def calibrated_with_offset(self, output: Any, temperature: float, offset: float) -> Any:
        """Return the output with an offset beside the temperature; by default without it. See `has_offset`.

        Args:
            offset: added to the log odds that the output is right, after they were divided by the temperature.
        """
        return self.calibrated(output, temperature)

    def default_temperature(self, output: Any) -> float:
        """Return the temperature for an output that no held-out tasks have calibrated; 1 changes nothing."""
        return 1.0


def refuse_attributes(control: ControlTag, reasons: Mapping[str, str]) -> None:
    """Check that the control tag sets none of the attributes that a problem does not serve.

    Args:
        reasons: attribute name -> why a control tag with this attribute is not served.

    Raises:
        UnservedError: the tag sets an attribute to anything but `false`.
    """
    for attribute, reason in reasons.items():
        value = control.attributes.get(attribute, "false")
        if value != "false":
            raise UnservedError(f"{attribute}={value!r}: {reason}")
