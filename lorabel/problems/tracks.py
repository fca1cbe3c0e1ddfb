"""`<VideoRectangle>` with `<Labels>` on a `<Video>`: the ways of things through the video, as boxes that move.

    {"from_name": "box", "to_name": "video", "type": "videorectangle",
     "value": {"framesCount": 250, "duration": 10.0, "labels": ["Car"], "sequence": [
         {"frame": 1, "time": 0.04, "x": 10, "y": 10, "width": 5, "height": 5, "rotation": 0, "enabled": true}]}}

Predicted tracks have few keyframes, between which the editor moves the box evenly.
"""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

from lorabel.contracts import Contract, Input
from lorabel.errors import MissingTargetError, UnreadableError, UnservedError
from lorabel.evaluation.box_matching import agreed_places
from lorabel.evaluation.metrics import Metrics
from lorabel.evaluation.track_metrics import right_tracks, track_metrics, track_overlaps
from lorabel.labeling.label_config import ControlTag, ObjectTag
from lorabel.labeling.regions import Region
from lorabel.labeling.task_content import contents
from lorabel.labeling.video_frames import frame_rate
from lorabel.labeling.video_regions import extent_of, keyframes_of, track_region
from lorabel.problems._answers import known_labels, list_in, regions_of, shown
from lorabel.problems._choices import UNSERVED_ATTRIBUTES
from lorabel.problems._rivals import ON_VIDEOS, refuse_unused, rivals_of
from lorabel.problems._scored_findings import ScoredFindings
from lorabel.problems.base import Prediction, Sample, TaskData, refuse_attributes
from lorabel.track_contracts import MOST_BEGUN, Keyframe, Track, Tracks, TracksInput, TracksTarget

SAMPLE_EXTENT = (48, 2.0)
SAMPLE_RATE = 24.0


def _sample_result(first: str, second: str) -> list[Region]:
    ways = (
        (Keyframe(frame=1, corners=(0.25, 0.25, 0.5, 0.75)), Keyframe(frame=48, corners=(0.5, 0.25, 0.75, 0.75))),
        (
            Keyframe(frame=12, corners=(0.5, 0.125, 0.875, 0.25)),
            Keyframe(frame=24, corners=(0.5, 0.5, 0.875, 0.75), is_seen=False),
        ),
    )
    return [
        {**track_region("box", "video", way, SAMPLE_RATE, SAMPLE_EXTENT, [label]), "score": 1.0}
        for way, label in zip(ways, (first, second), strict=True)
    ]


