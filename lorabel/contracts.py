"""Inputs, outputs and targets: the frozen, typed values that problems and families exchange.

A problem turns a Label Studio task into an input, and an output into regions. A family turns inputs into outputs,
and learns from inputs with targets. Neither imports the other, so a new problem or family is one file.

Inputs and outputs also travel as JSON between processes. Targets are used in the training worker only.
"""

from collections.abc import Collection, Hashable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from typing import ClassVar, Protocol, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from lorabel.content_formats import SeriesFormat, TextFormat
from lorabel.picture_part import Part


class Contract(BaseModel):
    """Base class of inputs and outputs.

    Attributes:
        kind: the name of the class in requests between processes; unique among inputs, and among outputs.
    """

    model_config = ConfigDict(frozen=True)
    kind: ClassVar[str]


class MediaRef(BaseModel):
    """The address of a file, which `lorabel.media.fetching` downloads.

    Args:
        url: the address as written in the task (it may be relative), or a full URL once it is resolved.
        authorization: value of the Authorization header. It is sent to the media paths of Label Studio at the
            origin of `url` only, also after a redirect.
        is_trusted: the operator named this host (Label Studio's), so its address may be private.
        is_label_studio: the host is the project's Label Studio, so its local files may be read from
            LOCAL_FILES_DOCUMENT_ROOT.
    """

    model_config = ConfigDict(frozen=True)
    url: str
    authorization: str | None = None
    is_trusted: bool = False
    is_label_studio: bool = False


class Modality(StrEnum):
    """The kind of data that a content is."""

    TEXT = "text"
    IMAGE = "image"
    VIDEO = "video"
    AUDIO = "audio"
    SERIES = "series"


class Content(BaseModel):
    """What one object tag shows: either a text, or a file that must be fetched.

    Args:
        text: the text as a model reads it, without markup; of a series, its JSON. None if the content is a file.
        media: the file. None if the content is a text.
        text_format: how the text in the file is stored. Set for a text in a file, None for everything else.
        series_format: how the series is stored. Set for a series, None for everything else.
        part: the part of the picture that is meant; None for all of it, and for everything else.
    """

    model_config = ConfigDict(frozen=True)
    modality: Modality
    text: str | None = None
    media: MediaRef | None = None
    text_format: TextFormat | None = None
    series_format: SeriesFormat | None = Field(None, exclude_if=lambda series_format: series_format is None)
    part: Part | None = Field(None, exclude_if=lambda part: part is None)

    @model_validator(mode="after")
    def check_fields(self) -> Self:
        """Reject a content that is both text and file or neither, or that has a field too many or too few."""
        if (self.text is None) == (self.media is None):
            raise ValueError("a content needs either text or media, and not both")
        is_text_file = self.modality == Modality.TEXT and self.media is not None
        if (self.text_format is not None) != is_text_file:
            raise ValueError("a text in a file needs text_format, and no other content may have it")
        if (self.series_format is not None) != (self.modality == Modality.SERIES):
            raise ValueError("a series needs series_format, and no other content may have it")
        if self.part is not None and (self.modality != Modality.IMAGE or self.media is None):
            raise ValueError("only a picture has parts")
        return self


class Input(Contract):
    """A question for a model. Its class and the modalities of its contents decide which family answers it.

    Args:
        contents: what the question is about, in a fixed order: the object tags' contents.
    """

    contents: tuple[Content, ...] = ()

    @property
    def modalities(self) -> frozenset[Modality]:
        """The modalities that the family must be able to read."""
        return frozenset(content.modality for content in self.contents)

    @property
    def is_model_needed(self) -> bool:
        """Whether the model server should load the family's base model to answer this, if it is not loaded yet."""
        return True

    @property
    def group_key(self) -> Hashable:
        """A key that is equal for inputs that ask the same question about different contents."""
        fields = (getattr(self, name) for name in type(self).model_fields if name != "contents")
        return type(self), tuple(content.modality for content in self.contents), *fields

    def with_template(self, template: str) -> Self:
        """Return a copy in which each label text, if there are any, is put into the template, in place of `{}`."""
        return self


