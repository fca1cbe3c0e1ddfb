"""The question for features, and its answer: what heads are fitted on. See `lorabel.contracts`."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, ClassVar

from pydantic import Field

from lorabel.contracts import (
    Content,
    Contract,
    Input,
    LabelsInput,
    LabelTextsInput,
    RankingInput,
    RatingInput,
    SpansInput,
)
from lorabel.mask_contracts import LabelledMasksInput, MasksTarget
from lorabel.region_contracts import EachInput
from lorabel.relation_contracts import PictureRelationsInput, RelationsInput
from lorabel.series_contracts import SeriesFeaturesInput, SeriesInput, SeriesTarget
from lorabel.space_contracts import BoxesInput, BoxTarget, Corners, TextLine, TextLinesInput
from lorabel.time_contracts import STEP_S, SegmentsInput
from lorabel.track_contracts import TrackFeaturesInput, TracksInput, TracksTarget

# The questions that fitted heads answer.
HEADED: tuple[type[Input], ...] = (
    LabelsInput,
    RatingInput,
    RankingInput,
    SpansInput,
    TextLinesInput,
    BoxesInput,
    LabelledMasksInput,
    SegmentsInput,
    SeriesInput,
    TracksInput,
    RelationsInput,
)
# Those of which adapters learn nothing.
HEADED_ALONE: tuple[type[Input], ...] = (RelationsInput,)
# Between the space of a base model and the name of an adapter.
WITH = " with adapter "
# Behind the name of a base model that is served with weights of 8 bits.
IN_INT8 = " in int8"


class FeaturesInput(Input):
    """Asks for everything that a head is fitted on: the features of the contents, and the base model's logits.

    Answer: `Features`. `FeaturesInput.of` makes it from another question.

    Args:
        labels: as in `LabelsInput`; empty if the question is not about labels.
        parents: as in `LabelsInput`.
        is_multiple: as in `LabelsInput`.
    """

    kind: ClassVar[str] = "features"
    contents: tuple[Content, ...] = Field(min_length=1)
    labels: tuple[tuple[str, ...], ...] = ()
    parents: tuple[int, ...] = ()
    is_multiple: bool = False

    @classmethod
    def of(cls, question: Input, target: object = None) -> Input:
        """Return the question for the features on which the answer to another question depends.

        Args:
            target: what annotators have answered; of boxes, also around masks, and of segments of series, it says
                where the features are wanted. None to compare labels only.
        """
        if isinstance(question, LabelledMasksInput):
            question = BoxesInput(contents=question.contents, labels=question.labels)
            target = target.around() if isinstance(target, MasksTarget) else None
        for question_type, features_of in OTHER_FEATURES.items():
            if isinstance(question, question_type):
                return features_of(question, target)
        more: dict[str, float] = {}
        if isinstance(question, EachInput):
            cls = EachFeaturesInput
        if isinstance(question, SegmentsInput):
            cls = SegmentFeaturesInput
            more = {"step_s": question.step_s}
        if not isinstance(question, LabelsInput):
            return cls(contents=question.contents)
        fields = {name: getattr(question, name) for name in ("contents", "labels", "parents", "is_multiple")}
        return cls(**fields, **more)


class EachFeaturesInput(FeaturesInput):
    """Asks for everything that a head is fitted on, where the question is about each content by itself.

    Answer: `Features`, with (contents * labels,) logits.
    """

    kind: ClassVar[str] = "each_features"


class SegmentFeaturesInput(FeaturesInput):
    """Asks for everything that a head for segments is fitted on. `contents` is that one sound or video.

    Answer: `Features`, with a row and (labels,) logits for each window of the sound, or frame of the video.

    Args:
        step_s: as in `SegmentsInput`.
    """

    kind: ClassVar[str] = "segment_features"
    step_s: float = STEP_S


class SpanFeaturesInput(LabelTextsInput):
    """Asks for everything that a head for spans is fitted on. `contents` is that one text.

    Answer: `Features`, with a row for each word of the text.
    """

    kind: ClassVar[str] = "span_features"


class LineFeaturesInput(Input):
    """Asks for everything that a head for lines of text is fitted on. `contents` is one picture.

    Answer: `Features` with the lines as they were read. What heads are fitted on is computed from the lines.

    Args:
        labels: as in `TextLinesInput`.
    """

    kind: ClassVar[str] = "line_features"
    contents: tuple[Content, ...] = Field(min_length=1)
    labels: tuple[tuple[str, ...], ...] = ()


class BoxFeaturesInput(LabelTextsInput):
    """Asks for everything that a head for boxes is fitted on. `contents` is one picture.

    Answer: `Features`. Its first rows are of the first MOST_PLACES boxes, in their order. The others are of places
    in the picture where none of the boxes is, those first that the model may take for something that is asked for.

    Args:
        boxes: what annotators have drawn, with the indices of the labels.
        unlabelled: boxes of which nobody knows what is in them. No row is of a place there.
    """

    kind: ClassVar[str] = "box_features"
    boxes: tuple[tuple[Corners, int], ...] = ()
    unlabelled: tuple[Corners, ...] = ()


class RelationFeaturesInput(Input):
    """Asks for everything that a head for relations between spans is fitted on. `contents` is that one text.

    Answer: `Features`, with a row for each word of the text and no logits.

    Args:
        labels: as in `RelationsInput`.
        region_labels: as in `RelationsInput`.
        is_single: as in `RelationsInput`.
    """

    kind: ClassVar[str] = "relation_features"
    contents: tuple[Content, ...] = Field(min_length=1)
    labels: tuple[tuple[str, ...], ...] = ()
    region_labels: tuple[str, ...] = ()
    is_single: bool = False


class PictureRelationFeaturesInput(FeaturesInput):
    """Asks for everything that a head for relations between regions of a picture is fitted on.

    Answer: `Features`, with a row for each region and no logits.

    Args:
        region_labels: as in `RelationsInput`.
        is_single: as in `RelationsInput`.
    """

    kind: ClassVar[str] = "picture_relation_features"
    region_labels: tuple[str, ...] = ()
    is_single: bool = False


class Features(Contract):
    """Answer to the questions for features above.

    Args:
        space: names the family and its base model. Heads are fitted on features of one space.
        dim: number of dimensions of a content's, or a word's, features.
        float16: (contents, dim) little-endian float16 in base64; each row has length 1. For spans (words, dim);
            the row of a word that the model did not read is zeros. For boxes (places, dim), for segments
            (windows, dim), for series (windows, dim) with features of any length.
        logits: (labels,): the model's logits without a head, see `label_logits`. Empty without labels. For
            `EachFeaturesInput` (contents * labels,). For spans (words * 2 * labels,), see `word_logits`; empty if
            no adapter has learned any. For boxes (places * labels,), for segments (windows * labels,).
            For series, of which the base model says nothing, (windows * labels,) in [0, 1]: the share of each
            window that the annotated segments cover.
        lines: the lines of text in a picture as the base model reads them; `dim` is 0 then.
    """

    kind: ClassVar[str] = "features"
    space: str
    dim: int
    float16: str
    logits: tuple[float, ...] = ()
    lines: tuple[TextLine, ...] = ()


def space_with(space: str, adapter: str | None) -> str:
    """Return the space of the base model's features with an adapter's beside them; `space` if there is none."""
    return space if adapter is None else f"{space}{WITH}{adapter}"


def is_with_adapter(space: str) -> bool:
    """Whether features of a space are the base model's, and beside them as many of an adapter."""
    return WITH in space


