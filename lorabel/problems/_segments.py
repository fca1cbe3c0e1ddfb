"""What the problems of segments in time share: parts of a recording with a label each.

A subclass says how its control tag writes a part of a recording, and which other control tags mark such parts.
Segments of several labels may overlap.
"""

from abc import abstractmethod
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from math import isfinite
from typing import Any, ClassVar, Self

from lorabel.contracts import Contract, Input
from lorabel.errors import MissingTargetError, UnservedError
from lorabel.evaluation.metrics import Metrics
from lorabel.evaluation.segment_metrics import right_segments, segment_metrics
from lorabel.labeling.label_config import ControlTag, Label, ObjectTag
from lorabel.labeling.regions import Region
from lorabel.labeling.task_content import MODALITIES, WORDS, contents
from lorabel.problems._answers import known_labels, list_in, regions_of, shown
from lorabel.problems._choices import UNSERVED_ATTRIBUTES
from lorabel.problems._rivals import refuse_unused, rivals_of
from lorabel.problems._scored_findings import ScoredFindings
from lorabel.problems.base import Prediction, TaskData, refuse_attributes
from lorabel.series_contracts import SeriesScores
from lorabel.time_contracts import Segment, SegmentScores, SegmentsInput, SegmentTarget, TimedLabel

# Start and end in seconds.
Span = tuple[float, float]


@dataclass(frozen=True)
class SegmentsProblem(ScoredFindings):
    """Base class of problems of segments in time.

    Attributes:
        control_tag: the control tag that is served.
        object_tag: the object tag of the recording.
        marking: names of the control tags that mark something in such a recording, in small letters.
        tag: the object tag of the recording.
        labels: the labels that segments may have.
        rivals: the other control tags that mark something in the recording.
    """

    control_tag: ClassVar[str]
    object_tag: ClassVar[str]
    marking: ClassVar[frozenset[str]]
    input_type: ClassVar[type[Input]] = SegmentsInput
    output_type: ClassVar[type[Contract]] = SegmentScores
    findings: ClassVar[str] = "segments"

    tag: ObjectTag
    rivals: tuple[str, ...] = ()

    @classmethod
    def match(cls, control: ControlTag) -> Self | None:
        """Bind the control tag on one recording; see `Problem.match`."""
        is_other = control.tag != cls.control_tag or not control.objects
        if is_other or any(tag.tag != cls.object_tag for tag in control.objects):
            return None
        refuse_attributes(control, UNSERVED_ATTRIBUTES)
        if len(control.objects) > 1:
            names = ", ".join(repr(tag.name) for tag in control.objects)
            word = WORDS[MODALITIES[cls.object_tag]]
            raise UnservedError(f"toName names several {word}s ({names}), expected one")
        if not control.labels:
            raise UnservedError("it has no labels")
        (tag,) = control.objects
        rivals = rivals_of(control, {control.name}, cls.marking)
        return cls(control.name, tag.name, control.labels, tag, rivals)

    @abstractmethod
    def region(self, span: Span, length_s: float, label: str, data: TaskData) -> Region:
        """Return the region of a segment.

        Args:
            length_s: of the recording; 0 if it is not known.
        """

    @abstractmethod
    def spans(self, value: dict[str, Any], data: TaskData) -> list[Span]:
        """Return the parts of the recording that a region marks, those without length included.

        Args:
            value: of the region.

        Raises:
            MissingTargetError: nobody knows which part is meant.
        """

    def length_of(self, region: Region) -> float:
        """Return how long the recording is, in seconds, if the region says it; else 0."""
        return 0.0

    def frames_per_s(self, data: TaskData) -> float:
        """Return how many frames of a video the editor counts in a second; 0 for a sound."""
        return 0.0

    def model_input(self, data: TaskData) -> SegmentsInput:
        """Ask when in the recording each label fits."""
        return SegmentsInput(contents=contents(self.tag, data), labels=tuple(label.texts for label in self.labels))

    def prediction(self, output: SegmentScores, data: TaskData) -> Prediction:
        """Predict the segments. The score is their mean probability, or the probability that there is none.

        The margin is the expected overlap with what there is to find: tasks in which much is unsure come first.
        """
        segments = self.shown(output).segments
        if not segments:
            return Prediction([], no_finding(output), output.expected_overlap)
        regions = [
            {
                **self.region(
                    (segment.start_s, segment.end_s), output.length_s, self.labels[segment.label].value, data
                ),
                "score": segment.probability,
            }
            for segment in segments
        ]
        score = sum(segment.probability for segment in segments) / len(segments)
        return Prediction(regions, score, output.expected_overlap)

    def target(self, result: list[Region], data: TaskData) -> SegmentTarget:
        """Return the segments of the annotation; none if nothing is marked.

        A segment without length says nothing, and is left out.

        Raises:
            MissingTargetError: see `Problem.target`; also if nobody knows which part of the recording a region
                means or which label it has, and if only other control tags were used to mark something.
        """
        regions = regions_of(result)
        refuse_unused(regions, self.claims, self.to_name, self.marking)
        segments, lengths_s = set[TimedLabel](), [0.0]
        for region in regions:
            if region.get("from_name") != self.from_name:
                continue
            value = region.get("value", {})
            if not isinstance(value, dict):
                raise MissingTargetError(f"{self.from_name!r} has the value {shown(value)}, expected an object")
            spans = self.spans(value, data)
            indices = labels_in(value, self.control_tag.lower(), self.labels, self.from_name)
            segments |= {(start, end, index) for start, end in spans for index in indices if start < end}
            lengths_s.append(self.length_of(region))
        return SegmentTarget(tuple(sorted(segments)), max(lengths_s), self.frames_per_s(data))

    def perfect_output(self, target: SegmentTarget) -> SegmentScores:
        """Return the right segments, each with probability 1."""
        return SegmentScores(
            segments=tuple(
                Segment(start_s=start, end_s=end, label=label) for start, end, label in target.segments
            ),
            length_s=target.length_s,
        )

    def metrics(self, targets: Sequence[SegmentTarget], outputs: Sequence[Any]) -> Metrics:
        """Compute the metrics of `lorabel.evaluation.segment_metrics`.

        What an annotator has marked after the end of the recording counts up to its end.
        """
        truth = [_until(target, output.length_s) for target, output in zip(targets, outputs, strict=True)]
        predicted = [_timed(self.shown(output)) for output in outputs]
        rates = [target.frames_per_s for target in targets]
        return segment_metrics(truth, predicted, [label.value for label in self.labels], rates)

    def right(self, output: SegmentScores, target: SegmentTarget) -> Sequence[bool]:
        """Return for each segment whether it is right, as the metrics count."""
        return right_segments(_until(target, output.length_s), _timed(output))

    def aggregate(self, targets: Sequence[SegmentTarget]) -> SegmentTarget:
        """Keep the moments that more than half of the annotators gave a label; the newest decides on exactly half.

        Moments that follow each other become one segment.
        """
        if len(targets) == 1:
            return targets[0]
        labels = sorted({label for target in targets for _, _, label in target.segments})
        of_annotators = [target.segments for target in targets]
        segments = [segment for label in labels for segment in agreed(of_annotators, label)]
        length_s = max(target.length_s for target in targets)
        return replace(targets[-1], segments=tuple(sorted(segments)), length_s=length_s)

    def may_be_unused(self, target: SegmentTarget) -> bool:
        """Return whether no segment is marked, and there are `rivals` to mark with."""
        return bool(self.rivals) and not target.segments

    def class_of(self, target: SegmentTarget) -> tuple[int, ...]:
        """Return the labels that occur in the recording."""
        return tuple(sorted({label for _, _, label in target.segments}))