class LabelTextsInput(Input):
    """Base class of inputs that ask about labels.

    Args:
        labels: for each label, the texts that a model reads for it; at least one. If there are several, the score
            of the label is their mean.
    """

    contents: tuple[Content, ...] = Field(min_length=1)
    labels: tuple[tuple[str, ...], ...] = Field(min_length=1)

    def with_template(self, template: str) -> Self:
        """Return the question with the template applied to each text of each label."""
        return self.model_copy(update={"labels": _in_template(self.labels, template)})


@lru_cache(maxsize=64)  # all tasks of a project have the same labels
def _in_template(labels: tuple[tuple[str, ...], ...], template: str) -> tuple[tuple[str, ...], ...]:
    return tuple(tuple(template.replace("{}", text) for text in texts) for texts in labels)


class LabelsInput(LabelTextsInput):
    """Asks which of the labels fit the contents. Several contents are judged together. Answer: `LabelScores`.

    Args:
        parents: taxonomies only: for each label, the index of the label above it, or -1 at the top. Empty if the
            labels are a flat list.
        is_multiple: whether any number of labels may fit, instead of exactly one.
    """

    kind: ClassVar[str] = "labels"
    parents: tuple[int, ...] = ()
    is_multiple: bool = False


class EmbedInput(Input):
    """Asks for one vector for the contents, in the space of the base model. Answer: `Embedding`.

    The vector of several contents is the mean of theirs. Adapters are not applied.

    Args:
        comparable_with: modalities of the other vectors that this one will be compared with. The family must read
            these too, so that all vectors come from one family.
        is_cache_only: answer only from features in the cache. If they are not there, the answer is an error;
            nothing is fetched or computed.
    """

    kind: ClassVar[str] = "embed"
    contents: tuple[Content, ...] = Field(min_length=1)
    comparable_with: frozenset[Modality] = frozenset()
    is_cache_only: bool = False

    @property
    def modalities(self) -> frozenset[Modality]:
        """The modalities that the family must read: those of the contents and of `comparable_with`."""
        return super().modalities | self.comparable_with

    @property
    def is_model_needed(self) -> bool:
        """False if the question is only answered from the cache."""
        return not self.is_cache_only


class Embedding(Contract):
    """A vector of length 1.

    Args:
        space: names the family and its base model. Only vectors of the same space can be compared.
        float16: the vector as little-endian float16 in base64, a sixth of the size of its decimal digits.
    """

    kind: ClassVar[str] = "embedding"
    space: str
    float16: str


class LabelScores(Contract):
    """Answer to `LabelsInput`.

    Args:
        probabilities: (labels,) in [0, 1], in the order of the input's labels. Single choice: they sum to 1.
            Multiple choice: each is independent. Taxonomy: those below a parent sum to 1, given that it is right.
        temperature: divides the logits where no held-out tasks have calibrated the scores; 1 changes nothing.
    """

    kind: ClassVar[str] = "label_scores"
    probabilities: tuple[float, ...]
    temperature: float = Field(1.0, ge=1.0, allow_inf_nan=False)


@dataclass(frozen=True)
class LabelTarget:
    """Target for `LabelsInput`.

    Args:
        indices: the right labels, sorted. In a taxonomy every label above a right label is included. Empty means
            that no label fits, which only multiple choice allows.
        shares: (labels,) in [0, 1]: the share of annotators who chose each label; None if all agree. Single
            choice: they sum to 1. Taxonomy: labels with the same parent sum to the share of the parent, or to
            less if some annotators stopped at the parent; a task with several right paths divides its share
            between them.
    """

    indices: tuple[int, ...]
    shares: tuple[float, ...] | None = None


class RatingInput(Input):
    """Asks for a number that rates the contents. Answer: `Estimate`.

    Args:
        minimum: the smallest number allowed; None if there is no lower bound.
        maximum: the largest number allowed; None if there is no upper bound.
    """

    kind: ClassVar[str] = "rating"
    contents: tuple[Content, ...] = Field(min_length=1)
    minimum: float | None = None
    maximum: float | None = None


