"""`<TextArea>` over texts (`<Text>`, `<HyperText>`, `<Paragraphs>`), `<Image>`, `<Video>`: a model writes of them.

<Header value="Sum the ticket up: product; problem; urgency"/>
<Text name="ticket" value="$ticket"/>
<TextArea name="summary" toName="ticket"/>

With a picture it is a caption, and with a question beside the picture its answer:

<Image name="photo" value="$photo"/>
<Text name="question" value="$question"/>
<TextArea name="answer" toName="photo" prompt="Answer the question."/>

Of a video it reads some frames, and what is said in it: its subtitles, else its transcript.

The instruction is that of the project's extra params, else the tag's `prompt`, `hint` or `placeholder`, else the
`<Header>` before it. An annotation's answer is {"type": "textarea", "value": {"text": ["Pump P3; leak; high"]}}.

With `extractive="true"` the answer is a span of the text, and the other texts of the task, such as a question, are
read before it. A `TextArea` with `smart="true"` is a prompt box: what is typed there is answered at once, in the
first `TextArea` without it, or else in itself.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

from lorabel.contracts import Content, Input, Modality
from lorabel.errors import MissingTargetError, UnreadableError, UnservedError
from lorabel.evaluation.metrics import Metrics
from lorabel.evaluation.written_text import written_texts
from lorabel.labeling import regions
from lorabel.labeling.label_config import ControlTag, ObjectTag
from lorabel.labeling.task_content import MODALITIES, WORDS, NothingShownError, contents, optional_contents
from lorabel.problems import _correctness
from lorabel.problems._answers import shown, values_of
from lorabel.problems._text_areas import TextArea
from lorabel.problems.base import Case, Prediction, Sample, TaskData
from lorabel.problems.instructions import own_instruction, project_instruction
from lorabel.text_contracts import TextInput, TextTarget, WrittenText

# Key of a number in a project's extra params: the smallest ROUGE-L of a text that counts as right.
RIGHT_FROM = "right_from"


@dataclass(frozen=True)
class GeneratedText(TextArea):
    """A text for texts, pictures and videos: a summary, a translation, a caption, an answer.

    Attributes:
        objects: the object tags that the control tag names, then those that none names, such as a question.
        instruction: says what to write.
        prompt_tag: name of the prompt box that this control tag answers; None if there is none.
        is_extractive: whether the answer is a span of the text of the first object tag.
        right_from: smallest ROUGE-L of a text that counts as right when scores are calibrated.
    """

    name: ClassVar[str] = "generated_text"
    zero_shot: ClassVar[str] = (
        "A language model follows the instruction: the tag's `prompt`, `hint` or `placeholder`, or the `<Header>` "
        "before it. For pictures and videos it is a vision-language model."
    )
    learns: ClassVar[str] = "What annotators write for a task, word by word."
    input_type: ClassVar[type[Input]] = TextInput
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
        Sample(
            label_config='<View><Text name="text" value="$text"/><TextArea name="ask" toName="text" smart="true"/>'
            '<TextArea name="answer" toName="text"/></View>',
            data={"text": "The pump in hall 3 leaks again."},
            result=[regions.textarea("answer", "text", ["In hall 3."])],
            opposite=[regions.textarea("answer", "text", ["Nowhere."])],
            context=[regions.textarea("ask", "text", ["Where?"])],
        ),
        Sample(
            label_config='<View><Text name="question" value="$question"/><Text name="text" value="$text"/>'
            '<TextArea name="answer" toName="text" extractive="true"/></View>',
            data={"text": "The pump in hall 3 leaks again.", "question": "What leaks?"},
            result=[regions.textarea("answer", "text", ["The pump"])],
            opposite=[regions.textarea("answer", "text", ["hall 3"])],
        ),
        Sample(
            label_config='<View><Image name="image" value="$image"/>'
            '<TextArea name="caption" toName="image" rows="2" editable="true" maxSubmissions="1"/></View>',
            data={"image": "/data/upload/1/pump.jpg"},
            result=[regions.textarea("caption", "image", ["a red pump"])],
            opposite=[regions.textarea("caption", "image", ["two valves"])],
        ),
        Sample(
            label_config='<View><Image name="image" valueList="$images"/><Text name="question" value="$question"/>'
            '<TextArea name="answer" toName="image" prompt="Answer the question."/></View>',
            data={
                "images": ["/data/upload/1/before.jpg", "/data/upload/1/after.jpg"],
                "question": "What has changed?",
            },
            result=[regions.textarea("answer", "image", ["the valve"])],
            opposite=[regions.textarea("answer", "image", ["nothing"])],
        ),
        Sample(
            label_config='<View><Video name="video" value="$video"/>'
            '<TextArea name="description" toName="video" prompt="Describe the video."/></View>',
            data={"video": "/data/upload/1/pump.mp4"},
            result=[regions.textarea("description", "video", ["a pump is repaired"])],
            opposite=[regions.textarea("description", "video", ["two valves"])],
        ),
    )

    objects: tuple[ObjectTag, ...]
    instruction: str
    prompt_tag: str | None = None
    is_extractive: bool = False
    right_from: float = _correctness.RIGHT_FROM

    @classmethod
    def match(cls, control: ControlTag) -> Self | None:
        """Bind `TextArea` on texts, pictures and videos; see `Problem.match`."""
        if control.tag != "TextArea" or not control.objects or not all(map(_is_read, control.objects)):
            return None
        if control.attributes.get("value"):
            raise UnservedError(
                f"value={control.attributes['value']!r}: the editor fills it in, beside what is predicted"
            )
        unread = [tag for tag in control.context if not _is_read(tag)]
        if unread:
            raise UnservedError(f"the task also shows {unread[0].tag} {unread[0].name!r}, which is not read")
        answers = _answer_tags(control)
        if control.is_smart and answers:
            return None  # what is typed here is answered there
        instruction = own_instruction(control)
        is_required = control.attributes.get("required", "false").lower() == "true"
        prompt_tag = _prompt_tag(control) if not answers or control.order <= answers[0].order else None
        is_extractive = control.attributes.get("extractive", "false").lower() == "true"
        is_asked_for = bool(instruction or prompt_tag or is_required or is_extractive)
        if not is_asked_for and any(tag.tag != "TextArea" for tag in control.siblings):
            raise UnservedError(
                "it may be for notes beside other answers; say in `prompt` what a model should write, or set "
                'required="true"'
            )
        object_word = WORDS[MODALITIES[control.objects[0].tag]]
        instruction = instruction or control.header or f"Write the {control.name} of the {object_word}."
        if is_extractive and not _is_text(control.objects[0]):
            raise UnservedError("extractive='true': the answer can only be a span of a text")
        return cls(
            control.name,
            control.objects[0].name,
            (*control.objects, *control.context),
            instruction,
            prompt_tag,
            is_extractive,
        )

    def for_project(self, extra_params: Mapping[str, Any]) -> Self:
        """Return the binding with the project's own instruction and `right_from`, if its extra params have them.

        `right_from` is a number, or an object with one for each control tag.
        """
        binding = self
        if instruction := project_instruction(self.from_name, extra_params):
            binding = replace(binding, instruction=instruction)
        right_from = extra_params.get(RIGHT_FROM)
        if isinstance(right_from, dict):
            right_from = right_from.get(self.from_name)
        if isinstance(right_from, int | float) and not isinstance(right_from, bool) and 0 <= right_from <= 1:
            binding = replace(binding, right_from=float(right_from))
        return binding

    @property
    def claims(self) -> tuple[str, ...]:
        """The control tag, and its prompt box."""
        names = dict.fromkeys([self.from_name, self.prompt_tag])
        return tuple(name for name in names if name is not None)

    def model_input(self, data: TaskData) -> TextInput:
        """Ask for a text about what the task shows. What no control tag names may be missing.

        The text of which the answer is a span comes last, so that a question before it is never cut off.
        """
        if self.is_extractive:
            return self._span_input(data)
        parts: list[Content] = []
        nothing: NothingShownError | None = None
        for tag in self.objects:
            try:
                parts += contents(tag, data)
            except NothingShownError as error:
                if tag.name == self.to_name and not _is_text(tag):
                    raise
                nothing = nothing or error
        if nothing is not None and not parts:
            raise nothing
        is_dialogue = all(tag.tag == "Paragraphs" for tag in self.objects)
        return TextInput(contents=tuple(parts), instruction=self.instruction, is_end_kept=is_dialogue)

    def _span_input(self, data: TaskData) -> TextInput:
        """Ask for a span of the text, which is the first object tag's."""
        tag, *others = self.objects
        texts = [content for other in others for content in optional_contents(other, data)]
        return TextInput(contents=(*texts, *contents(tag, data)), instruction=self.instruction, span_of=len(texts))

    def prompted(self, question: Input, context: Sequence[regions.Region]) -> TextInput | None:
        """Ask what was typed last into the prompt box; see `Problem.prompted`."""
        if self.prompt_tag is None or not context or context[-1].get("from_name") != self.prompt_tag:
            return None
        try:
            typed = self._typed(context)
        except MissingTargetError as error:
            raise UnreadableError(f"the prompt box cannot be read: {error}", is_permanent=True) from error
        if typed is None:
            raise UnreadableError("nothing is typed into the prompt box", is_permanent=True)
        asked: TextInput = question.model_copy(update={"instruction": typed})  # type: ignore[assignment]
        return asked

    def typed_instruction(self, context: Sequence[regions.Region]) -> str | None:
        """Return what was typed last into the prompt box; see `Problem.typed_instruction`."""
        return None if self.prompt_tag is None else self._typed(context)

    def asked_for(self, question: Input, target: TextTarget) -> Input:
        """Ask what the annotator has typed, where that was the case; see `Problem.asked_for`."""
        typed = target.instruction
        return question if typed is None else question.model_copy(update={"instruction": typed})

    def prediction(self, output: WrittenText, data: TaskData) -> Prediction:
        """Predict the text; nothing if it is empty."""
        if not output.text:
            return Prediction([], 0.0)
        region = regions.textarea(self.from_name, self.to_name, [output.text])
        return Prediction([region], output.probability)

    def target(self, result: list[regions.Region], data: TaskData) -> TextTarget:
        """Return the text of the annotation, and what was typed for it. Several texts of one TextArea are lines of
        it."""
        texts = self._written_texts(result, self.from_name)
        # In a prompt box that has its answer in itself, what was typed is gone.
        typed = None if self.prompt_tag in (None, self.from_name) else self._typed(result)
        text = "\n".join(texts)
        if not text:
            raise MissingTargetError(f"{self.from_name!r} was left empty: there is no text to learn from")
        if self.is_extractive:
            self._check_span(text, data)
        return TextTarget(text, typed)

    def _check_span(self, text: str, data: TaskData) -> None:
        """Raise MissingTargetError if the answer is no span of the text. A text in a file is not read here."""
        (content,) = contents(self.objects[0], data)
        if content.text is not None and text not in content.text:
            raise MissingTargetError(
                f"{self.from_name!r} was answered {shown(text)}, which is not in the text letter by letter"
            )

    def _typed(self, result: Sequence[regions.Region]) -> str | None:
        """What was typed last into the prompt box."""
        return next(reversed(self._written_texts(result, self.prompt_tag or "")), None)

    def _written_texts(self, result: Sequence[regions.Region], from_name: str) -> list[str]:
        """All texts of a control tag that are not empty."""
        texts = [text.strip() for value in values_of(result, from_name) for text in self._texts(value)]
        return [text for text in texts if text]

    def aggregate(self, targets: Sequence[TextTarget]) -> TextTarget:
        """Return the newest text, with those of the other annotators who were asked the same."""
        newest = targets[-1]
        others = [target.text for target in targets[:-1] if target.instruction == newest.instruction]
        return replace(newest, others=tuple(others))

    def cases(self, output: WrittenText, target: TextTarget) -> Sequence[Case]:
        """Return whether the text was right; none for an empty text, of which nothing is predicted."""
        return (_correctness.case_of(output, target, self.right_from),) if output.text else ()

    def metrics(self, targets: Sequence[TextTarget], outputs: Sequence[WrittenText]) -> Metrics:
        """Compute the metrics of `lorabel.evaluation.written_text.written_texts`."""
        texts, others = [target.text for target in targets], [target.others for target in targets]
        return written_texts(texts, [output.text for output in outputs], others)


def _answer_tags(control: ControlTag) -> list[ControlTag]:
    """The other control tags with the same object tags in which a text may be written that was asked for."""
    return [tag for tag in control.siblings if tag.tag == "TextArea" and not tag.is_smart]


def _prompt_tag(control: ControlTag) -> str | None:
    """The first prompt box for the object tags of a control tag, which may be itself."""
    boxes = [tag for tag in (control, *control.siblings) if tag.tag == "TextArea" and tag.is_smart]
    return min(boxes, key=lambda tag: tag.order).name if boxes else None


def _is_text(tag: ObjectTag) -> bool:
    return MODALITIES.get(tag.tag) == Modality.TEXT


def _is_read(tag: ObjectTag) -> bool:
    return MODALITIES.get(tag.tag) in (Modality.TEXT, Modality.IMAGE, Modality.VIDEO)