def labels_in(value: dict[str, Any], key: str, labels: Sequence[Label], from_name: str) -> list[int]:
    """Return the labels of a region, as indices; at least one.

    Args:
        value: of the region.
        key: under which the value has the labels.
        labels: that the label config has.

    Raises:
        MissingTargetError: the region has no label, so that nobody knows what is there, or one that is gone.
    """
    indices, unknown = known_labels(labels, list_in(value, key, from_name), from_name)
    if unknown:
        raise MissingTargetError(unknown[0])
    if not indices:
        raise MissingTargetError(f"{from_name!r} was answered {shown(value)}, which has no label")
    return indices


def finite_number(value: Any) -> float | None:
    """A number of a region; None if it is no number, or not finite."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if isfinite(number) else None


def no_finding(output: SegmentScores | SeriesScores) -> float:
    """The probability that there is no segment where none is shown."""
    return 1 - max((segment.probability for segment in output.segments), default=1 - output.no_segment_probability)


def _timed(output: SegmentScores) -> list[TimedLabel]:
    return [(segment.start_s, segment.end_s, segment.label) for segment in output.segments]


def _until(target: SegmentTarget, length_s: float) -> list[TimedLabel]:
    """The segments of a target before the end of the recording; all of them if nobody knows it."""
    if not length_s:
        return list(target.segments)
    return [(start, min(end, length_s), label) for start, end, label in target.segments if start < length_s]


def agreed(of_annotators: Sequence[Sequence[TimedLabel]], label: int) -> list[TimedLabel]:
    """The segments of a label on which annotators agree, see `SegmentsProblem.aggregate`.

    Args:
        of_annotators: the segments of each annotator, those of the newest last.
    """
    changes: dict[float, list[tuple[int, int]]] = defaultdict(list)
    for number, segments in enumerate(of_annotators):
        for start, end, index in segments:
            if index == label:
                changes[start].append((number, 1))
                changes[end].append((number, -1))
    # How many segments of each annotator cover the moments from a change to the next.
    covering = [0] * len(of_annotators)
    kept: list[TimedLabel] = []
    for start, end in pairwise(sorted(changes)):
        for number, change in changes[start]:
            covering[number] += change
        votes = sum(map(bool, covering))
        if 2 * votes + bool(covering[-1]) <= len(covering):
            continue
        begins = kept.pop()[0] if kept and kept[-1][1] == start else start
        kept.append((begins, end, label))
    return kept
