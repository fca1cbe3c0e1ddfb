"""`<TextArea perRegion="true">` over an `<Audio>` with `<Labels>`: what is said in each segment.

    <Labels name="label" toName="audio"><Label value="Speech"/></Labels>
    <Audio name="audio" value="$audio"/>
    <TextArea name="transcript" toName="audio" perRegion="true"/>

The text is a region of its own, with the id and the place of the segment:

    {"id": "a1", "type": "labels", "from_name": "label", "original_length": 9,
     "value": {"start": 0.5, "end": 1.5, "channel": 0, "labels": ["Speech"]}}
    {"id": "a1", "type": "textarea", "from_name": "transcript", "original_length": 9,
     "value": {"start": 0.5, "end": 1.5, "channel": 0, "text": ["Good morning."]}}

`lorabel.problems.segments_in_time` predicts the segments, and what is said in them is written down. Where an
annotator has drawn segments and has left out texts, these are the segments.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Self

from lorabel.contracts import Contract, Input
from lorabel.errors import MissingTargetError, UnservedError
from lorabel.evaluation.metrics import Metrics
from lorabel.evaluation.missed_words import words_of
from lorabel.evaluation.transcript_metrics import transcripts
from lorabel.labeling import regions
from lorabel.labeling.label_config import ControlTag, ObjectTag
from lorabel.labeling.regions import Region, about_segment, sound_segment
from lorabel.labeling.task_content import contents
from lorabel.problems import _correctness
from lorabel.problems._answers import regions_of, shown
from lorabel.problems._segments import Span, finite_number
from lorabel.problems.base import Case, Prediction, Problem, Sample, TaskData
from lorabel.problems.instructions import own_instruction
from lorabel.problems.transcripts import Transcripts
from lorabel.text_contracts import (
    SegmentTextsTarget,
    SegmentTranscripts,
    SegmentTranscriptsInput,
    TextTarget,
    WrittenText,
)

# Segments of one question. Each takes as much of a speech model as 30 s of sound.
MOST_SEGMENTS = 300
SAMPLE_SPANS, SAMPLE_LENGTH_S = ((0.0, 0.75), (0.75, 1.5)), 1.5


def _sample_result(*texts: str) -> list[Region]:
    segments = [
        {**sound_segment("label", "audio", span, SAMPLE_LENGTH_S, ["Speech"]), "id": f"segment{number}"}
        for number, span in enumerate(SAMPLE_SPANS)
    ]
    answers = [regions.textarea("transcript", "audio", [text]) for text in texts]
    said = [
        {**about_segment(segment, answer), "score": 1.0} for segment, answer in zip(segments, answers, strict=True)
    ]
    return [*segments, *said]


@dataclass(frozen=True)
class TranscriptsOfSegments(Problem):
    """Speech recognition, segment by segment.

    Attributes:
        tag: the object tag of the sound.
        one: the binding as if the control tag were about the whole sound.
        drawn_by: names of the control tags that draw segments.
        segments: the regions that are asked about, each of `drawn_by`; empty until `about` was called.
        given: answers that people have given about others of the segments.
    """

    name: ClassVar[str] = "segment_transcripts"
    zero_shot: ClassVar[str] = (
        "A speech model writes what is said in each segment that is predicted, or that an annotator has drawn and "
        "left without a text."
    )
    learns: ClassVar[str] = Transcripts.learns
    is_per_region: ClassVar[bool] = True
    has_offset: ClassVar[bool] = True
    input_type: ClassVar[type[Input]] = SegmentTranscriptsInput
    output_type: ClassVar[type[Contract]] = SegmentTranscripts
    SAMPLES: ClassVar[tuple[Sample, ...]] = (
        Sample(
            label_config='<View><Labels name="label" toName="audio"><Label value="Speech"/></Labels>'
            '<Audio name="audio" value="$audio"/><TextArea name="transcript" toName="audio" rows="2" '
            'editable="true" perRegion="true" required="true"/></View>',
            data={"audio": "/data/upload/1/talk.wav"},
            result=_sample_result("Good morning.", "How are you?"),
            opposite=_sample_result("See you soon.", "Good night."),
        ),
    )

    tag: ObjectTag
    one: Transcripts
    drawn_by: tuple[str, ...]
    segments: tuple[Region, ...] = field(default=(), hash=False)
    given: tuple[Region, ...] = field(default=(), hash=False)

    @classmethod
    def match(cls, control: ControlTag) -> Self | None:
        """Bind `TextArea` with `perRegion` on one sound, beside `Labels`; see `Problem.match`."""
        if control.tag != "TextArea" or [tag.tag for tag in control.objects] != ["Audio"]:
            return None
        (tag,) = control.objects
        others = [sibling for sibling in control.siblings if sibling.order < control.order]
        earlier = [other for other in others if other.tag == "TextArea" and other.is_per_region]
        if earlier:
            raise UnservedError(f"the texts of segments go into {earlier[0].name!r}")
        drawn_by = tuple(
            sibling.name for sibling in control.siblings if sibling.tag == "Labels" and not sibling.is_per_region
        )
        if not drawn_by:
            raise UnservedError(f"perRegion: no <Labels> draws segments on {tag.name!r}")
        _, _, listed = own_instruction(control).partition(":")
        one = Transcripts(control.name, tag.name, tag, tuple(words_of(listed)))
        return cls(control.name, tag.name, tag, one, drawn_by)

    def for_project(self, extra_params: Mapping[str, Any]) -> Self:
        """Return the binding with the words of the project's transcripts; see `Transcripts.for_project`."""
        return replace(self, one=self.one.for_project(extra_params))

    def missed_words(self, result: Any, shown: Any) -> list[str]:
        """Return the words of all texts of an annotation that were not shown; see `Transcripts.missed_words`."""
        return self.one.missed_words(result, shown)

    def about(self, regions: Sequence[Region]) -> Self | None:
        """Ask about the segments of `drawn_by`, at most MOST_SEGMENTS; see `Problem.about`.

        If some of them have a text already, as those of `begun` do, only the others are asked about.
        """
        # A region that several tags label has several results, with one id.
        of_id = {
            region["id"]: region
            for region in reversed(regions)
            if region.get("from_name") in self.drawn_by and _span_of([region]) is not None
        }
        drawn = list(of_id.values())[::-1]
        given = [region for region in regions if region.get("from_name") == self.from_name]
        answered = {region["id"] for region in given}
        segments = [region for region in drawn if region["id"] not in answered]
        if not segments:
            segments, given = drawn, []
        return replace(self, segments=tuple(segments[:MOST_SEGMENTS]), given=tuple(given)) if segments else None

    def begun(self, results: Sequence[list[Region]]) -> list[Region]:
        """Return the segments of the newest annotation, if one lacks a text; see `Problem.begun`."""
        try:
            groups = _groups(results[-1], {self.from_name, *self.drawn_by}) if results else []
            drawn = [parts for parts in groups if _span_of(parts) is not None and self._is_drawn(parts)]
            if all(self.one.transcript(parts) for parts in drawn):
                return []
        except MissingTargetError:  # nobody knows what is meant, as in `target`
            return []
        kept = []
        for parts in drawn:
            has_text = bool(self.one.transcript(parts))
            kept += [part for part in parts if has_text or part.get("from_name") != self.from_name]
        return kept

    def _is_drawn(self, parts: Sequence[Region]) -> bool:
        names = [part["from_name"] for part in parts]
        return all(isinstance(part.get("id"), str) for part in parts) and any(
            name in self.drawn_by for name in names
        )

    def model_input(self, data: TaskData) -> SegmentTranscriptsInput:
        """Ask what is said in each of the segments."""
        spans = tuple(span for region in self.segments if (span := _span_of([region])) is not None)
        return SegmentTranscriptsInput(contents=contents(self.tag, data), words=self.one.words, segments=spans)

    def asked_for(self, question: Input, target: SegmentTextsTarget) -> Input:
        """Ask about the segments that people drew, without words; see `Transcripts.asked_for`."""
        return question.model_copy(update={"words": (), "segments": target.segments})

    def prediction(self, output: SegmentTranscripts, data: TaskData) -> Prediction:
        """Predict a text for each segment in which somebody speaks. The score is the mean of theirs."""
        if not self.segments:
            return Prediction([], 0.0)
        said = [
            {
                **about_segment(segment, regions.textarea(self.from_name, self.to_name, [answer.text])),
                "score": answer.probability,
            }
            for segment, answer in zip(self.segments, output.answers, strict=True)
            if answer.text
        ]
        scores = [region["score"] for region in said]
        return Prediction([*self.given, *said], sum(scores) / len(scores) if scores else 0.0)

    def target(self, result: list[Region], data: TaskData) -> SegmentTextsTarget:
        """Return the segments with their texts. A segment without a text, or without a place, is left out.

        Raises:
            MissingTargetError: no segment has a text.
        """
        answers: list[tuple[Span, str]] = []
        faults: list[str] = []
        for parts in _groups(result, {self.from_name, *self.drawn_by}):
            of_parts = f"region {shown(parts[0].get('id'))}"
            try:
                span, text = _span_of(parts), self.one.transcript(parts)
            except MissingTargetError as error:
                faults.append(f"{of_parts}: {error}")
                continue
            if not text:
                faults.append(f"{of_parts}: {self.from_name!r} was left empty")
            elif span is None:
                faults.append(f"{of_parts}: it has no start and end in seconds, the start before the end")
            else:
                answers.append((span, text))
        if not answers:
            raise MissingTargetError(faults[0] if faults else f"no segment was answered in {self.from_name!r}")
        answers.sort()
        if len(answers) > MOST_SEGMENTS:
            faults.append(f"{len(answers) - MOST_SEGMENTS} segments more than {MOST_SEGMENTS}")
        spans, texts = zip(*answers[:MOST_SEGMENTS], strict=True)
        return SegmentTextsTarget(spans, texts, tuple(faults))

    def left_out(self, target: SegmentTextsTarget) -> Sequence[str]:
        """Return why segments are left out."""
        return target.left_out

    def aggregate(self, targets: Sequence[SegmentTextsTarget]) -> SegmentTextsTarget:
        """Return the newest annotator's segments and texts."""
        return targets[-1]

    def perfect_output(self, target: SegmentTextsTarget) -> SegmentTranscripts:
        """Return the right texts, each with probability 1."""
        return SegmentTranscripts(answers=tuple(WrittenText(text=text, probability=1.0) for text in target.texts))

    def distributions(self, output: SegmentTranscripts) -> Sequence[Sequence[float]]:
        """Return (right, not right) of each segment."""
        return [_correctness.distribution(answer) for answer in output.answers]

    def cases(self, output: SegmentTranscripts, target: SegmentTextsTarget) -> Sequence[Case]:
        """Return for each segment whether its text was right; see `Transcripts.cases`."""
        pairs = zip(output.answers, target.texts, strict=True)
        return [case for answer, text in pairs for case in self.one.cases(answer, TextTarget(text))]

    def calibrated(self, output: SegmentTranscripts, temperature: float) -> SegmentTranscripts:
        """Return the output with each text's probability calibrated; see `Problem.calibrated`."""
        return self.calibrated_with_offset(output, temperature, 0.0)

    def calibrated_with_offset(
        self, output: SegmentTranscripts, temperature: float, offset: float
    ) -> SegmentTranscripts:
        """Return the output with the calibrated probability that each text is right."""
        return SegmentTranscripts(
            answers=tuple(
                self.one.calibrated_with_offset(answer, temperature, offset) for answer in output.answers
            )
        )

    def metrics(self, targets: Sequence[SegmentTextsTarget], outputs: Sequence[SegmentTranscripts]) -> Metrics:
        """Compute the metrics of `lorabel.evaluation.transcript_metrics.transcripts` over all segments."""
        texts = [text for target in targets for text in target.texts]
        written = [answer.text for output in outputs for answer in output.answers]
        metrics = transcripts(texts, written)
        return replace(metrics, values={**metrics.values, "tasks": len(targets), "segments": len(texts)})


def _groups(result: Any, names: set[str]) -> list[list[Region]]:
    """The regions of each segment: those of an id, or of a place where there is no id."""
    groups: dict[Any, list[Region]] = {}
    for region in regions_of(result):
        if region.get("from_name") in names:
            id_ = region.get("id")
            groups.setdefault(id_ if isinstance(id_, str) else _span_of([region]), []).append(region)
    return list(groups.values())


def _span_of(parts: Sequence[Region]) -> Span | None:
    """Start and end in seconds of the first region that has both; None if none has."""
    for part in parts:
        value = part.get("value")
        start, end = (
            finite_number(value.get(key)) if isinstance(value, Mapping) else None for key in ("start", "end")
        )
        if start is not None and end is not None and max(0.0, start) < end:
            return max(0.0, start), end
    return None