class Estimate(Contract):
    """Answer to `RatingInput`.

    Args:
        value: the estimated number, within the bounds of the input. None as long as no adapter has learned this.
        expected_error: expected absolute error of `value`, in the same unit.
    """

    kind: ClassVar[str] = "estimate"
    value: float | None = None
    expected_error: float = 0.0


@dataclass(frozen=True)
class RatingTarget:
    """Target for `RatingInput`: the right number, or the mean over the annotators."""

    value: float


class RankingInput(Input):
    """Asks for an order of items: best answer to the query first if there is a query, else most preferred first.

    Answer: `ItemScores`.

    Args:
        item_indices: for each content, the index of the item that it belongs to, or -1 if it belongs to the query.
            The indices 0, 1, ... are all used. An item may have several contents, such as a picture and a text.
    """

    kind: ClassVar[str] = "ranking"
    contents: tuple[Content, ...] = Field(min_length=2)
    item_indices: tuple[int, ...]

    @model_validator(mode="after")
    def check_item_indices(self) -> Self:
        """Reject indices that are not one per content, or that leave an item without content."""
        items = set(self.item_indices) - {-1}
        if len(self.item_indices) != len(self.contents) or items != set(range(len(items))):
            raise ValueError(
                f"item_indices is {self.item_indices} for {len(self.contents)} contents; "
                "expected one per content: -1 for the query, and 0, 1, ... for the items without gaps"
            )
        return self

    @property
    def has_query(self) -> bool:
        """Whether some content belongs to the query."""
        return -1 in self.item_indices


class ItemScores(Contract):
    """Answer to `RankingInput`.

    Args:
        scores: (items,): the best item has the highest score. The logistic function of the difference between two
            scores is the probability that the first item is preferred. Empty if there is no query and no adapter
            has learned what annotators prefer.
    """

    kind: ClassVar[str] = "item_scores"
    scores: tuple[float, ...] = ()


@dataclass(frozen=True)
class RankingTarget:
    """Target for `RankingInput`.

    Args:
        ranks: (items,): 0 is the best. Items with the same rank are not ordered relative to each other.
    """

    ranks: tuple[int, ...]

    @property
    def pairs(self) -> list[tuple[int, int]]:
        """(better item, worse item) for every two items with different ranks."""
        items = range(len(self.ranks))
        return [(a, b) for a in items for b in items if self.ranks[a] < self.ranks[b]]


class SpansInput(LabelTextsInput):
    """Asks which parts of a text the labels name. `contents` is that one text. Answer: `SpanScores`."""

    kind: ClassVar[str] = "spans"


class Span(BaseModel):
    """A labelled part of a text.

    Args:
        start: index of the first character (Unicode code points of the content's text).
        end: index after the last character.
        label: index of the label in the input's labels.
        probability: the model's confidence in this span, in [0, 1].
    """

    model_config = ConfigDict(frozen=True)
    start: int
    end: int
    label: int
    probability: float = 1.0


class SpanScores(Contract):
    """Answer to `SpansInput`.

    Args:
        spans: in the order of the text; no two overlap.
        no_span_probability: the probability in [0, 1] that the text has no span. Only used if `spans` is empty.
    """

    kind: ClassVar[str] = "span_scores"
    spans: tuple[Span, ...]
    no_span_probability: float = 1.0


@dataclass(frozen=True)
class SpanTarget:
    """Target for `SpansInput`.

    Args:
        spans: the right spans as `(start, end, label)`, see `Span`; sorted. They may overlap.
    """

    spans: tuple[tuple[int, int, int], ...]


class BatchAdapters(Protocol):
    """Selects an adapter for each row of a batch. Adapters are named `p<project>.v<n>/<control tag>`; None is the
    base model."""

    def use(self, adapters: Sequence[str | None]) -> AbstractContextManager[None]:
        """Return a context in which row i of every batch is computed with `adapters[i]`."""

    def effective_adapter(self, adapter: str | None, layers: Collection[str]) -> str | None:
        """Return the adapter if it changes any of these layers; else None, since the result is the base model's.

        Families use this in cache keys, so that all projects share what their adapters do not change.
        """


def media_of(question: Input) -> list[MediaRef]:
    """Return the files that must be fetched to answer the question."""
    return [content.media for content in question.contents if content.media is not None]
