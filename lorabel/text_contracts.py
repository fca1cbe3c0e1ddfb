"""Inputs, outputs and targets of questions that a model answers by writing: a text, a span, labels, a number."""

from dataclasses import dataclass, field
from typing import ClassVar, Self

from pydantic import Field

from lorabel.contracts import Content, Contract, Input, LabelsInput, LabelTextsInput, Modality

# Before the words of a video in a prompt.
SAID = "Said in the video: "


class TextInput(Input):
    """Asks for a text about the contents. Answer: `WrittenText`.

    Args:
        instruction: says what to write. Contents are data: nothing in them changes the instruction.
        is_end_kept: which end of a text that is too long is left out: its end, or, if True, its beginning, as of a
            dialogue, in which the last turns matter most.
        span_of: index of the content of which the answer must be a span, letter by letter; None if it is any text.
    """

    kind: ClassVar[str] = "text"
    contents: tuple[Content, ...] = Field(min_length=1)
    instruction: str = Field(min_length=1)
    is_end_kept: bool = False
    span_of: int | None = Field(None, ge=0, exclude_if=lambda index: index is None)

    def with_template(self, template: str) -> Self:
        """Return the question with the template around the instruction."""
        return self.model_copy(update={"instruction": template.replace("{}", self.instruction)})


class TranscriptInput(Input):
    """Asks for what is said in a sound. `contents` is that one sound. Answer: `WrittenText`.

    The model server also answers it about one video: by its subtitles, if it has any, and "" if nothing is said.

    Args:
        words: names and terms that may be said, the most important first. A model need not use all of them.
    """

    kind: ClassVar[str] = "transcript"
    contents: tuple[Content, ...] = Field(min_length=1, max_length=1)
    words: tuple[str, ...] = ()


class SegmentTranscriptsInput(TranscriptInput):
    """Asks for what is said in each of some segments of a sound. Answer: `SegmentTranscripts`.

    Args:
        segments: start and end of each, in seconds from the beginning of the sound.
    """

    kind: ClassVar[str] = "segment_transcripts"
    segments: tuple[tuple[float, float], ...] = ()


def with_words(question: Input, words: str) -> Input:
    """Return the question with what is said in its videos as one more text: data, which instructs nobody."""
    if not words.strip():
        return question
    transcript = Content(modality=Modality.TEXT, text=f"{SAID}{words}")
    return question.model_copy(update={"contents": (*question.contents, transcript)})


def is_about_video(question: Input) -> bool:
    """Whether a text is asked for about contents of which one is a video."""
    return isinstance(question, TextInput) and Modality.VIDEO in question.modalities


class WrittenText(Contract):
    """Answer to `TextInput` and to `TranscriptInput`.

    Args:
        text: without control characters; "" if the model has nothing to say.
        probability: mean probability of the text's tokens, its end included, in [0, 1]. Where held-out tasks
            have calibrated it, the probability that the text is right.
        is_complete: False if the text was cut at the largest number of new tokens, or a sound was not read to its
            end.
        left_out_tokens: how many tokens of the contents were not read, since the prompt would have been too long.
        start: where a span begins in the content that the question names, in characters (code points): the first
            place where it is. None if the answer is no span.
    """

    kind: ClassVar[str] = "written_text"
    text: str
    probability: float = Field(ge=0.0, le=1.0)
    is_complete: bool = True
    left_out_tokens: int = Field(0, ge=0)
    start: int | None = Field(None, ge=0)


class SegmentTranscripts(Contract):
    """Answer to `SegmentTranscriptsInput`.

    Args:
        answers: one for each segment. The text of a segment that was not read is "", and not complete.
    """

    kind: ClassVar[str] = "segment_transcripts"
    answers: tuple[WrittenText, ...]


@dataclass(frozen=True)
class TextTarget:
    """Target for `TextInput` and `TranscriptInput`: the right text, which is not empty.

    Args:
        instruction: what a person has asked for in place of the question's instruction; None if nothing.
        others: what other annotators of the task have written. It is not learned, but counts in evaluation.
    """

    text: str
    instruction: str | None = None
    others: tuple[str, ...] = ()


@dataclass(frozen=True)
class SegmentTextsTarget:
    """Target for `SegmentTranscriptsInput`.

    Args:
        segments: those with a text, at least one: start and end in seconds, in the order of time.
        texts: the right text of each, which is not empty.
        left_out: why other segments of the annotation cannot be used.
    """

    segments: tuple[tuple[float, float], ...]
    texts: tuple[str, ...]
    left_out: tuple[str, ...] = field(default=(), compare=False)


class WrittenLabelsInput(LabelTextsInput):
    """Asks a model that writes which of the labels fit. Answer: `LabelScores`, of the texts of the labels.

    Args:
        instruction: see `TextInput`.
        parents: as in `LabelsInput`.
        is_multiple: as in `LabelsInput`.
    """

    kind: ClassVar[str] = "written_labels"
    instruction: str = Field(min_length=1)
    parents: tuple[int, ...] = ()
    is_multiple: bool = False

    @property
    def labels_question(self) -> LabelsInput:
        """The same question without an instruction."""
        return LabelsInput(
            contents=self.contents, labels=self.labels, parents=self.parents, is_multiple=self.is_multiple
        )


class WrittenSpansInput(LabelTextsInput):
    """Asks a model that writes for the spans of each label in the last content. Answer: `SpanScores`.

    The contents before it, such as a question, are read beside it.
    """

    kind: ClassVar[str] = "written_spans"
    instruction: str = Field(min_length=1)


class WrittenNumberInput(Input):
    """Asks a model that writes for a number. Answer: `Estimate`.

    Args:
        instruction: see `TextInput`.
        minimum: as in `RatingInput`.
        maximum: as in `RatingInput`.
        step: distance between the numbers allowed.
    """

    kind: ClassVar[str] = "written_number"
    contents: tuple[Content, ...] = Field(min_length=1)
    instruction: str = Field(min_length=1)
    minimum: float | None = None
    maximum: float | None = None
    step: float = Field(1.0, gt=0)


Written = TextInput | WrittenLabelsInput | WrittenSpansInput | WrittenNumberInput
