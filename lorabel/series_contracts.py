"""Input, output and target of questions about segments of a series. See `lorabel.contracts`.

Times are in the unit of the series: milliseconds since 1970 if they are dates, else the numbers of its time
column, or the index of a point. A segment whose start is its end is an instant.
"""

from dataclasses import dataclass
from typing import ClassVar

from pydantic import BaseModel, ConfigDict, Field

from lorabel.content_formats import SeriesFormat
from lorabel.contracts import Content, Contract, LabelTextsInput

# A segment as (start, end, index of the label).
SeriesSegment = tuple[float, float, int]


class SeriesInput(LabelTextsInput):
    """Asks when in a series each label fits. `contents` is that one series. Answer: `SeriesScores`.

    Any number of labels may fit at a time. Without a fitted head there is no answer.
    """

    kind: ClassVar[str] = "series"
    contents: tuple[Content, ...] = Field(min_length=1, max_length=1)


class FoundSegment(BaseModel):
    """A labelled part of a series.

    Args:
        start: the time of a point of the series.
        end: the time of a point of the series; `start` for an instant.
        label: index of the label in the input's labels.
        probability: the model's confidence in this segment, in [0, 1].
    """

    model_config = ConfigDict(frozen=True)
    start: float
    end: float
    label: int
    probability: float = 1.0


class SeriesScores(Contract):
    """Answer to `SeriesInput`.

    Args:
        segments: in the order of time. Those of one label do not overlap, those of several may.
        step: the median time from a point to the next; 0 if it is not known.
        no_segment_probability: the probability in [0, 1] that there is none. Only used if `segments` is empty.
        threshold: the smallest probability of a segment that is shown.
    """

    kind: ClassVar[str] = "series_scores"
    segments: tuple[FoundSegment, ...] = ()
    step: float = 0.0
    no_segment_probability: float = 0.0
    threshold: float = 0.0


@dataclass(frozen=True)
class SeriesTarget:
    """Target for `SeriesInput`.

    Args:
        segments: sorted. They may overlap.
    """

    segments: tuple[SeriesSegment, ...]


class SeriesFeaturesInput(LabelTextsInput):
    """Asks for everything that a head for segments of series is fitted on. `contents` is that one series.

    Answer: `Features`, with a row for each window that is learned from, and what is right about it.

    Args:
        segments: what annotators have marked.
        series_format: that of the content. It is here, too, since a head for some columns must not answer about
            others, and contents are taken for what differs from task to task.
    """

    kind: ClassVar[str] = "series_features"
    contents: tuple[Content, ...] = Field(min_length=1, max_length=1)
    series_format: SeriesFormat | None = None
    segments: tuple[SeriesSegment, ...] = ()
