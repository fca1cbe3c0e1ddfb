"""`<Choices>`, single or multiple, over one `<Image>`: which of the labels does the picture show?

Not served: choices per region (`perRegion`), per item, with labels from the task (`value="$options"`), shown
only under a condition (`visibleWhen`), nested choices, and choices over several objects.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from lorabel import regions
from lorabel.contracts import Contract, ImageLabels, LabelScores, LabelTarget, MediaRef
from lorabel.errors import LabelConfigError, MissingTargetError, UnreadableError
from lorabel.label_config import ControlTag, Label
from lorabel.problems import Metrics, Prediction, Problem, Sample, TaskData

SINGLE = ("single", "single-radio")
UNSERVED = ("perRegion", "perItem", "whenTagName", "whenRole", "whenLabelValue", "visibleWhen", "value")
THRESHOLD = 0.5


@dataclass(frozen=True)
class ImageClassification(Problem):
    input_type: ClassVar[type[Contract]] = ImageLabels
    output_type: ClassVar[type[Contract]] = LabelScores
    SAMPLE: ClassVar[Sample] = Sample(
        label_config='<View><Image name="image" value="$image"/><Choices name="label" toName="image">'
        '<Choice value="red"/><Choice value="blue"/></Choices></View>',
        data={"image": "/data/upload/1/red.png"},
        result=[{"from_name": "label", "to_name": "image", "type": "choices", "value": {"choices": ["red"]}}],
    )

    data_key: str
    labels: tuple[Label, ...]
    is_multiple: bool

    @classmethod
    def match(cls, control: ControlTag) -> Self | None:
        objects = control.objects
        if control.tag != "Choices" or len(objects) != 1 or objects[0].tag != "Image" or not control.labels:
            return None
        if any(control.attributes.get(name, "false") != "false" for name in UNSERVED):
            return None
        choice = control.attributes.get("choice", "single")
        if choice not in (*SINGLE, "multiple"):
            raise LabelConfigError(
                f"control tag {control.name!r} has choice={choice!r}, expected single, single-radio or multiple"
            )
        image = objects[0]
        return cls(control.name, image.name, image.data_key, control.labels, choice == "multiple")

    def model_input(self, data: TaskData) -> ImageLabels:
        url = data.get(self.data_key)
        if not isinstance(url, str) or not url:
            raise UnreadableError(
                f"task data has no picture under {self.data_key!r} (found {url!r}), "
                f"which the label config names for {self.to_name!r}",
                is_permanent=True,
            )
        texts = tuple(label.text for label in self.labels)
        return ImageLabels(image=MediaRef(url=url), texts=texts, is_multiple=self.is_multiple)

    def prediction(self, output: LabelScores) -> Prediction:
        scores = output.probabilities
        if self.is_multiple:
            chosen = [i for i, score in enumerate(scores) if score >= THRESHOLD]
            confidence = sum(max(score, 1 - score) for score in scores) / len(scores)
        else:
            chosen = [max(range(len(scores)), key=scores.__getitem__)]
            confidence = scores[chosen[0]]
        values = [self.labels[i].value for i in chosen]
        return Prediction([regions.choices(self.from_name, self.to_name, values)] if values else [], confidence)

    def target(self, result: list[regions.Region]) -> LabelTarget:
        mine = [region for region in result if region.get("from_name") == self.from_name]
        if not mine and not self.is_multiple:
            raise MissingTargetError(f"no choice was made in {self.from_name!r}")
        named = [value for region in mine for value in region.get("value", {}).get("choices", ())]
        index = {label.value: i for i, label in enumerate(self.labels)}
        unknown = [value for value in named if value not in index]
        if unknown:
            raise MissingTargetError(
                f"{self.from_name!r} was answered {unknown!r}, which the label config no longer has"
            )
        indices = tuple(sorted({index[value] for value in named}))
        if not self.is_multiple and len(indices) != 1:
            raise MissingTargetError(f"{self.from_name!r} has {len(indices)} choices {named!r}, expected one")
        return LabelTarget(indices)

    def perfect_output(self, target: LabelTarget) -> LabelScores:
        return LabelScores(probabilities=tuple(float(i in target.indices) for i in range(len(self.labels))))

    def metrics(self, targets: Sequence[LabelTarget], outputs: Sequence[Any]) -> Metrics:
        # The backend never scores, and scikit-learn takes a second to import.
        from lorabel.metrics import classification

        predicted = [self._chosen(output) for output in outputs]
        names = [label.value for label in self.labels]
        return classification([target.indices for target in targets], predicted, names, self.is_multiple)

    def _chosen(self, output: LabelScores) -> tuple[int, ...]:
        found = {value for region in self.prediction(output).regions for value in region["value"]["choices"]}
        return tuple(i for i, label in enumerate(self.labels) if label.value in found)
