"""`<TimelineLabels>` over a `<Video>`: segments of a video with a label each.

    {"from_name": "action", "to_name": "video", "type": "timelinelabels",
     "value": {"ranges": [{"start": 13, "end": 24}], "timelinelabels": ["Jump"]}}

The editor counts frames from 1 and includes the last; how frames become seconds is in
`lorabel.labeling.video_frames`. Segments of several labels may overlap.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

from lorabel.errors import MissingTargetError
from lorabel.labeling.regions import Region, video_segment
from lorabel.labeling.video_frames import frame_rate, frames_at, seconds_of
from lorabel.problems._answers import list_in, shown
from lorabel.problems._rivals import ON_VIDEOS
from lorabel.problems._segments import SegmentsProblem, Span, finite_number
from lorabel.problems.base import Sample, TaskData


def _sample_result(first: str, second: str) -> list[Region]:
    return [
        {**video_segment("action", "video", frames, [label]), "score": 1.0}
        for frames, label in (((1, 12), first), ((7, 24), second))
    ]


@dataclass(frozen=True)
class Timelines(SegmentsProblem):
    """Temporal action localisation: segments of a video."""

    name: ClassVar[str] = "timelines"
    zero_shot: ClassVar[str] = (
        "Each moment is compared with the texts of the labels, by the frame that is shown then."
    )
    learns: ClassVar[str] = (
        "What each label looks like, at once after each annotation; LoRA learns if LORA_TOWERS is text or both."
    )
    control_tag: ClassVar[str] = "TimelineLabels"
    object_tag: ClassVar[str] = "Video"
    marking: ClassVar[frozenset[str]] = ON_VIDEOS
    SAMPLES: ClassVar[tuple[Sample, ...]] = (
        Sample(
            label_config='<View><TimelineLabels name="action" toName="video"><Label value="Run"/>'
            '<Label value="Jump"/></TimelineLabels><Video name="video" value="$video"/></View>',
            data={"video": "/data/upload/1/sports.mp4"},
            result=_sample_result("Run", "Jump"),
            opposite=_sample_result("Jump", "Run"),
        ),
    )

    def region(self, span: Span, length_s: float, label: str, data: TaskData) -> Region:
        """Return the region of a segment."""
        frames = frames_at(span, length_s, self.frames_per_s(data))
        return video_segment(self.from_name, self.to_name, frames, [label])

    def spans(self, value: dict[str, Any], data: TaskData) -> list[Span]:
        """Return the parts of the video that a region marks; see `SegmentsProblem.spans`."""
        ranges = list_in(value, "ranges", self.from_name)
        return [self._span(time_range, self.frames_per_s(data)) for time_range in ranges]

    def frames_per_s(self, data: TaskData) -> float:
        """Return how many frames the editor counts in a second."""
        return frame_rate(self.tag, data)

    def _span(self, time_range: Any, frames_per_s: float) -> Span:
        edges = (time_range.get("start"), time_range.get("end")) if isinstance(time_range, dict) else (None, None)
        start, end = map(finite_number, edges)
        if start is None or end is None or start > end:
            raise MissingTargetError(
                f"{self.from_name!r} was answered with the range {shown(time_range)}, expected a start and an end "
                "in frames, the start not after the end"
            )
        return seconds_of((start, end), frames_per_s)
