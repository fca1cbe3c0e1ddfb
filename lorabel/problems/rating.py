"""`<Rating>` and `<Number>` over one object: which number does it deserve? Silent until somebody has taught it.

<Image name="image" value="$image"/>
<Rating name="stars" toName="image" maxRating="5"/>
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

from lorabel.contracts import Contract, Estimate, Input, NumberTarget, RatingInput
from lorabel.errors import LabelConfigError, MissingTargetError, UnservedError
from lorabel.evaluation.metrics import Metrics
from lorabel.labeling import regions
from lorabel.labeling.label_config import ControlTag, ObjectTag
from lorabel.labeling.task_content import MODALITIES, content
from lorabel.problems.base import Prediction, Problem, Sample, TaskData

MAX_RATING = 5.0
# Steps of 0.1 would otherwise end in 0.30000000000000004.
DIGITS = 9


@dataclass(frozen=True)
class Rating(Problem):
    """
    Args:
        type: of the regions, `rating` or `number`.
        step: between the numbers that can be given, counted from `least` (0 if there is none), as Label Studio's
            editor counts them.
    """

    name: ClassVar[str] = "rating"
    zero_shot: ClassVar[str] = "Nothing: what a number means here is said by annotators alone."
    learns: ClassVar[str] = "A regression over the features of the contents, and how wrong it is."
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
    least: float | None
    most: float | None
    step: float

    @classmethod
    def match(cls, control: ControlTag) -> Self | None:
        if control.tag not in ("Rating", "Number") or any(tag.tag not in MODALITIES for tag in control.objects):
            return None
        if len(control.objects) != 1:
            raise UnservedError(f"it is about {len(control.objects)} objects together, expected one")
        least, most, step = _scale_of(control)
        if least is not None and most is not None and least >= most:
            raise UnservedError(f"there is nothing to choose between {least:g} and {most:g}")
        only = control.objects[0]
        return cls(control.name, only.name, control.tag.lower(), only, least, most, step)

    def model_input(self, data: TaskData) -> RatingInput:
        return RatingInput(contents=(content(self.object, data),), least=self.least, most=self.most)

    def prediction(self, output: Estimate, data: TaskData) -> Prediction:
        """The score is 1 - error / scale, and at least 0, see `_scale`."""
        if output.value is None:
            return Prediction([], 0.0)
        given = self._round(output.value)
        if self.type == "rating":
            region = regions.rating(self.from_name, self.to_name, int(given))
        else:
            region = regions.number(self.from_name, self.to_name, given)
        return Prediction([region], 1 - min(1.0, output.error / self._scale(output.value)))

    def target(self, result: list[regions.Region], data: TaskData) -> NumberTarget:
        mine = [region for region in result if region.get("from_name") == self.from_name]
        value = mine[-1].get("value", {}).get(self.type) if mine else None
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise MissingTargetError(f"{self.from_name!r} was answered {value!r}, expected a number")
        least, most = self.least, self.most
        if (least is not None and value < least) or (most is not None and value > most):
            raise MissingTargetError(
                f"{self.from_name!r} was answered {value!r}, which is out of the label config's bounds"
            )
        return NumberTarget(float(value))

    def perfect_output(self, target: NumberTarget) -> Estimate:
        return Estimate(value=target.value, error=0.0)

    def metrics(self, targets: Sequence[NumberTarget], outputs: Sequence[Estimate]) -> Metrics:
        # The backend never scores, and SciPy takes a second to import.
        from lorabel.evaluation.metrics import regression

        right = [target.value for target in targets]
        return regression(right, [output.value for output in outputs], [self._scale(value) for value in right])

    def agree(self, targets: Sequence[NumberTarget]) -> NumberTarget:
        """The mean, in which each annotator has one voice."""
        return NumberTarget(sum(target.value for target in targets) / len(targets))

    def class_of(self, target: NumberTarget) -> int | None:
        """Fifths of the range; numbers without bounds have no classes."""
        if self.least is None or self.most is None:
            return None
        return round(4 * (target.value - self.least) / (self.most - self.least))

    def _round(self, value: float) -> float:
        """To the nearest number that can be given."""
        start = self.least or 0.0
        steps = round((value - start) / self.step)
        if self.most is not None and start + steps * self.step > self.most:
            steps -= 1
        return round(start + steps * self.step, DIGITS)

    def _scale(self, value: float) -> float:
        """What an error is measured with: the range; without bounds 1 + |value|."""
        if self.least is None or self.most is None:
            return 1 + abs(value)
        return self.most - self.least


def _scale_of(control: ControlTag) -> tuple[float | None, float | None, float]:
    """Least, most, step."""
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
