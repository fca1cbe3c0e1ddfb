"""`<TimeSeriesLabels>` over a `<TimeSeries>`: ranges and instants of a series with a label each.

    {"from_name": "event", "to_name": "ts", "type": "timeserieslabels",
     "value": {"start": "2024-05-01 12:30:00", "end": "2024-05-01 12:45:00", "instant": false,
               "timeserieslabels": ["Burst"]}}

Label Studio 1.23.2 writes times as `timeFormat` says, without `timeFormat` as numbers. `timeFormat` without a time
column is not served. Segments of several labels may overlap.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from lorabel.contracts import Contract, Input
from lorabel.errors import MissingTargetError, UnreadableError, UnservedError
from lorabel.evaluation.metrics import Metrics
from lorabel.evaluation.series_metrics import right_series_segments, series_metrics
from lorabel.labeling.label_config import ControlTag, ObjectTag
from lorabel.labeling.regions import Region, series_segment
from lorabel.labeling.series_content import series_content
from lorabel.media.time_format import TimeFormat
from lorabel.problems._answers import regions_of, shown
from lorabel.problems._choices import UNSERVED_ATTRIBUTES
from lorabel.problems._rivals import refuse_unused, rivals_of
from lorabel.problems._scored_findings import ScoredFindings
from lorabel.problems._segments import agreed, finite_number, labels_in, no_finding
from lorabel.problems.base import Prediction, Sample, TaskData, refuse_attributes
from lorabel.series_contracts import FoundSegment, SeriesInput, SeriesScores, SeriesSegment, SeriesTarget

TYPE = "timeserieslabels"
TAGS = frozenset({TYPE})


def _sample_result(first: str, second: str) -> list[Region]:
    return [
        {**series_segment("event", "ts", span, [label]), "score": 1.0}
        for span, label in ((("00:02", "00:05"), first), (("00:06", "00:06"), second))
    ]


@dataclass(frozen=True)
class SegmentsOfSeries(ScoredFindings):
    """Segmentation of time series.

    Attributes:
        tag: the object tag of the series.
        labels: the labels that segments may have.
        rivals: the other control tags that mark segments of the series.
    """

    name: ClassVar[str] = "segments_of_series"
    zero_shot: ClassVar[str] = "Nothing: what is an event in a series only its annotators know."
    learns: ClassVar[str] = (
        "What the series does in and around the segments of each label, at once after each annotation, from the "
        "second on; and whether a label marks ranges or instants."
    )
    input_type: ClassVar[type[Input]] = SeriesInput
    output_type: ClassVar[type[Contract]] = SeriesScores
    findings: ClassVar[str] = "segments"
    SAMPLES: ClassVar[tuple[Sample, ...]] = (
        Sample(
            label_config='<View><TimeSeriesLabels name="event" toName="ts"><Label value="Burst"/>'
            '<Label value="Spike"/></TimeSeriesLabels><TimeSeries name="ts" value="$csv" timeColumn="time" '
            'timeFormat="%M:%S"><Channel column="load"/></TimeSeries></View>',
            data={"csv": "/data/upload/1/pump.csv"},
            result=_sample_result("Burst", "Spike"),
            opposite=_sample_result("Spike", "Burst"),
        ),
    )

    tag: ObjectTag
    rivals: tuple[str, ...] = ()

    @classmethod
    def match(cls, control: ControlTag) -> Self | None:
        """Bind `TimeSeriesLabels` on one series; see `Problem.match`."""
        is_series = control.objects and all(tag.tag == "TimeSeries" for tag in control.objects)
        if control.tag != "TimeSeriesLabels" or not is_series:
            return None
        refuse_attributes(control, UNSERVED_ATTRIBUTES)
        if len(control.objects) > 1:
            names = ", ".join(repr(tag.name) for tag in control.objects)
            raise UnservedError(f"toName names several series ({names}), expected one")
        if not control.labels:
            raise UnservedError("it has no labels")
        (tag,) = control.objects
        if not tag.channels:
            raise UnservedError(f"{tag.name!r} has no Channel with a column")
        if tag.attributes.get("timeFormat", "") and not tag.attributes.get("timeColumn", ""):
            raise UnservedError(
                f"{tag.name!r} has timeFormat and no timeColumn, so the editor writes the indices of points as "
                "dates that it cannot read back; add timeColumn, or remove timeFormat"
            )
        unknown = TimeFormat(tag.attributes.get("timeFormat", "")).unknown_directive()
        if unknown is not None:
            raise UnservedError(f"timeFormat of {tag.name!r} has {unknown}, which is not read")
        rivals = rivals_of(control, {control.name}, TAGS)
        return cls(control.name, tag.name, control.labels, tag, rivals)

    @property
    def is_silent_until_taught(self) -> bool:
        """True: nothing is predicted before a head was fitted."""
        return True

    def model_input(self, data: TaskData) -> SeriesInput:
        """Ask when in the series each label fits."""
        return SeriesInput(
            contents=(series_content(self.tag, data),), labels=tuple(label.texts for label in self.labels)
        )

    def prediction(self, output: SeriesScores, data: TaskData) -> Prediction:
        """Predict the segments. The score is their mean probability, or the probability that there is none."""
        segments = self.shown(output).segments
        if not segments:
            return Prediction([], no_finding(output))
        regions = [{**self._region(segment), "score": segment.probability} for segment in segments]
        return Prediction(regions, sum(segment.probability for segment in segments) / len(segments))

    def target(self, result: list[Region], data: TaskData) -> SeriesTarget:
        """Return the segments of the annotation; none if nothing is marked.

        Raises:
            MissingTargetError: see `Problem.target`; also if a segment has no valid start and end, or no label,
                since then nobody knows what is where, and if only other control tags were used to mark segments.
        """
        regions = regions_of(result)
        refuse_unused(regions, self.claims, self.to_name, TAGS)
        segments = set[SeriesSegment]()
        for region in regions:
            if region.get("from_name") != self.from_name:
                continue
            value = region.get("value", {})
            if not isinstance(value, dict):
                raise MissingTargetError(f"{self.from_name!r} has the value {shown(value)}, expected an object")
            start, end = self._time(value.get("start")), self._time(value.get("end"))
            if start is None or end is None or start > end:
                raise MissingTargetError(
                    f"{self.from_name!r} was answered {shown(value)}, expected a start and an end as "
                    f"{self._time_form}, the start not after the end"
                )
            indices = labels_in(value, TYPE, self.labels, self.from_name)
            segments |= {(start, end, index) for index in indices}
        return SeriesTarget(tuple(sorted(segments)))

    def perfect_output(self, target: SeriesTarget) -> SeriesScores:
        """Return the right segments, each with probability 1."""
        return SeriesScores(
            segments=tuple(
                FoundSegment(start=start, end=end, label=label) for start, end, label in target.segments
            ),
            no_segment_probability=1.0,
        )

    def metrics(self, targets: Sequence[SeriesTarget], outputs: Sequence[Any]) -> Metrics:
        """Compute the metrics of `lorabel.evaluation.series_metrics`."""
        return series_metrics(
            [target.segments for target in targets],
            [_timed(self.shown(output)) for output in outputs],
            [output.step for output in outputs],
            [label.value for label in self.labels],
        )

    def right(self, output: SeriesScores, target: SeriesTarget) -> Sequence[bool]:
        """Return for each segment whether it is right, as the metrics count."""
        return right_series_segments(target.segments, _timed(output), output.step)

    def aggregate(self, targets: Sequence[SeriesTarget]) -> SeriesTarget:
        """Keep the moments that more than half of the annotators gave a label; the newest decides on exactly half.

        Moments that follow each other become one segment. Instants are those of the newest: two annotators never
        click on the same point.
        """
        if len(targets) == 1:
            return targets[0]
        labels = sorted({label for target in targets for _, _, label in target.segments})
        of_annotators = [target.segments for target in targets]
        ranges = [segment for label in labels for segment in agreed(of_annotators, label)]
        instants = [segment for segment in targets[-1].segments if segment[0] == segment[1]]
        return SeriesTarget(tuple(sorted([*ranges, *instants])))

    def may_be_unused(self, target: SeriesTarget) -> bool:
        """Return whether no segment is marked, and there are `rivals` to mark with."""
        return bool(self.rivals) and not target.segments

    def class_of(self, target: SeriesTarget) -> tuple[int, ...]:
        """Return the labels that occur in the series."""
        return tuple(sorted({label for _, _, label in target.segments}))

    @property
    def _time_format(self) -> TimeFormat | None:
        """How the editor writes times; None for numbers."""
        text = self.tag.attributes.get("timeFormat", "")
        return TimeFormat(text) if text else None

    @property
    def _time_form(self) -> str:
        return "numbers" if self._time_format is None else f"times of the format {self._time_format.text!r}"

    def _region(self, segment: FoundSegment) -> Region:
        start, end = (self._written(time) for time in (segment.start, segment.end))
        return series_segment(self.from_name, self.to_name, (start, end), [self.labels[segment.label].value])

    def _written(self, time: float) -> float | str:
        """A time as the editor writes it."""
        if self._time_format is not None:
            return self._time_format.format(time)
        return int(time) if time.is_integer() else time

    def _time(self, value: Any) -> float | None:
        """A time of a region; None if it is none."""
        if isinstance(value, str) and self._time_format is not None:
            try:
                return self._time_format.parse(value)
            except UnreadableError:
                return None
        return finite_number(value)


def _timed(output: SeriesScores) -> list[SeriesSegment]:
    return [(segment.start, segment.end, segment.label) for segment in output.segments]
