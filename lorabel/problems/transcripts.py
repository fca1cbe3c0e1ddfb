"""`<TextArea>` over an `<Audio>`: what is said in it.

    <Audio name="audio" value="$audio"/>
    <TextArea name="transcript" toName="audio"/>

An annotation's answer is {"type": "textarea", "value": {"text": ["Good morning, this is Ann."]}}.

Names and terms may stand after a colon in the tag's `prompt`, `hint` or `placeholder`, as in
`hint="Names: Ann, Zorvek"`.

A `TextArea` with `perRegion` asks about each segment: `lorabel.problems.segment_transcripts`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

from lorabel.contracts import Input
from lorabel.errors import MissingTargetError, UnservedError
from lorabel.evaluation.metrics import Metrics
from lorabel.evaluation.missed_words import missed_words, words_of
from lorabel.evaluation.transcript_metrics import transcripts, word_error_rate
from lorabel.labeling import regions
from lorabel.labeling.label_config import ControlTag, ObjectTag
from lorabel.labeling.task_content import contents
from lorabel.problems import _correctness
from lorabel.problems._answers import values_of
from lorabel.problems._text_areas import TextArea
from lorabel.problems.base import Case, Prediction, Sample, TaskData
from lorabel.problems.instructions import WORDS, own_instruction
from lorabel.text_contracts import TextTarget, TranscriptInput, WrittenText

# A transcript counts as right if its word error rate is no higher.
RIGHT_UP_TO = 0.1


@dataclass(frozen=True)
class Transcripts(TextArea):
    """Speech recognition: a transcript of a whole sound.

    Attributes:
        tag: the object tag of the sound.
        words: names and terms that may be said, the most important first.
    """

    name: ClassVar[str] = "transcripts"
    zero_shot: ClassVar[str] = "A speech model writes what is said, in the language that it hears."
    learns: ClassVar[str] = (
        "Names, terms and spelling, from corrected transcripts. Before any run, rare words that people have put "
        "into them, or that the tag's `hint` lists after a colon, are told to the model."
    )
    input_type: ClassVar[type[Input]] = TranscriptInput
    SAMPLES: ClassVar[tuple[Sample, ...]] = (
        Sample(
            label_config='<View><Audio name="audio" value="$audio"/><Header value="Provide Transcription"/>'
            '<TextArea name="transcript" toName="audio" rows="4" editable="true" maxSubmissions="1"/></View>',
            data={"audio": "/data/upload/1/talk.wav"},
            result=[regions.textarea("transcript", "audio", ["Good morning."])],
            opposite=[regions.textarea("transcript", "audio", ["See you soon."])],
        ),
    )

    tag: ObjectTag
    words: tuple[str, ...] = ()

    @classmethod
    def match(cls, control: ControlTag) -> Self | None:
        """Bind `TextArea` on one sound; see `Problem.match`."""
        if control.tag != "TextArea" or not control.objects or any(tag.tag != "Audio" for tag in control.objects):
            return None
        if len(control.objects) > 1:
            names = ", ".join(repr(tag.name) for tag in control.objects)
            raise UnservedError(f"toName names several sounds ({names}), expected one")
        if control.attributes.get("value"):
            raise UnservedError(
                f"value={control.attributes['value']!r}: the editor fills it in, beside what is predicted"
            )
        earlier = [tag for tag in control.siblings if _may_be_transcript(tag) and tag.order < control.order]
        if earlier:
            raise UnservedError(f"the transcript goes into {earlier[0].name!r}")
        is_required = control.attributes.get("required", "false").lower() == "true"
        if not is_required and any(tag.tag != "TextArea" for tag in control.siblings):
            raise UnservedError('it may be for notes beside other answers; set required="true" for a transcript')
        (tag,) = control.objects
        _, _, listed = own_instruction(control).partition(":")
        return cls(control.name, tag.name, tag, tuple(words_of(listed)))

    def for_project(self, extra_params: Mapping[str, Any]) -> Self:
        """Return the binding with the words of the project's transcripts after those of the label config."""
        words = extra_params.get(WORDS)
        of_tag = words.get(self.from_name) if isinstance(words, Mapping) else None
        return replace(self, words=(*self.words, *of_tag)) if of_tag else self

    def model_input(self, data: TaskData) -> TranscriptInput:
        """Ask what is said in the sound."""
        return TranscriptInput(contents=contents(self.tag, data), words=self.words)

    def asked_for(self, question: Input, target: TextTarget) -> Input:
        """Ask without words: they may come from the very transcripts that are learned or held out."""
        return question.model_copy(update={"words": ()})

    def missed_words(self, result: Any, shown: Any) -> list[str]:
        """Return the words of an annotation's transcript that were not in what the annotator was shown.

        Args:
            result: of the annotation.
            shown: the result of the prediction; None if it is not known. Then these are all words.
        """
        try:
            return missed_words(self.transcript(result), None if shown is None else self.transcript(shown))
        except MissingTargetError:
            return []

    def prediction(self, output: WrittenText, data: TaskData) -> Prediction:
        """Predict the transcript; nothing if nobody speaks."""
        if not output.text:
            return Prediction([], 0.0)
        return Prediction([regions.textarea(self.from_name, self.to_name, [output.text])], output.probability)

    def target(self, result: list[regions.Region], data: TaskData) -> TextTarget:
        """Return the transcript. Several texts of one TextArea are lines of it."""
        transcript = self.transcript(result)
        if not transcript:
            raise MissingTargetError(f"{self.from_name!r} was left empty: there is no transcript to learn from")
        return TextTarget(transcript)

    def transcript(self, result: Any) -> str:
        """Return the texts of a result as one.

        Raises:
            MissingTargetError: nobody knows what is meant.
        """
        texts = [text.strip() for value in values_of(result, self.from_name) for text in self._texts(value)]
        return "\n".join(filter(None, texts))

    def aggregate(self, targets: Sequence[TextTarget]) -> TextTarget:
        """Return the newest transcript, with those of the other annotators."""
        return replace(targets[-1], others=tuple(target.text for target in targets[:-1]))

    def cases(self, output: WrittenText, target: TextTarget) -> Sequence[Case]:
        """Return whether the transcript was right; none for an empty one, of which nothing is predicted."""
        if not output.text:
            return ()
        rate = min(word_error_rate(answer, output.text) for answer in (target.text, *target.others))
        return (Case(_correctness.distribution(output), int(rate > RIGHT_UP_TO)),)

    def metrics(self, targets: Sequence[TextTarget], outputs: Sequence[WrittenText]) -> Metrics:
        """Compute the metrics of `lorabel.evaluation.transcript_metrics.transcripts`."""
        texts, others = [target.text for target in targets], [target.others for target in targets]
        return transcripts(texts, [output.text for output in outputs], others)


def _may_be_transcript(tag: ControlTag) -> bool:
    return tag.tag == "TextArea" and not tag.is_per_region
