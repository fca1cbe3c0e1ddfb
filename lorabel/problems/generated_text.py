"""`<TextArea>` over `<Text>`, `<HyperText>` or `<Paragraphs>`: a text about the text, which a model writes.

<Header value="Sum the ticket up: product; problem; urgency"/>
<Text name="ticket" value="$ticket"/>
<TextArea name="summary" toName="ticket"/>

The instruction is that of the project's extra params, else the tag's `prompt`, `hint` or `placeholder`, else the
`<Header>` before it. An annotation's answer is {"type": "textarea", "value": {"text": ["Pump P3; leak; high"]}}.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

from lorabel.contracts import Content, Contract, Input, Modality
from lorabel.errors import MissingTargetError, UnservedError
from lorabel.evaluation.metrics import Metrics
from lorabel.evaluation.written_text import written_texts
from lorabel.labeling import regions
from lorabel.labeling.label_config import ControlTag, ObjectTag
from lorabel.labeling.task_content import MODALITIES, NothingShownError, contents
from lorabel.problems import _correctness
from lorabel.problems._answers import shown, values_of
from lorabel.problems.base import Case, Prediction, Problem, Sample, TaskData
from lorabel.text_contracts import TextInput, TextTarget, WrittenText

# Attributes of the control tag that may hold the instruction; the first that is set is used.
INSTRUCTION_ATTRIBUTES = ("prompt", "hint", "placeholder")
# Key of a project's own instruction in its extra params, which goes before those of the label config.
INSTRUCTION = "instruction"
# Key of a number in a project's extra params: the smallest ROUGE-L of a text that counts as right.
RIGHT_FROM = "right_from"


@dataclass(frozen=True)
class GeneratedText(Problem):
    """A text for a text: a summary, a translation, an answer.

    Attributes:
        objects: the object tags of the texts, then those that no control tag names, such as a question.
        instruction: says what to write.
        right_from: smallest ROUGE-L of a text that counts as right when scores are calibrated.
    """

    name: ClassVar[str] = "generated_text"
    zero_shot: ClassVar[str] = (
        "A language model follows the instruction: the tag's `prompt`, `hint` or `placeholder`, or the `<Header>` "
        "before it."
    )
    learns: ClassVar[str] = "What annotators write for a task, word by word."
    input_type: ClassVar[type[Input]] = TextInput
    output_type: ClassVar[type[Contract]] = WrittenText
    has_offset: ClassVar[bool] = True
    SAMPLES: ClassVar[tuple[Sample, ...]] = (
        Sample(
            label_config='<View><Header value="Sum up."/><Text name="text" value="$text"/>'
            '<TextArea name="summary" toName="text"/></View>',
            data={"text": "The pump in hall 3 leaks again."},
            result=[regions.textarea("summary", "text", ["Pump leaks."])],
            opposite=[regions.textarea("summary", "text", ["All is well."])],
        ),
        Sample(
            label_config='<View><HyperText name="page" value="$html"/>'
            '<TextArea name="german" toName="page" hint="Translate."/></View>',
            data={"html": "<p>Good <b>day</b></p>"},
            result=[regions.textarea("german", "page", ["Guten Tag"])],
            opposite=[regions.textarea("german", "page", ["Gute Nacht"])],
        ),
        Sample(
            label_config='<View><Paragraphs name="talk" value="$talk"/>'
            '<TextArea name="reply" toName="talk" placeholder="Reply."/></View>',
            data={"talk": [{"author": "Ann", "text": "Where is my parcel?"}]},
            result=[regions.textarea("reply", "talk", ["On its way."])],
            opposite=[regions.textarea("reply", "talk", ["It is lost."])],
        ),
    )

    objects: tuple[ObjectTag, ...]
    instruction: str
    right_from: float = _correctness.RIGHT_FROM

    @classmethod
    def match(cls, control: ControlTag) -> Self | None:
        """Bind `TextArea` on texts; see `Problem.match`."""
        if control.tag != "TextArea" or not control.objects or not all(map(_is_text, control.objects)):
            return None
        if control.attributes.get("value"):
            raise UnservedError(
                f"value={control.attributes['value']!r}: the editor fills it in, beside what is predicted"
            )
        unread = [tag for tag in control.context if not _is_text(tag)]
        if unread:
            raise UnservedError(f"the task also shows {unread[0].tag} {unread[0].name!r}, and only texts are read")
        own = (control.attributes.get(name, "").strip() for name in INSTRUCTION_ATTRIBUTES)
        instruction = next(filter(None, own), "")
        is_required = control.attributes.get("required", "false").lower() == "true"
        if not instruction and not is_required and any(tag.tag != "TextArea" for tag in control.siblings):
            raise UnservedError(
                "it may be for notes beside other answers; say in `prompt` what a model should write, or set "
                'required="true"'
            )
        instruction = instruction or control.header or f"Write the {control.name} of the text."
        return cls(control.name, control.objects[0].name, (*control.objects, *control.context), instruction)

    def for_project(self, extra_params: Mapping[str, Any]) -> Self:
        """Return the binding with the project's own instruction, if its extra params have one, and `right_from`.

        They are under these names: a text and a number, or objects with one for each control tag.
        """
        instruction, right_from = (self._own(extra_params.get(name)) for name in (INSTRUCTION, RIGHT_FROM))
        binding = self
        if isinstance(instruction, str) and instruction.strip():
            binding = replace(binding, instruction=instruction.strip())
        if isinstance(right_from, int | float) and not isinstance(right_from, bool) and 0 <= right_from <= 1:
            binding = replace(binding, right_from=float(right_from))
        return binding

    def _own(self, value: Any) -> Any:
        return value.get(self.from_name) if isinstance(value, dict) else value

    def model_input(self, data: TaskData) -> TextInput:
        """Ask for a text about the texts of the task. Texts that no control tag names may be missing."""
        texts: list[Content] = []
        nothing: NothingShownError | None = None
        for tag in self.objects:
            try:
                texts += contents(tag, data)
            except NothingShownError as error:
                nothing = nothing or error
        if nothing is not None and not texts:
            raise nothing
        is_dialogue = all(tag.tag == "Paragraphs" for tag in self.objects)
        return TextInput(contents=tuple(texts), instruction=self.instruction, is_end_kept=is_dialogue)

    def prediction(self, output: WrittenText, data: TaskData) -> Prediction:
        """Predict the text; nothing if it is empty."""
        if not output.text:
            return Prediction([], 0.0)
        region = regions.textarea(self.from_name, self.to_name, [output.text])
        return Prediction([region], output.probability)

    def target(self, result: list[regions.Region], data: TaskData) -> TextTarget:
        """Return the text of the annotation. Several texts of one TextArea are lines of it."""
        texts = [text for value in values_of(result, self.from_name) for text in self._texts(value)]
        text = "\n".join(text.strip() for text in texts if text.strip())
        if not text:
            raise MissingTargetError(f"{self.from_name!r} was left empty: there is no text to learn from")
        return TextTarget(text)

    def aggregate(self, targets: Sequence[TextTarget]) -> TextTarget:
        """Return the newest text, with those of the other annotators."""
        return replace(targets[-1], others=tuple(target.text for target in targets[:-1]))

    def _texts(self, value: dict[str, Any]) -> list[str]:
        """The texts in a value of the control tag. Imported annotations may have one that is not in a list."""
        answer = value.get("text", [])
        texts = [answer] if isinstance(answer, str) else answer
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            raise MissingTargetError(f"{self.from_name!r} was answered {shown(answer)}, expected texts")
        return texts

    def distributions(self, output: WrittenText) -> Sequence[Sequence[float]]:
        """Return (right, not right)."""
        return (_correctness.distribution(output),)

    def cases(self, output: WrittenText, target: TextTarget) -> Sequence[Case]:
        """Return whether the text was right; none for an empty text, of which nothing is predicted."""
        return (_correctness.case_of(output, target, self.right_from),) if output.text else ()

    def calibrated(self, output: WrittenText, temperature: float) -> WrittenText:
        """Return the output with temperature scaling; see `Problem.calibrated`."""
        return _correctness.calibrated(output, temperature, 0.0)

    def calibrated_with_offset(self, output: WrittenText, temperature: float, offset: float) -> WrittenText:
        """Return the output with the calibrated probability that the text is right."""
        return _correctness.calibrated(output, temperature, offset)

    def perfect_output(self, target: TextTarget) -> WrittenText:
        """Return the text itself with probability 1."""
        return WrittenText(text=target.text, probability=1.0)

    def metrics(self, targets: Sequence[TextTarget], outputs: Sequence[WrittenText]) -> Metrics:
        """Compute the metrics of `lorabel.evaluation.written_text.written_texts`."""
        texts, others = [target.text for target in targets], [target.others for target in targets]
        return written_texts(texts, [output.text for output in outputs], others)


def _is_text(tag: ObjectTag) -> bool:
    return MODALITIES.get(tag.tag) == Modality.TEXT
