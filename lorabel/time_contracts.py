"""Input, output and target of questions about segments of a sound. See `lorabel.contracts`."""

from dataclasses import dataclass, field
from typing import ClassVar, Self

from pydantic import BaseModel, ConfigDict

from lorabel.contracts import Contract, LabelsInput

# A segment as (start in seconds, end in seconds, index of the label).
TimedLabel = tuple[float, float, int]


class SegmentsInput(LabelsInput):
    """Asks when in a sound each label fits. `contents` is that one sound. Answer: `SegmentScores`.

    It is the question of `LabelsInput` about each window of the sound by itself, see
    `lorabel.families.segments.sound_windows`. Any number of labels may fit at a time.
    """

    kind: ClassVar[str] = "segments"
    is_multiple: bool = True


class Segment(BaseModel):
    """A labelled part of a sound.

    Args:
        start_s: seconds from the beginning of the sound.
        end_s: seconds from the beginning of the sound; more than `start_s`.
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
        length_s: of the sound, in seconds.
        no_segment_probability: the probability in [0, 1] that there is none. Only used if `segments` is empty.
    """

    kind: ClassVar[str] = "segment_scores"
    segments: tuple[Segment, ...]
    length_s: float = 0.0
    no_segment_probability: float = 1.0

    def within(self, read_s: float, length_s: float) -> Self:
        """Return the answer with segments that end where reading ended, and with the length of the sound.

        Args:
            read_s: how much of the sound was read, from its beginning, in seconds.
            length_s: of the whole sound.
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
        length_s: of the sound, in seconds; 0 if the annotation does not say.
    """

    segments: tuple[TimedLabel, ...]
    length_s: float = field(default=0.0, compare=False)
