"""Input, output and target of questions about segments of a sound or a video. See `lorabel.contracts`."""

from dataclasses import dataclass, field
from typing import ClassVar, Self

from pydantic import BaseModel, ConfigDict, Field

from lorabel.contracts import Contract, LabelsInput

# The default of SEGMENTS_STEP_S.
STEP_S = 0.25

# A segment as (start in seconds, end in seconds, index of the label).
TimedLabel = tuple[float, float, int]
# A part in which somebody speaks: start and end in seconds, and the probability that it is speech.
SpokenPart = tuple[float, float, float]


class SegmentsInput(LabelsInput):
    """Asks when in a recording each label fits. `contents` is that one sound or video. Answer: `SegmentScores`.

    It is the question of `LabelsInput` about each window of the sound, or about some frames of the video, by
    itself, see `lorabel.families.segments.windows`. Any number of labels may fit at a time.

    Args:
        step_s: seconds from one window to the next.
        is_of_speech: whether all that somebody says without a pause is a segment. Only of a sound.
        spoken: these parts of the sound. The family that answers fills them in.
    """

    kind: ClassVar[str] = "segments"
    is_multiple: bool = True
    step_s: float = Field(STEP_S, gt=0)
    is_of_speech: bool = Field(False, exclude_if=lambda is_of_speech: not is_of_speech)
    spoken: tuple[SpokenPart, ...] | None = Field(None, exclude_if=lambda spoken: spoken is None)


class Segment(BaseModel):
    """A labelled part of a recording.

    Args:
        start_s: seconds from the beginning of the recording.
        end_s: seconds from the beginning of the recording; more than `start_s`.
        label: index of the label in the input's labels.
        probability: the model's confidence in this segment, in [0, 1].
    """

    model_config = ConfigDict(frozen=True)
    start_s: float
    end_s: float
    label: int
    probability: float = 1.0


class SegmentScores(Contract):
    """Answer to `SegmentsInput`.

    Args:
        segments: in the order of time. Those of one label do not overlap, those of several may.
        length_s: of the recording, in seconds.
        no_segment_probability: the probability in [0, 1] that there is none. Only used if `segments` is empty.
        expected_overlap: how much of the segments and of what there is to find the model expects to be the same,
            in [0, 1]; 1 where every moment is sure.
        threshold: the smallest probability of a segment that is shown.
    """

    kind: ClassVar[str] = "segment_scores"
    segments: tuple[Segment, ...]
    length_s: float = 0.0
    no_segment_probability: float = 1.0
    expected_overlap: float = 1.0
    threshold: float = 0.0

    def within(self, read_s: float, length_s: float) -> Self:
        """Return the answer with segments that end where reading ended, and with the length of the recording.

        Args:
            read_s: how much of the recording was read, from its beginning, in seconds.
            length_s: of the whole recording.
        """
        segments = tuple(
            segment.model_copy(update={"end_s": min(segment.end_s, read_s)})
            for segment in self.segments
            if segment.start_s < read_s
        )
        return self.model_copy(update={"segments": segments, "length_s": length_s})


@dataclass(frozen=True)
class SegmentTarget:
    """Target for `SegmentsInput`.

    Args:
        segments: sorted. They may overlap.
        length_s: of the recording, in seconds; 0 if the annotation does not say.
        frames_per_s: of a video, as the editor counts its frames; 0 for a sound.
    """

    segments: tuple[TimedLabel, ...]
    length_s: float = field(default=0.0, compare=False)
    frames_per_s: float = field(default=0.0, compare=False)