@dataclass(frozen=True)
class MovingThings(ScoredFindings):
    """Object tracking: boxes around what the labels name, through a video.

    Attributes:
        tag: the object tag of the video.
        drawn_by: the control tag that draws the boxes.
        labels: the labels that tracks may have.
        rivals: the other control tags that mark something in the video.
    """

    name: ClassVar[str] = "tracks"
    zero_shot: ClassVar[str] = (
        "What the texts of the labels describe (open vocabulary) is found in frames and followed over time; with "
        "MODEL_TRACKER, also what is in a box that an annotator drew in one frame."
    )
    learns: ClassVar[str] = (
        "What each label means, from the keyframes of annotated tracks: at once, which things look like those in "
        "them; by training runs, also how boxes are drawn."
    )
    input_type: ClassVar[type[Input]] = TracksInput
    output_type: ClassVar[type[Contract]] = Tracks
    findings: ClassVar[str] = "tracks"
    SAMPLES: ClassVar[tuple[Sample, ...]] = (
        Sample(
            label_config='<View><Video name="video" value="$video"/><VideoRectangle name="box" toName="video"/>'
            '<Labels name="label" toName="video"><Label value="car"/><Label value="bus"/></Labels></View>',
            data={"video": "/data/upload/1/street.mp4"},
            result=_sample_result("car", "bus"),
            opposite=_sample_result("bus", "car"),
        ),
    )

    tag: ObjectTag
    drawn_by: str
    rivals: tuple[str, ...] = ()

    @classmethod
    def match(cls, control: ControlTag) -> Self | None:
        """Bind `Labels` on one video beside a `VideoRectangle`; see `Problem.match`."""
        if control.tag != "Labels" or not control.objects or any(tag.tag != "Video" for tag in control.objects):
            return None
        drawn_by = next((tag.name for tag in control.siblings if tag.tag == "VideoRectangle"), None)
        if drawn_by is None:
            return None
        refuse_attributes(control, UNSERVED_ATTRIBUTES)
        if len(control.objects) > 1:
            names = ", ".join(repr(tag.name) for tag in control.objects)
            raise UnservedError(f"toName names several videos ({names}), expected one")
        if not control.labels:
            raise UnservedError("it has no labels")
        (tag,) = control.objects
        rivals = rivals_of(control, {control.name, drawn_by}, ON_VIDEOS)
        return cls(control.name, tag.name, control.labels, tag, drawn_by, rivals)

    @property
    def claims(self) -> tuple[str, ...]:
        """The tag of the labels, and the one that draws."""
        return self.from_name, self.drawn_by

    def model_input(self, data: TaskData) -> TracksInput:
        """Ask how the things move that the labels name."""
        return TracksInput(
            contents=contents(self.tag, data),
            labels=tuple(label.texts for label in self.labels),
            frames_per_s=frame_rate(self.tag, data),
        )

    def prompted(self, question: Input, context: Sequence[Region]) -> Input | None:
        """Answer the editor with nothing: whatever it gets it adds to the annotation.

        In a video, Label Studio 1.23.2 asks a smart backend only when a track gets another label, and sends all
        tracks of this label. It sends nothing when a box is drawn or a track is deleted.

        Raises:
            UnreadableError: for good; the context has a track.
        """
        if any(region.get("from_name") in self.claims for region in context):
            raise UnreadableError("a track got another label, and no other is to be added", is_permanent=True)
        return None

    def asked_for(self, question: Input, target: TracksTarget) -> Input:
        """Name the frames that are learned from; see `Problem.asked_for`."""
        return question.model_copy(update={"learned": tuple(number for number, _ in target.learned_frames)})

    def shown_from(self, question: Input, threshold: float) -> Input:
        """Have tracks begin with boxes that are as unlikely as the tracks that are to be shown."""
        return question.model_copy(update={"threshold": threshold})

    def going_on(self, question: Input, data: TaskData, results: Sequence[list[Region]]) -> Input:
        """Have tracks followed of which one box was drawn, MOST_BEGUN at most; see `Problem.going_on`."""
        begun: dict[Track, None] = {}
        for result in results:
            with suppress(MissingTargetError):  # nothing can be used, which the training runs report
                begun |= dict.fromkeys(track for track in self.target(result, data).tracks if track.is_begun)
        return question.model_copy(update={"begun": tuple(begun)[:MOST_BEGUN]})

    def prediction(self, output: Tracks, data: TaskData) -> Prediction:
        """Predict the tracks above the threshold. The score is their mean probability.

        If there is none, it is the probability that the likeliest track is not there.
        """
        shown_tracks = self.shown(output).tracks
        if not shown_tracks:
            return Prediction([], 1 - max((track.probability for track in output.tracks), default=0.0))
        rate, extent = frame_rate(self.tag, data), (output.frames, output.length_s)
        regions = [
            {
                **track_region(
                    self.drawn_by, self.to_name, track.keyframes, rate, extent, [self.labels[track.label].value]
                ),
                "score": track.probability,
            }
            for track in shown_tracks
        ]
        return Prediction(regions, sum(track.probability for track in shown_tracks) / len(shown_tracks))

    def target(self, result: list[Region], data: TaskData) -> TracksTarget:
        """Return the tracks of the annotation; none if nothing is marked.

        What cannot be used is left out by itself. Where a track has no label that is known, nobody knows what is
        there. Where a track has no place, its label may be anywhere.

        Raises:
            MissingTargetError: see `Problem.target`; also if no track can be used, or only other tags were used.
        """
        all_regions = regions_of(result)
        refuse_unused(all_regions, self.claims, self.to_name, ON_VIDEOS)
        tracks, unlabelled = set[Track](), set[Track]()
        faults, incomplete, extent = list[str](), set[int](), (0, 0.0)
        for region in all_regions:
            if region.get("from_name") != self.drawn_by:
                continue
            labels, reasons = self._labels_of(region)
            id_ = shown(region.get("id"))
            faults += [f"region {id_}: {reason}" for reason in reasons]
            extent = max(extent, extent_of(region))
            try:
                keyframes = keyframes_of(region)
            except MissingTargetError as error:
                faults.append(f"region {id_}: {error}")
                incomplete |= {*labels}
                continue
            tracks |= {Track(label=label, keyframes=keyframes) for label in labels}
            unlabelled |= set() if labels else {Track(label=-1, keyframes=keyframes)}
        if faults and not tracks:
            raise MissingTargetError(faults[0])
        return TracksTarget(
            tuple(sorted(tracks, key=_order)),
            *extent,
            tuple(faults),
            tuple(sorted(unlabelled, key=_order)),
            tuple(sorted(incomplete)),
        )

    def left_out(self, target: TracksTarget) -> Sequence[str]:
        """Return why tracks are left out."""
        return target.left_out

    def perfect_output(self, target: TracksTarget) -> Tracks:
        """Return the right tracks, each with probability 1."""
        return Tracks(tracks=target.tracks, frames=target.frames, length_s=target.length_s)

    def metrics(self, targets: Sequence[TracksTarget], outputs: Sequence[Any]) -> Metrics:
        """Compute the metrics of `lorabel.evaluation.track_metrics`."""
        predicted = [self.shown(output).tracks for output in outputs]
        return track_metrics(targets, predicted, [label.value for label in self.labels])

    def aggregate(self, targets: Sequence[TracksTarget]) -> TracksTarget:
        """Keep the tracks that more than half of the annotators drew; the newest decides on exactly half.

        Tracks of two annotators are the same if they have the same label, and the intersections of their boxes
        in all frames are at least half of their unions. The newest annotator's is taken.
        """
        if len(targets) == 1:
            return targets[0]
        places = agreed_places([target.tracks for target in targets], track_overlaps)
        kept = set[Track]()
        for place in places:
            annotator, index = next(iter(place.items()))
            kept.add(targets[annotator].tracks[index])
        unlabelled = {track for target in targets for track in target.unlabelled}
        incomplete = {label for target in targets for label in target.incomplete}
        return replace(
            max(targets, key=lambda target: target.frames),
            tracks=tuple(sorted(kept, key=_order)),
            left_out=(),
            unlabelled=tuple(sorted(unlabelled, key=_order)),
            incomplete=tuple(sorted(incomplete)),
        )

    def may_be_unused(self, target: TracksTarget) -> bool:
        """Return whether nothing is drawn, and there are `rivals` to mark with."""
        return bool(self.rivals) and not target.tracks

    def class_of(self, target: TracksTarget) -> tuple[int, ...]:
        """Return the labels that occur in the video."""
        return tuple(sorted({track.label for track in target.tracks}))

    def label_names(self, target: TracksTarget) -> frozenset[str]:
        """Return the labels that occur in the video."""
        return frozenset(self.labels[track.label].value for track in target.tracks)

    def right(self, output: Tracks, target: TracksTarget) -> Sequence[bool | None]:
        """Return for each track whether it follows a true track of its own, see `right_tracks`."""
        return right_tracks(target, output.tracks)

    def _labels_of(self, region: Region) -> tuple[list[int], list[str]]:
        """The labels of a track, as indices, and why others of its labels cannot be used."""
        value = region.get("value")
        if not isinstance(value, dict):
            return [], [f"{self.drawn_by!r} has the value {shown(value)}, expected an object"]
        try:
            names = list_in(value, "labels", self.drawn_by)
        except MissingTargetError as error:
            return [], [str(error)]
        if not names:
            return [], [f"a track of {self.drawn_by!r} has no label"]
        return known_labels(self.labels, names, self.from_name)


def _order(track: Track) -> tuple[Any, ...]:
    return track.label, *((key.frame, key.corners, key.is_seen) for key in track.keyframes)
