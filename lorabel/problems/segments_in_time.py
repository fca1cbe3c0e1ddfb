"""`<Labels>` over an `<Audio>`: segments of a sound with a label each.

    {"from_name": "part", "to_name": "audio", "type": "labels", "original_length": 3,
     "value": {"start": 0.5, "end": 1.5, "channel": 0, "labels": ["Speech"]}}

Segments of several labels may overlap. The channels of a sound are heard together, and predictions are for channel
0, which is where the editor shows segments of the whole sound.

Beside a `<TextArea perRegion="true">`, which `lorabel.problems.segment_transcripts` serves, segments are what
somebody says without a pause.
"""

from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

from lorabel.errors import MissingTargetError
from lorabel.labeling.label_config import ControlTag
from lorabel.labeling.regions import Region, sound_segment
from lorabel.problems._answers import shown
from lorabel.problems._rivals import ON_TEXTS
from lorabel.problems._segments import SegmentsProblem, Span, finite_number
from lorabel.problems.base import Sample, TaskData
from lorabel.time_contracts import SegmentsInput

SAMPLE_LENGTH_S = 1.5


def _sample_result(first: str, second: str) -> list[Region]:
    return [
        {**sound_segment("part", "audio", (start, end), SAMPLE_LENGTH_S, [label]), "score": 1.0}
        for start, end, label in ((0.0, 0.75, first), (0.5, 1.25, second))
    ]


@dataclass(frozen=True)
class SegmentsInTime(SegmentsProblem):
    """Sound event detection: segments of a sound.

    Attributes:
        is_of_speech: see `SegmentsInput`.
    """

    name: ClassVar[str] = "segments_in_time"
    zero_shot: ClassVar[str] = (
        "Each moment is compared with the texts of the labels, by the second around it. Beside a `TextArea` with "
        "`perRegion`, whatever is said without a pause is a segment."
    )
    learns: ClassVar[str] = (
        "What each label sounds like, at once after each annotation; LoRA learns if LORA_TOWERS is text or both."
    )
    control_tag: ClassVar[str] = "Labels"
    object_tag: ClassVar[str] = "Audio"
    marking: ClassVar[frozenset[str]] = ON_TEXTS
    SAMPLES: ClassVar[tuple[Sample, ...]] = (
        Sample(
            label_config='<View><Labels name="part" toName="audio"><Label value="Speech"/><Label value="Noise"/>'
            '</Labels><Audio name="audio" value="$audio"/></View>',
            data={"audio": "/data/upload/1/talk.wav"},
            result=_sample_result("Speech", "Noise"),
            opposite=_sample_result("Noise", "Speech"),
        ),
    )

    is_of_speech: bool = False

    @classmethod
    def match(cls, control: ControlTag) -> Self | None:
        """Bind `Labels` on one sound; see `Problem.match`."""
        binding = super().match(control)
        asks_for_texts = any(tag.tag == "TextArea" and tag.is_per_region for tag in control.siblings)
        return None if binding is None else replace(binding, is_of_speech=asks_for_texts)

    def model_input(self, data: TaskData) -> SegmentsInput:
        """Ask when in the sound each label fits."""
        question = super().model_input(data)
        return question.model_copy(update={"is_of_speech": True}) if self.is_of_speech else question

    def region(self, span: Span, length_s: float, label: str, data: TaskData) -> Region:
        """Return the region of a segment, on channel 0."""
        return sound_segment(self.from_name, self.to_name, span, length_s, [label])

    def spans(self, value: dict[str, Any], data: TaskData) -> list[Span]:
        """Return the part of the sound that a region marks; see `SegmentsProblem.spans`."""
        start, end = finite_number(value.get("start")), finite_number(value.get("end"))
        if start is None or end is None or start > end:
            raise MissingTargetError(
                f"{self.from_name!r} was answered {shown(value)}, expected a start and an end in seconds, the "
                "start not after the end"
            )
        return [(max(0.0, start), max(0.0, end))]

    def length_of(self, region: Region) -> float:
        """Return the length of the sound, in seconds, as the editor has measured it."""
        return max(0.0, finite_number(region.get("original_length")) or 0.0)