def in_int8(space: str) -> str:
    """Return the space of a base model's features, computed with weights of 8 bits.

    Features of float32 and of bfloat16 are near enough to be kept beside each other, and are of one space.
    """
    return f"{space}{IN_INT8}"


def in_any_precision(space: str) -> str:
    """Return a space without its precision: heads answer with features of another precision, too."""
    return space.replace(IN_INT8, "")


def _of_boxes(question: BoxesInput, target: object) -> Input:
    drawn = target if isinstance(target, BoxTarget) else BoxTarget(())
    return BoxFeaturesInput(
        contents=question.contents, labels=question.labels, boxes=drawn.boxes, unlabelled=drawn.unlabelled
    )


def _of_series(question: SeriesInput, target: object) -> Input:
    segments = target.segments if isinstance(target, SeriesTarget) else ()
    return SeriesFeaturesInput(
        contents=question.contents,
        labels=question.labels,
        segments=segments,
        series_format=question.contents[0].series_format,
    )


def _of_tracks(question: TracksInput, target: object) -> Input:
    learned = target.learned_frames if isinstance(target, TracksTarget) else ()
    return TrackFeaturesInput(
        contents=question.contents,
        labels=question.labels,
        frames_per_s=question.frames_per_s,
        numbers=tuple(number for number, _ in learned),
        boxes=tuple(shown.boxes for _, shown in learned),
        unlabelled=tuple(shown.unlabelled for _, shown in learned),
    )


def _of_lines(question: TextLinesInput, _: object) -> Input:
    return LineFeaturesInput(contents=question.contents, labels=question.labels)


def _of_spans(question: SpansInput, _: object) -> Input:
    return SpanFeaturesInput(contents=question.contents, labels=question.labels)


def _of_relations(question: RelationsInput, _: object) -> Input:
    is_picture = isinstance(question, PictureRelationsInput)
    kind = PictureRelationFeaturesInput if is_picture else RelationFeaturesInput
    names = ("contents", "labels", "region_labels", "is_single")
    return kind(**{name: getattr(question, name) for name in names})


# Makes the question for features of kinds that have one of their own, from question and target.
OTHER_FEATURES: Mapping[type[Input], Callable[[Any, object], Input]] = MappingProxyType(
    {
        BoxesInput: _of_boxes,
        SeriesInput: _of_series,
        TracksInput: _of_tracks,
        TextLinesInput: _of_lines,
        SpansInput: _of_spans,
        RelationsInput: _of_relations,
    }
)
