"""`<Labels>` over an `<Audio>`: segments of a sound with a label each.

    {"from_name": "part", "to_name": "audio", "type": "labels", "original_length": 3,
     "value": {"start": 0.5, "end": 1.5, "channel": 0, "labels": ["Speech"]}}

Segments of several labels may overlap. The channels of a sound are heard together, and predictions are for channel
0, which is where the editor shows segments of the whole sound.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import isfinite
from typing import Any, ClassVar, Self

from lorabel.contracts import Contract, Input
from lorabel.errors import MissingTargetError, UnservedError
from lorabel.evaluation.metrics import Metrics
from lorabel.evaluation.segment_metrics import segment_metrics
from lorabel.labeling.label_config import ControlTag, Label, ObjectTag, find_label
from lorabel.labeling.regions import Region, sound_segment
from lorabel.labeling.task_content import contents
from lorabel.problems._answers import list_in, regions_of, shown
from lorabel.problems._choices import UNSERVED_ATTRIBUTES
from lorabel.problems._rivals import ON_TEXTS, refuse_unused, rivals_of
from lorabel.problems.base import Prediction, Problem, Sample, TaskData, refuse_attributes
from lorabel.time_contracts import Segment, SegmentScores, SegmentsInput, SegmentTarget, TimedLabel

SAMPLE_LENGTH_S = 1.5


def _sample_result(first: str, second: str) -> list[Region]:
    return [
        {**sound_segment("part", "audio", (start, end), SAMPLE_LENGTH_S, [label]), "score": 1.0}
        for start, end, label in ((0.0, 0.75, first), (0.5, 1.25, second))
    ]


@dataclass(frozen=True)
class SegmentsInTime(Problem):
    """Sound event detection: segments of a sound.

    Attributes:
        tag: the object tag of the sound.
        labels: the labels that segments may have.
        rivals: the other control tags that mark segments of the sound.
    """

    name: ClassVar[str] = "segments_in_time"
    zero_shot: ClassVar[str] = "Each moment is compared with the texts of the labels, by the second around it."
    learns: ClassVar[str] = (
        "What each label sounds like, at once after each annotation; LoRA learns if LORA_TOWERS is text or both."
    )
    input_type: ClassVar[type[Input]] = SegmentsInput
    output_type: ClassVar[type[Contract]] = SegmentScores
    SAMPLES: ClassVar[tuple[Sample, ...]] = (
        Sample(
            label_config='<View><Labels name="part" toName="audio"><Label value="Speech"/><Label value="Noise"/>'
            '</Labels><Audio name="audio" value="$audio"/></View>',
            data={"audio": "/data/upload/1/talk.wav"},
            result=_sample_result("Speech", "Noise"),
            opposite=_sample_result("Noise", "Speech"),
        ),
    )

    tag: ObjectTag
    labels: tuple[Label, ...]
    rivals: tuple[str, ...] = ()

    @classmethod
    def match(cls, control: ControlTag) -> Self | None:
        """Bind `Labels` on one sound; see `Problem.match`."""
        if control.tag != "Labels" or not control.objects or any(tag.tag != "Audio" for tag in control.objects):
            return None
        refuse_attributes(control, UNSERVED_ATTRIBUTES)
        if len(control.objects) > 1:
            names = ", ".join(repr(tag.name) for tag in control.objects)
            raise UnservedError(f"toName names several sounds ({names}), expected one")
        if not control.labels:
            raise UnservedError("it has no labels")
        (tag,) = control.objects
        return cls(control.name, tag.name, tag, control.labels, rivals_of(control, {control.name}, ON_TEXTS))

    def model_input(self, data: TaskData) -> SegmentsInput:
        """Ask when in the sound each label fits."""
        return SegmentsInput(contents=contents(self.tag, data), labels=tuple(label.texts for label in self.labels))

    def prediction(self, output: SegmentScores, data: TaskData) -> Prediction:
        """Predict the segments. The score is their mean probability, or the probability that there is none."""
        if not output.segments:
            return Prediction([], output.no_segment_probability)
        regions = [
            {
                **sound_segment(
                    self.from_name,
                    self.to_name,
                    (segment.start_s, segment.end_s),
                    output.length_s,
                    [self.labels[segment.label].value],
                ),
                "score": segment.probability,
            }
            for segment in output.segments
        ]
        return Prediction(regions, sum(segment.probability for segment in output.segments) / len(output.segments))

    def target(self, result: list[Region], data: TaskData) -> SegmentTarget:
        """Return the segments of the annotation; none if nothing is marked.

        A segment without length says nothing, and is left out.

        Raises:
            MissingTargetError: see `Problem.target`; also if a segment has no valid start and end, since then
                nobody knows what is where, and if only other control tags were used to mark segments.
        """
        regions = regions_of(result)
        refuse_unused(regions, self.claims, self.to_name, ON_TEXTS)
        segments, lengths_s = set[TimedLabel](), [0.0]
        for region in regions:
            if region.get("from_name") != self.from_name:
                continue
            value = region.get("value", {})
            if not isinstance(value, dict):
                raise MissingTargetError(f"{self.from_name!r} has the value {shown(value)}, expected an object")
            start, end = _seconds(value.get("start")), _seconds(value.get("end"))
            if start is None or end is None or start > end:
                raise MissingTargetError(
                    f"{self.from_name!r} was answered {shown(value)}, expected a start and an end in seconds, the "
                    "start not after the end"
                )
            indices = self._labels_of(value)
            segments |= {(start, end, index) for index in indices if start < end}
            lengths_s.append(_seconds(region.get("original_length")) or 0.0)
        return SegmentTarget(tuple(sorted(segments)), max(lengths_s))

    def perfect_output(self, target: SegmentTarget) -> SegmentScores:
        """Return the right segments, each with probability 1."""
        return SegmentScores(
            segments=tuple(
                Segment(start_s=start, end_s=end, label=label) for start, end, label in target.segments
            ),
            length_s=target.length_s,
        )

    def metrics(self, targets: Sequence[SegmentTarget], outputs: Sequence[Any]) -> Metrics:
        """Compute the metrics of `lorabel.evaluation.segment_metrics`."""
        predicted = [
            [(segment.start_s, segment.end_s, segment.label) for segment in output.segments] for output in outputs
        ]
        return segment_metrics(
            [target.segments for target in targets], predicted, [label.value for label in self.labels]
        )

    def aggregate(self, targets: Sequence[SegmentTarget]) -> SegmentTarget:
        """Keep the moments that more than half of the annotators gave a label; the newest decides on exactly half.

        Moments that follow each other become one segment.
        """
        if len(targets) == 1:
            return targets[0]
        labels = sorted({label for target in targets for _, _, label in target.segments})
        segments = [segment for label in labels for segment in _agreed(targets, label)]
        return SegmentTarget(tuple(sorted(segments)), max(target.length_s for target in targets))

    def may_be_unused(self, target: SegmentTarget) -> bool:
        """Return whether no segment is marked, and there are `rivals` to mark with."""
        return bool(self.rivals) and not target.segments

    def class_of(self, target: SegmentTarget) -> tuple[int, ...]:
        """Return the labels that occur in the sound."""
        return tuple(sorted({label for _, _, label in target.segments}))

    def _labels_of(self, value: dict[str, Any]) -> list[int]:
        names = list_in(value, "labels", self.from_name)
        found = [find_label(self.labels, name) if isinstance(name, str) else None for name in names]
        indices = [index for index in found if index is not None]
        if len(indices) < len(names):
            raise MissingTargetError(
                f"{self.from_name!r} was answered {shown(names)}, which the label config no longer has"
            )
        return indices


def _seconds(value: Any) -> float | None:
    """A moment of a region, at or after the beginning; None if it is no number, or not finite."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        moment = float(value)
    except OverflowError:
        return None
    return max(0.0, moment) if isfinite(moment) else None


def _agreed(targets: Sequence[SegmentTarget], label: int) -> list[TimedLabel]:
    """The segments of a label on which annotators agree, see `SegmentsInTime.aggregate`."""
    of_each = [[(start, end) for start, end, index in target.segments if index == label] for target in targets]
    moments = sorted({moment for spans in of_each for span in spans for moment in span})
    agreed: list[TimedLabel] = []
    for start, end in pairwise(moments):
        votes = {number for number, spans in enumerate(of_each) if any(s <= start and end <= e for s, e in spans)}
        if 2 * len(votes) + (len(targets) - 1 in votes) <= len(targets):
            continue
        begins = agreed.pop()[0] if agreed and agreed[-1][1] == start else start
        agreed.append((begins, end, label))
    return agreed
