"""`<Rating>` or `<Number>` over one object: a number for the object. Nothing is predicted before training.

<Image name="image" value="$image"/>
<Rating name="stars" toName="image" maxRating="5"/>
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

from lorabel.contracts import Contract, Estimate, Input, RatingInput, RatingTarget
from lorabel.errors import LabelConfigError, MissingTargetError, UnservedError
from lorabel.evaluation.metrics import Metrics, regression
from lorabel.labeling import regions
from lorabel.labeling.label_config import ControlTag, ObjectTag
from lorabel.labeling.task_content import MODALITIES, contents
from lorabel.problems._answers import shown, values_of
from lorabel.problems._written import number_between, written_if_text, written_instruction
from lorabel.problems.base import Prediction, Problem, Sample, TaskData
from lorabel.text_contracts import WrittenNumberInput

# Default of Label Studio's `maxRating`.
MAX_RATING = 5.0
# Decimal places of predicted numbers; without rounding, steps of 0.1 end in 0.30000000000000004.
DECIMAL_PLACES = 9
# About the largest number of float32, in which models compute.
LARGEST = 1e38


@dataclass(frozen=True)
class Rating(Problem):
    """Regression of a number from one object.

    Attributes:
        type: type of the regions, `rating` or `number`.
        object: the object tag that is rated.
        minimum: the smallest number allowed, or None.
        maximum: the largest number allowed, or None.
        step: distance between the numbers allowed. They start at `minimum`, or 0 if there is none, as in Label
            Studio's editor.
    """

    name: ClassVar[str] = "rating"
    zero_shot: ClassVar[str] = "Nothing is predicted: only annotations show what a number means in this project."
    learns: ClassVar[str] = "A regression from the features of the content to the number, and its expected error."
    input_type: ClassVar[type[Input]] = RatingInput
    output_type: ClassVar[type[Contract]] = Estimate
    SAMPLES: ClassVar[tuple[Sample, ...]] = (
        Sample(
            label_config='<View><Image name="image" value="$image"/><Rating name="stars" toName="image"/></View>',
            data={"image": "/data/upload/1/sunset.png"},
            result=[regions.rating("stars", "image", 4)],
            opposite=[regions.rating("stars", "image", 1)],
        ),
        Sample(
            label_config='<View><Text name="text" value="$text"/>'
            '<Number name="anger" toName="text" min="0" max="1" step="0.1"/></View>',
            data={"text": "Not again!"},
            result=[regions.number("anger", "text", 0.7)],
            opposite=[regions.number("anger", "text", 0)],
        ),
    )

    type: str
    object: ObjectTag
    minimum: float | None
    maximum: float | None
    step: float

    @classmethod
    def match(cls, control: ControlTag) -> Self | None:
        """Bind `Rating` or `Number` on exactly one object; see `Problem.match`."""
        if control.tag not in ("Rating", "Number") or any(tag.tag not in MODALITIES for tag in control.objects):
            return None
        if len(control.objects) != 1:
            raise UnservedError(f"it is about {len(control.objects)} objects together, expected one")
        minimum, maximum, step = _bounds_and_step(control)
        if minimum is not None and maximum is not None and minimum >= maximum:
            raise UnservedError(f"there is nothing to choose between {minimum:g} and {maximum:g}")
        (tag,) = control.objects
        return cls(control.name, tag.name, control.tag.lower(), tag, minimum, maximum, step)

    def model_input(self, data: TaskData) -> RatingInput:
        """Ask for a number between the bounds of the control tag."""
        return RatingInput(contents=contents(self.object, data), minimum=self.minimum, maximum=self.maximum)

    def written(self, question: RatingInput, data: TaskData) -> WrittenNumberInput | None:
        """Ask a model to write the number; see `Problem.written`."""
        form = number_between(self.minimum, self.maximum)
        return written_if_text(
            WrittenNumberInput,
            question,
            written_instruction(self.asking, f"Rate the text: {self.from_name}.", form),
            minimum=self.minimum,
            maximum=self.maximum,
            step=self.step,
        )

    def prediction(self, output: Estimate, data: TaskData) -> Prediction:
        """Predict the nearest number allowed. The score is 1 - expected error / `_scale`, at least 0."""
        if output.value is None:
            return Prediction([], 0.0)
        value = self._nearest_allowed(output.value)
        if self.type == "rating":
            region = regions.rating(self.from_name, self.to_name, int(value))
        else:
            region = regions.number(self.from_name, self.to_name, value)
        return Prediction([region], 1 - min(1.0, output.expected_error / self._scale(output.value)))

    def target(self, result: list[regions.Region], data: TaskData) -> RatingTarget:
        """Return the number of the annotation; it must lie within the bounds of the label config."""
        values = values_of(result, self.from_name)
        value = values[-1].get(self.type) if values else None
        # Python reads NaN and whole numbers of any size from JSON. NaN is not smaller than anything.
        if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < LARGEST:
            raise MissingTargetError(f"{self.from_name!r} was answered {shown(value)}, expected a number")
        minimum, maximum = self.minimum, self.maximum
        if (minimum is not None and value < minimum) or (maximum is not None and value > maximum):
            raise MissingTargetError(
                f"{self.from_name!r} was answered {value!r}, which is out of the label config's bounds"
            )
        return RatingTarget(float(value))

    def perfect_output(self, target: RatingTarget) -> Estimate:
        """Return the number itself, with an expected error of 0."""
        return Estimate(value=target.value, expected_error=0.0)

    def metrics(self, targets: Sequence[RatingTarget], outputs: Sequence[Estimate]) -> Metrics:
        """Compute the metrics of `lorabel.evaluation.metrics.regression`."""
        values = [target.value for target in targets]
        return regression(values, [output.value for output in outputs], [self._scale(value) for value in values])

    @property
    def is_silent_until_taught(self) -> bool:
        """Return True: only annotations show what a number means."""
        return True

    def aggregate(self, targets: Sequence[RatingTarget]) -> RatingTarget:
        """Take the mean over the annotators."""
        return RatingTarget(sum(target.value for target in targets) / len(targets))

    def class_of(self, target: RatingTarget) -> int | None:
        """Return which of five equally spaced numbers in the range is nearest, 0 to 4; None without bounds."""
        if self.minimum is None or self.maximum is None:
            return None
        return round(4 * (target.value - self.minimum) / (self.maximum - self.minimum))

    def _nearest_allowed(self, value: float) -> float:
        """Round to a whole number of steps, not above the maximum."""
        start = self.minimum or 0.0
        steps = round((value - start) / self.step)
        if self.maximum is not None and start + steps * self.step > self.maximum:
            steps -= 1
        return round(start + steps * self.step, DECIMAL_PLACES)

    def _scale(self, value: float) -> float:
        """Return what errors are divided by: maximum - minimum, or 1 + |value| if a bound is missing."""
        if self.minimum is None or self.maximum is None:
            return 1 + abs(value)
        return self.maximum - self.minimum


def _bounds_and_step(control: ControlTag) -> tuple[float | None, float | None, float]:
    """Return minimum, maximum and step."""
    if control.tag == "Rating":
        return 1.0, _attribute(control, "maxRating") or MAX_RATING, 1.0
    return _attribute(control, "min"), _attribute(control, "max"), _attribute(control, "step") or 1.0


def _attribute(control: ControlTag, name: str) -> float | None:
    text = control.attributes.get(name)
    if text is None:
        return None
    try:
        return float(text)
    except ValueError as error:
        raise LabelConfigError(f"control tag {control.name!r} has {name}={text!r}, expected a number") from error
