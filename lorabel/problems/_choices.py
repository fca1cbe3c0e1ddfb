"""`<Choices>` and `<Taxonomy>` over what object tags show: which labels fit? Each such problem says of what.

An object tag that no control tag names is context: `<Choices toName="image">` beside a `<Text>` that is only shown
is asked about both.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from lorabel.contracts import Contract, Input, LabelScores, LabelsInput, LabelTarget, Modality
from lorabel.errors import LabelConfigError, MissingTargetError, UnservedError
from lorabel.evaluation.metrics import Metrics
from lorabel.labeling import regions
from lorabel.labeling.label_config import ControlTag, Label, ObjectTag
from lorabel.labeling.task_content import MODALITIES, content
from lorabel.labeling.taxonomy import Taxonomy
from lorabel.problems import _label_scores
from lorabel.problems.base import Prediction, Problem, TaskData, refuse

TAGS = ("Choices", "Taxonomy")
SINGLE = ("single", "single-radio")
# Attribute -> why a control tag that has it is not served.
UNSERVED = {
    "value": "its choices come from the task's data",
    "apiUrl": "its choices come from an address",
    "allowNested": "its choices are nested; use Taxonomy",
    "labeling": "it labels regions",
}
THRESHOLD = 0.5


@dataclass(frozen=True)
class ChoicesProblem(Problem):
    """`modalities` are those of the object tags that a problem of this kind is about, all of them together;
    `context` are object tags that are only shown; `taxonomy` is the tree of the labels, where there is one."""

    modalities: ClassVar[frozenset[Modality]]
    zero_shot: ClassVar[str] = "How near the content is to the text of each label."
    learns: ClassVar[str] = "What the labels mean here: label texts move towards the contents that have them."
    input_type: ClassVar[type[Input]] = LabelsInput
    output_type: ClassVar[type[Contract]] = LabelScores

    objects: tuple[ObjectTag, ...]
    context: tuple[ObjectTag, ...]
    labels: tuple[Label, ...]
    is_multiple: bool
    taxonomy: Taxonomy | None = None

    @classmethod
    def match(cls, control: ControlTag) -> Self | None:
        context = _context(control)
        modalities = {MODALITIES.get(tag.tag) for tag in (*control.objects, *context)}
        if control.tag not in TAGS or modalities != cls.modalities:
            return None
        refuse(control, UNSERVED)
        if not control.labels:
            raise UnservedError("it has no choices")
        begin = control.name, control.objects[0].name, control.objects, context, control.labels
        if control.tag == "Taxonomy":
            has_leaves_only = control.attributes.get("leafsOnly", "false") != "false"
            return cls(*begin, False, Taxonomy(control.labels, has_leaves_only))
        choice = control.attributes.get("choice", "single")
        if choice not in (*SINGLE, "multiple"):
            raise LabelConfigError(
                f"control tag {control.name!r} has choice={choice!r}, expected single, single-radio or multiple"
            )
        return cls(*begin, choice == "multiple")

    def model_input(self, data: TaskData) -> LabelsInput:
        # A text that is only shown may be missing: then the question is about the picture, to the same family.
        there = [t for t in self.context if data.get(t.data_key) or MODALITIES[t.tag] != Modality.TEXT]
        return LabelsInput(
            contents=tuple(content(tag, data) for tag in (*self.objects, *there)),
            labels=tuple(label.texts for label in self.labels),
            parents=() if self.taxonomy is None else self.taxonomy.parents,
            is_multiple=self.is_multiple,
        )

    def prediction(self, output: LabelScores, data: TaskData) -> Prediction:
        chosen, confidence = self._choose(output)
        if self.taxonomy is not None:
            paths = [self.taxonomy.paths[end] for end in chosen]
            return Prediction([regions.taxonomy(self.from_name, self.to_name, paths)], confidence)
        values = [self.labels[i].value for i in chosen]
        found = [regions.choices(self.from_name, self.to_name, values)] if values else []
        return Prediction(found, confidence, _label_scores.margin(self.distributions(output)))

    def target(self, result: list[regions.Region], data: TaskData) -> LabelTarget:
        mine = [region for region in result if region.get("from_name") == self.from_name]
        kind = "choices" if self.taxonomy is None else "taxonomy"
        named = [value for region in mine for value in region.get("value", {}).get(kind, ())]
        if not named and not self.is_multiple:
            raise MissingTargetError(f"no choice was made in {self.from_name!r}")
        found = [self._find(value) for value in named]
        unknown = [value for value, index in zip(named, found, strict=True) if index is None]
        if unknown:
            raise MissingTargetError(
                f"{self.from_name!r} was answered {unknown!r}, which the label config no longer has"
            )
        indices = tuple(sorted({index for index in found if index is not None}))
        if self.taxonomy is not None:
            return self.taxonomy.target(indices)
        if not self.is_multiple and len(indices) != 1:
            raise MissingTargetError(f"{self.from_name!r} has {len(indices)} choices {named!r}, expected one")
        return LabelTarget(indices)

    def perfect_output(self, target: LabelTarget) -> LabelScores:
        if self.taxonomy is not None:
            return self.taxonomy.perfect_output(target)
        return LabelScores(probabilities=tuple(float(i in target.indices) for i in range(len(self.labels))))

    def metrics(self, targets: Sequence[LabelTarget], outputs: Sequence[Any]) -> Metrics:
        # The backend never scores, and scikit-learn takes a second to import.
        from lorabel.evaluation.metrics import classification, taxonomy

        predicted = [tuple(self._choose(output)[0]) for output in outputs]
        if self.taxonomy is not None:
            return taxonomy(self.taxonomy, targets, outputs, [end for (end,) in predicted])
        names = [label.value for label in self.labels]
        probabilities = [output.probabilities for output in outputs]
        return classification(
            [target.indices for target in targets], predicted, probabilities, names, self.is_multiple
        )

    def agree(self, targets: Sequence[LabelTarget]) -> LabelTarget:
        """Each annotator has one voice; where as many say one as the other, the newest decides."""
        if len(set(targets)) == 1:
            return targets[-1]
        if self.taxonomy is not None:
            return self.taxonomy.agree(targets)
        shares = tuple(
            sum(i in target.indices for target in targets) / len(targets) for i in range(len(self.labels))
        )
        newest = targets[-1].indices
        if self.is_multiple:
            indices = tuple(
                i for i, share in enumerate(shares) if share > THRESHOLD or (share == THRESHOLD and i in newest)
            )
            return LabelTarget(indices, shares)
        return LabelTarget((max(range(len(shares)), key=lambda i: (shares[i], i in newest)),), shares)

    def class_of(self, target: LabelTarget) -> tuple[int, ...]:
        return target.indices

    def answers(self, target: LabelTarget) -> frozenset[str]:
        return frozenset(self.labels[i].value for i in target.indices)

    def distributions(self, output: LabelScores) -> list[tuple[float, ...]]:
        return _label_scores.distributions(output.probabilities, self._parents, self.is_multiple)

    def right_answers(self, target: LabelTarget) -> list[int | None]:
        return _label_scores.right_answers(target.indices, self._parents, self.is_multiple)

    def calibrated(self, output: LabelScores, temperature: float) -> LabelScores:
        scores = _label_scores.tempered_scores(output.probabilities, self._parents, self.is_multiple, temperature)
        return LabelScores(probabilities=scores)

    @property
    def _parents(self) -> tuple[int, ...]:
        return tuple(label.parent for label in self.labels)

    def _choose(self, output: LabelScores) -> tuple[list[int], float]:
        """The labels that the output stands for, and the confidence in them; of a taxonomy the one at the end."""
        if self.taxonomy is not None:
            end, confidence = self.taxonomy.descend(output)
            return [end], confidence
        scores = output.probabilities
        if not self.is_multiple:
            best = max(range(len(scores)), key=scores.__getitem__)
            return [best], scores[best]
        chosen = [i for i, score in enumerate(scores) if score >= THRESHOLD]
        return chosen, sum(max(score, 1 - score) for score in scores) / len(scores)

    def _find(self, value: Any) -> int | None:
        """The label that a result names, in any case."""
        if self.taxonomy is not None:
            return self.taxonomy.find([str(part) for part in value])
        named = str(value).casefold()
        return next((i for i, label in enumerate(self.labels) if label.value.casefold() == named), None)


def _context(control: ControlTag) -> tuple[ObjectTag, ...]:
    """Of what is only shown that which makes a picture and a text with what the control tag names."""
    both = (*control.objects, *control.context)
    is_pair = sorted(MODALITIES.get(tag.tag, "") for tag in both) == [Modality.IMAGE, Modality.TEXT]
    return control.context if is_pair else ()
