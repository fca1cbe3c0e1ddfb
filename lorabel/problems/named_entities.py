"""`<Labels>` over a `<Text>`, `<HyperText>` or `<Paragraphs>`: spans of the text with a label each.

Predicted spans never overlap. Annotations with nested or overlapping spans are used for training as far as each
word can be given one label. Relations between spans are in `lorabel.problems.relations`.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar, Self

from lorabel.contracts import Content, Contract, Input, Modality, Span, SpanScores, SpansInput, SpanTarget
from lorabel.errors import MissingTargetError, UnservedError
from lorabel.evaluation.metrics import Metrics
from lorabel.evaluation.span_metrics import entities
from lorabel.labeling import regions
from lorabel.labeling.label_config import ControlTag, Label, ObjectTag, find_label
from lorabel.labeling.task_content import MODALITIES, optional_contents
from lorabel.labeling.text_offsets import TAGS, flat_text
from lorabel.problems._answers import list_in, regions_of, shown, values_of
from lorabel.problems._choices import UNSERVED_ATTRIBUTES
from lorabel.problems._rivals import ON_TEXTS, refuse_unused, rivals_of
from lorabel.problems._written import spans_of, written_if_text, written_instruction
from lorabel.problems.base import Prediction, Problem, Sample, TaskData, refuse_attributes
from lorabel.text_contracts import WrittenSpansInput

# Control tag -> the object tags that it may label. The type of its regions is its name in lower case.
CONTROLS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {"Labels": TAGS, "HyperTextLabels": ("HyperText",), "ParagraphLabels": ("Paragraphs",)}
)
# Attribute of the object tag -> the values that are served. With these the task's data holds the text itself,
# neither encoded nor as a URL, as is needed to check offsets.
SERVED_VALUES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {"valueType": ("text", "json"), "encoding": ("none",)}
)
LABEL_TAGS = "".join(f'<Label value="{value}"/>' for value in ("Person", "City"))
# The parts of region values that say where "Ada" and "London" are in the samples.
ADA = {"start": 0, "end": 3, "text": "Ada"}
LONDON = {"start": 7, "end": 13, "text": "London"}
PAGE_ADA = {
    "start": "/p[1]/b[1]/text()[1]",
    "startOffset": 0,
    "end": "/p[1]/b[1]/text()[1]",
    "endOffset": 3,
    "globalOffsets": {"start": 0, "end": 3},
    "text": "Ada",
}
PAGE_LONDON = {
    "start": "/p[2]/text()[1]",
    "startOffset": 3,
    "end": "/p[2]/text()[1]",
    "endOffset": 9,
    "globalOffsets": {"start": 12, "end": 18},
    "text": "London",
}
TURN_ADA = {"start": "0", "startOffset": 0, "end": "0", "endOffset": 3, "text": "Ada"}
TURN_LONDON = {"start": "1", "startOffset": 3, "end": "1", "endOffset": 9, "text": "London"}


def _sample(object_tag: str, tag: str, data: TaskData, ada: dict[str, Any], london: dict[str, Any]) -> Sample:
    """Return a sample in which Ada is a person and London a city; the opposite result swaps the labels."""
    result, opposite = (
        [
            regions.labels("entity", "text", tag.lower(), offsets, [value])
            for offsets, value in zip((ada, london), values, strict=True)
        ]
        for values in (("Person", "City"), ("City", "Person"))
    )
    config = f'<View><{tag} name="entity" toName="text">{LABEL_TAGS}</{tag}>{object_tag}</View>'
    return Sample(config, data, result, opposite)


@dataclass(frozen=True)
class NamedEntities(Problem):
    """Named entity recognition: spans of a text.

    Attributes:
        tag: the object tag of the text.
        region_type: type of the regions, which is also the key of the labels in their values.
        labels: the labels that spans may have.
        rivals: the other control tags that mark spans of the text.
        context: texts that are shown beside it, such as a question. Only a model that writes reads them.
    """

    name: ClassVar[str] = "named_entities"
    zero_shot: ClassVar[str] = "Nothing is predicted: only annotations show where spans begin and end."
    learns: ClassVar[str] = "Which words begin a span of each label, and which words continue it."
    input_type: ClassVar[type[Input]] = SpansInput
    output_type: ClassVar[type[Contract]] = SpanScores
    SAMPLES: ClassVar[tuple[Sample, ...]] = (
        _sample('<Text name="text" value="$text"/>', "Labels", {"text": "Ada in London"}, ADA, LONDON),
        _sample(
            '<HyperText name="text" value="$html"/>',
            "HyperTextLabels",
            {"html": "<p><b>Ada</b> lives</p><p>in London</p>"},
            PAGE_ADA,
            PAGE_LONDON,
        ),
        _sample(
            '<Paragraphs name="text" value="$talk"/>',
            "ParagraphLabels",
            {"talk": [{"author": "A", "text": "Ada lives"}, {"author": "B", "text": "in London"}]},
            TURN_ADA,
            TURN_LONDON,
        ),
    )

    tag: ObjectTag
    region_type: str
    labels: tuple[Label, ...]
    rivals: tuple[str, ...] = ()
    context: tuple[ObjectTag, ...] = ()

    @classmethod
    def match(cls, control: ControlTag) -> Self | None:
        """Bind `Labels`, `HyperTextLabels` or `ParagraphLabels` on one text; see `Problem.match`."""
        object_tags = CONTROLS.get(control.tag, ())
        if not control.objects or any(tag.tag not in object_tags for tag in control.objects):
            return None
        refuse_attributes(control, UNSERVED_ATTRIBUTES)
        if len(control.objects) > 1:
            names = ", ".join(repr(tag.name) for tag in control.objects)
            raise UnservedError(f"toName names several texts ({names}), expected one")
        (tag,) = control.objects
        for name, served in SERVED_VALUES.items():
            value = tag.attributes.get(name, served[0])
            if value not in served:
                raise UnservedError(f"{name}={value!r} of {tag.name!r}: the text must stand in the task's data")
        if not control.labels:
            raise UnservedError("it has no labels")
        context = tuple(each for each in control.context if MODALITIES.get(each.tag) == Modality.TEXT)
        rivals = rivals_of(control, {control.name}, ON_TEXTS)
        return cls(control.name, tag.name, tag, control.tag.lower(), control.labels, rivals, context)

    def model_input(self, data: TaskData) -> SpansInput:
        """Ask for the spans of each label in the flat text of the task."""
        text = Content(modality=Modality.TEXT, text=flat_text(self.tag, data).text)
        return SpansInput(contents=(text,), labels=tuple(label.texts for label in self.labels))

    def written(self, question: SpansInput, data: TaskData) -> WrittenSpansInput | None:
        """Ask a model to copy the spans; see `Problem.written`. It reads the texts of the context first."""
        context = [content for tag in self.context for content in optional_contents(tag, data)]
        names = [label.texts[0] for label in self.labels]
        return written_if_text(
            WrittenSpansInput,
            question,
            written_instruction(self.asking, "Find the parts of the text.", spans_of(names)),
            contents=(*context, *question.contents),
            labels=question.labels,
        )

    def prediction(self, output: SpanScores, data: TaskData) -> Prediction:
        """Predict the spans. The score is their mean probability, or the probability that the text has no span."""
        text = flat_text(self.tag, data)
        predicted = [
            regions.labels(
                self.from_name,
                self.to_name,
                self.region_type,
                text.value(span.start, span.end),
                [self.labels[span.label].value],
            )
            for span in output.spans
        ]
        if not predicted:
            return Prediction([], output.no_span_probability)
        return Prediction(predicted, sum(span.probability for span in output.spans) / len(output.spans))

    def target(self, result: list[regions.Region], data: TaskData) -> SpanTarget:
        """Return the spans of the annotation as offsets into the flat text; none if the text has none.

        Raises:
            MissingTargetError: see `Problem.target`; also if only other control tags were used to mark spans.
        """
        refuse_unused(regions_of(result), self.claims, self.to_name, ON_TEXTS)
        text = flat_text(self.tag, data)
        spans: set[tuple[int, int, int]] = set()
        for value in values_of(result, self.from_name):
            names = list_in(value, self.region_type, self.from_name)
            indices = [find_label(self.labels, name) if isinstance(name, str) else None for name in names]
            if None in indices:
                raise MissingTargetError(
                    f"{self.from_name!r} was answered {shown(names)}, which the label config no longer has"
                )
            start, end = text.span(value)
            spans |= {(start, end, index) for index in indices if index is not None}
        return SpanTarget(tuple(sorted(spans)))

    def perfect_output(self, target: SpanTarget) -> SpanScores:
        """Return the right spans, each with probability 1."""
        return SpanScores(
            spans=tuple(Span(start=start, end=end, label=label) for start, end, label in target.spans)
        )

    def metrics(self, targets: Sequence[SpanTarget], outputs: Sequence[Any]) -> Metrics:
        """Compute the metrics of `lorabel.evaluation.span_metrics.entities`."""
        predicted = [[(span.start, span.end, span.label) for span in output.spans] for output in outputs]
        return entities([target.spans for target in targets], predicted, [label.value for label in self.labels])

    @property
    def is_silent_until_taught(self) -> bool:
        """Return True: only annotations show where spans begin and end."""
        return True

    def aggregate(self, targets: Sequence[SpanTarget]) -> SpanTarget:
        """Keep the spans of more than half of the annotators; the newest target decides on exactly half."""
        votes = Counter(span for target in targets for span in target.spans)
        half = len(targets) / 2
        newest = targets[-1].spans
        kept = [span for span, count in votes.items() if count > half or (count == half and span in newest)]
        return SpanTarget(tuple(sorted(kept)))

    def may_be_unused(self, target: SpanTarget) -> bool:
        """Return whether no span is marked, and there are `rivals` to mark with."""
        return bool(self.rivals) and not target.spans

    def class_of(self, target: SpanTarget) -> tuple[int, ...]:
        """Return the labels that occur in the text."""
        return tuple(sorted({label for _, _, label in target.spans}))
