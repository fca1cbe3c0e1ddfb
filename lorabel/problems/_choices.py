"""What the classification problems share: `<Choices>` and `<Taxonomy>` assign labels to whole contents.

A subclass of `ChoicesProblem` names the modalities that it classifies.

An object tag that no control tag names is context. With `<Choices toName="image">` and a `<Text>` that is only
shown, the model is asked about the image and the text together.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from lorabel.contracts import Content, Contract, Input, LabelScores, LabelsInput, LabelTarget, Modality
from lorabel.errors import LabelConfigError, MissingTargetError, UnservedError
from lorabel.evaluation.metrics import Metrics, classification, taxonomy
from lorabel.labeling import regions
from lorabel.labeling.label_config import ControlTag, Label, ObjectTag, above, find_label
from lorabel.labeling.task_content import MODALITIES, NothingShownError, contents
from lorabel.labeling.taxonomy import Taxonomy
from lorabel.problems import _label_scores
from lorabel.problems._answers import list_in, shown, values_of
from lorabel.problems._written import BELOW, one_of, written_if_text, written_instruction, yes_or_no
from lorabel.problems.base import Prediction, Problem, TaskData, refuse_attributes
from lorabel.text_contracts import WrittenLabelsInput

TAGS = ("Choices", "Taxonomy")
SINGLE_CHOICE = ("single", "single-radio")
# Attribute -> why a control tag that has it is not served.
UNSERVED_ATTRIBUTES = {
    "value": "its choices come from the task's data",
    "apiUrl": "its choices come from an address",
    "allowNested": "its choices are nested; use Taxonomy",
    "labeling": "it labels regions",
}
# Multiple choice: labels with at least this probability are predicted.
THRESHOLD = 0.5


@dataclass(frozen=True)
class ChoicesProblem(Problem):
    """Base class of classification problems.

    Attributes:
        modalities: the problem matches a control tag if its object tags and context have exactly these.
        objects: the object tags that the control tag names.
        context: object tags that are shown with them and that no control tag names.
        labels: the choices; those of a taxonomy have a parent.
        is_multiple: whether any number of choices may be made.
        taxonomy: the tree of the labels if the control tag is a Taxonomy.
    """

    modalities: ClassVar[frozenset[Modality]]
    zero_shot: ClassVar[str] = "Labels are scored by the similarity of their texts to the content."
    learns: ClassVar[str] = (
        "What each label means in this project: at once, which features of the contents go with it; by training "
        "runs, features of the contents in which the labels are farther apart."
    )
    input_type: ClassVar[type[Input]] = LabelsInput
    output_type: ClassVar[type[Contract]] = LabelScores

    objects: tuple[ObjectTag, ...]
    context: tuple[ObjectTag, ...]
    labels: tuple[Label, ...]
    is_multiple: bool
    taxonomy: Taxonomy | None = None

    @classmethod
    def match(cls, control: ControlTag) -> Self | None:
        """Bind the control tag if its objects have exactly the modalities of this problem; see `Problem.match`."""
        context = _context(control)
        modalities = {MODALITIES.get(tag.tag) for tag in (*control.objects, *context)}
        if control.tag not in TAGS or modalities != cls.modalities:
            return None
        refuse_attributes(control, UNSERVED_ATTRIBUTES)
        if not control.labels:
            raise UnservedError("it has no choices")
        tags_and_labels = control.name, control.objects[0].name, control.objects, context, control.labels
        if control.tag == "Taxonomy":
            has_leaves_only = control.attributes.get("leafsOnly", "false") != "false"
            return cls(*tags_and_labels, False, Taxonomy(control.labels, has_leaves_only))
        choice = control.attributes.get("choice", "single")
        if choice not in (*SINGLE_CHOICE, "multiple"):
            raise LabelConfigError(
                f"control tag {control.name!r} has choice={choice!r}, expected single, single-radio or multiple"
            )
        return cls(*tags_and_labels, choice == "multiple")

    def model_input(self, data: TaskData) -> LabelsInput:
        """Ask which labels fit the objects together with the context texts of the task."""
        return LabelsInput(
            contents=self._contents(data),
            labels=tuple(label.texts for label in self.labels),
            parents=() if self.taxonomy is None else self.taxonomy.parents,
            is_multiple=self.is_multiple,
        )

    def written(self, question: LabelsInput, data: TaskData) -> WrittenLabelsInput | None:
        """Ask how likely a model would write each of the labels; see `Problem.written`."""
        names = [label.texts[0] for label in self.labels]
        if self.taxonomy is not None:
            names = [BELOW.join(names[index] for index in above(self.labels, end)) for end in range(len(names))]
        form = yes_or_no(names) if self.is_multiple else one_of(names)
        instruction = written_instruction(self.asking, f"Which {self.from_name} fits the text?", form)
        return written_if_text(
            WrittenLabelsInput,
            question,
            instruction,
            labels=question.labels,
            parents=question.parents,
            is_multiple=question.is_multiple,
        )

    def _contents(self, data: TaskData) -> tuple[Content, ...]:
        """Return what the task has of the objects and of the context.

        A text may be missing if the task has something else, and so may a picture if it has another picture: the
        family that answers stays the same.
        """
        shown: list[Content] = []
        missing: dict[Modality, NothingShownError] = {}
        for tag in (*self.objects, *self.context):
            try:
                shown += contents(tag, data)
            except NothingShownError as error:
                missing.setdefault(MODALITIES[tag.tag], error)
        modalities = {content.modality for content in shown}
        for modality, reason in missing.items():
            if not modalities or (modality != Modality.TEXT and modality not in modalities):
                raise reason
        return tuple(shown)

    def prediction(self, output: LabelScores, data: TaskData) -> Prediction:
        """Predict the labels that `_choose` returns. The score of multiple choice is the mean confidence over all
        labels, in being right whether each fits or not."""
        indices, confidence = self._choose(output)
        if self.taxonomy is not None:
            paths = [self.taxonomy.paths[index] for index in indices]
            return Prediction([regions.taxonomy(self.from_name, self.to_name, paths)], confidence)
        values = [self.labels[index].value for index in indices]
        predicted = [regions.choices(self.from_name, self.to_name, values)] if values else []
        named = zip((label.value for label in self.labels), output.probabilities, strict=True)
        scores = dict(named) if self.is_multiple else {}
        return Prediction(predicted, confidence, _label_scores.margin(self.distributions(output)), scores)

    def target(self, result: list[regions.Region], data: TaskData) -> LabelTarget:
        """Return the labels of the annotation; of a taxonomy also the labels above them."""
        region_type = "choices" if self.taxonomy is None else "taxonomy"
        values = [
            choice
            for value in values_of(result, self.from_name)
            for choice in list_in(value, region_type, self.from_name)
        ]
        if not values and not self.is_multiple:
            raise MissingTargetError(f"no choice was made in {self.from_name!r}")
        index_by_value = [(value, self._index_of(value)) for value in values]
        unknown = [value for value, index in index_by_value if index is None]
        if unknown:
            raise MissingTargetError(
                f"{self.from_name!r} was answered {shown(unknown)}, which the label config no longer has"
            )
        indices = tuple(sorted({index for _, index in index_by_value if index is not None}))
        if self.taxonomy is not None:
            return self.taxonomy.target(indices)
        if not self.is_multiple and len(indices) != 1:
            raise MissingTargetError(f"{self.from_name!r} has {len(indices)} choices {values!r}, expected one")
        return LabelTarget(indices)

    def perfect_output(self, target: LabelTarget) -> LabelScores:
        """Return probability 1 for the right labels and 0 for the others."""
        if self.taxonomy is not None:
            return self.taxonomy.perfect_output(target)
        return LabelScores(probabilities=tuple(float(i in target.indices) for i in range(len(self.labels))))

    def metrics(self, targets: Sequence[LabelTarget], outputs: Sequence[Any]) -> Metrics:
        """Compute accuracy and the other metrics of `lorabel.evaluation.metrics.classification` or `taxonomy`."""
        predicted = [tuple(self._choose(output)[0]) for output in outputs]
        if self.taxonomy is not None:
            return taxonomy(self.taxonomy, targets, outputs, [index for (index,) in predicted])
        names = [label.value for label in self.labels]
        probabilities = [output.probabilities for output in outputs]
        return classification(
            [target.indices for target in targets], predicted, probabilities, names, self.is_multiple
        )

    def value(self, target: LabelTarget, output: LabelScores) -> float:
        """Return 1 if all labels are right, else 0; of a taxonomy its metric."""
        if self.taxonomy is not None:
            return super().value(target, output)
        return float(tuple(self._choose(output)[0]) == target.indices)

    def aggregate(self, targets: Sequence[LabelTarget]) -> LabelTarget:
        """Take the vote of the majority, with one vote per annotator; the newest target decides a tie."""
        if len(set(targets)) == 1:
            return targets[-1]
        if self.taxonomy is not None:
            return self.taxonomy.aggregate(targets)
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
        """Return the right labels: each combination of labels is a class."""
        return target.indices

    def label_names(self, target: LabelTarget) -> frozenset[str]:
        """Return the values of the right labels."""
        return frozenset(self.labels[i].value for i in target.indices)

    def distributions(self, output: LabelScores) -> list[tuple[float, ...]]:
        """Return one distribution for each group of labels that exclude each other."""
        return _label_scores.distributions(output.probabilities, self._parents, self.is_multiple)

    def true_indices(self, target: LabelTarget) -> list[int | None]:
        """Return the index of the right label in each of `distributions`."""
        return _label_scores.true_indices(target.indices, self._parents, self.is_multiple)

    def calibrated(self, output: LabelScores, temperature: float) -> LabelScores:
        """Return the output with each distribution divided by the temperature; the order of labels stays."""
        scores = _label_scores.tempered_scores(output.probabilities, self._parents, self.is_multiple, temperature)
        return LabelScores(probabilities=scores)

    def default_temperature(self, output: LabelScores) -> float:
        """Return the temperature that the model has found to fit these labels."""
        return output.temperature

    @property
    def _parents(self) -> tuple[int, ...]:
        return tuple(label.parent for label in self.labels)

    def _choose(self, output: LabelScores) -> tuple[list[int], float]:
        """Return the predicted labels and the confidence in them; of a taxonomy, the label that ends the path."""
        if self.taxonomy is not None:
            index, confidence = self.taxonomy.descend(output)
            return [index], confidence
        scores = output.probabilities
        if not self.is_multiple:
            best = max(range(len(scores)), key=scores.__getitem__)
            return [best], scores[best]
        chosen = [i for i, score in enumerate(scores) if score >= THRESHOLD]
        return chosen, sum(max(score, 1 - score) for score in scores) / len(scores)

    def _index_of(self, value: Any) -> int | None:
        """Return the index of the label that a result names, see `find_label`; None if there is none.

        Args:
            value: a choice, or the path of a taxonomy; a value of any other type names no label.
        """
        parts = value if isinstance(value, list) and self.taxonomy is not None else [value]
        if not all(isinstance(part, str | int | float) for part in parts):
            return None
        if self.taxonomy is not None:
            return self.taxonomy.find([str(part) for part in parts])
        return find_label(self.labels, str(value))


def _context(control: ControlTag) -> tuple[ObjectTag, ...]:
    """Return the context tags if, with the tags that the control tag names, they are one image and one text."""
    tags = (*control.objects, *control.context)
    is_pair = sorted(MODALITIES.get(tag.tag, "") for tag in tags) == [Modality.IMAGE, Modality.TEXT]
    return control.context if is_pair else ()
