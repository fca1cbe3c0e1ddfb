"""Where problems and families meet: frozen, typed inputs, outputs and targets.

A problem turns a Label Studio task into an input and an output into regions; a family turns inputs into
outputs and learns from targets. Neither knows the other, so that each is one file.
"""

from collections.abc import Collection, Hashable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar, Literal, Protocol, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Contract(BaseModel):
    """`kind` names the class on the wire between the processes."""

    model_config = ConfigDict(frozen=True)
    kind: ClassVar[str]


class MediaRef(BaseModel):
    """A file to be fetched by `lorabel.media.fetching`.

    `authorization` is the header's value for the file's own origin, never sent elsewhere. `is_trusted` marks
    a host that the operator named (Label Studio's), which may therefore be at a private address.
    """

    model_config = ConfigDict(frozen=True)
    url: str
    authorization: str | None = None
    is_trusted: bool = False


class Modality(StrEnum):
    TEXT = "text"
    IMAGE = "image"
    VIDEO = "video"
    AUDIO = "audio"


class Layout(BaseModel):
    """What a text is written in, see `lorabel.media.text`; attributes and defaults are Label Studio 1.23.2's."""

    model_config = ConfigDict(frozen=True)
    markup: Literal["plain", "html", "paragraphs"] = "plain"
    encoding: Literal["none", "base64", "base64unicode"] = "none"
    name_key: str = "author"
    text_key: str = "text"


class Content(BaseModel):
    """What one object tag shows: a text as a model reads it, or a file; `layout` of a file with a text."""

    model_config = ConfigDict(frozen=True)
    modality: Modality
    text: str | None = None
    media: MediaRef | None = None
    layout: Layout | None = None

    @model_validator(mode="after")
    def check_one(self) -> Self:
        if (self.text is None) == (self.media is None):
            raise ValueError("a content is a text or a file, exactly one of them")
        if (self.layout is not None) != (self.modality == Modality.TEXT and self.media is not None):
            raise ValueError("a file with a text has a layout, and nothing else has")
        return self


class Input(Contract):
    """What a model is asked. A family is found by the class and the modalities of the `contents`."""

    contents: tuple[Content, ...] = ()

    @property
    def modalities(self) -> frozenset[Modality]:
        return frozenset(content.modality for content in self.contents)

    @property
    def is_worth_loading(self) -> bool:
        """Whether a family is loaded for it, where it is not."""
        return True

    @property
    def group_key(self) -> Hashable:
        """What is asked, whatever about: equal for questions that differ only in what their contents are."""
        fields = (getattr(self, name) for name in type(self).model_fields if name != "contents")
        return type(self), tuple(content.modality for content in self.contents), *fields

    def with_template(self, template: str) -> Self:
        """The same with `{}` in the template replaced by each text that a label is read as."""
        return self


class LabelTextsInput(Input):
    """About labels, for each of which some texts stand: it fits as well as they do on average."""

    contents: tuple[Content, ...] = Field(min_length=1)
    labels: tuple[tuple[str, ...], ...] = Field(min_length=1)

    def with_template(self, template: str) -> Self:
        labels = tuple(tuple(template.replace("{}", text) for text in texts) for texts in self.labels)
        return self.model_copy(update={"labels": labels})


class LabelsInput(LabelTextsInput):
    """Which of the labels fit the contents (of several, what they say together)?

    Args:
        parents: for each label the index of the one above it in a taxonomy, -1 at the top; empty if there is none.
        is_multiple: any number of them may fit.
    """

    kind: ClassVar[str] = "labels"
    parents: tuple[int, ...] = ()
    is_multiple: bool = False


class EmbedInput(Input):
    """Where do the contents lie in the base model's space (of several: their middle)? Adapters are never asked.

    Args:
        among: modalities that the answer is to be compared with, so that one family answers for all of them.
        is_only_recalled: an error where the features are no longer in memory; nothing is fetched or computed.
    """

    kind: ClassVar[str] = "embed"
    contents: tuple[Content, ...] = Field(min_length=1)
    among: frozenset[Modality] = frozenset()
    is_only_recalled: bool = False

    @property
    def modalities(self) -> frozenset[Modality]:
        return super().modalities | self.among

    @property
    def is_worth_loading(self) -> bool:
        return not self.is_only_recalled


class Embedding(Contract):
    """A vector of length 1.

    Args:
        space: names family and base model; only vectors of one space can be compared.
        float16: the vector, little-endian, in base64: a sixth of what its digits would take.
    """

    kind: ClassVar[str] = "embedding"
    space: str
    float16: str


class LabelScores(Contract):
    """A probability in [0, 1] for each label, in the order asked. They sum to 1 unless multiple; in a taxonomy
    those with the same parent do, and each is under the condition that the parent is right."""

    kind: ClassVar[str] = "label_scores"
    probabilities: tuple[float, ...]


@dataclass(frozen=True)
class LabelTarget:
    """The right labels as indices, in a taxonomy with every label above them; empty means none (multiple only).

    `shares`: where annotators disagree, how many of them chose each label, as a share in [0, 1]; of a single
    choice they sum to 1 (in a taxonomy: those with the same parent to the parent's, or to less where somebody
    stopped there; of several paths each has its part). None: all agree.
    """

    indices: tuple[int, ...]
    shares: tuple[float, ...] | None = None


class RatingInput(Input):
    """Which number do the contents deserve? From `least` to `most`, both included, where there are such bounds."""

    kind: ClassVar[str] = "rating"
    contents: tuple[Content, ...] = Field(min_length=1)
    least: float | None = None
    most: float | None = None


class Estimate(Contract):
    """A number, None where nobody has taught it; `error`: by how much it is expected to be wrong, in its unit."""

    kind: ClassVar[str] = "estimate"
    value: float | None = None
    error: float = 0.0


@dataclass(frozen=True)
class NumberTarget:
    """The right number: the mean of what annotators said."""

    value: float


class RankingInput(Input):
    """Which items come first? Those that answer the query best, if there is one, and those that people prefer.

    Args:
        items: for each content the item that it is part of, from 0 on; -1 where it is part of the query.
    """

    kind: ClassVar[str] = "ranking"
    contents: tuple[Content, ...] = Field(min_length=2)
    items: tuple[int, ...]

    @model_validator(mode="after")
    def check_items(self) -> Self:
        if len(self.items) != len(self.contents) or {*self.items} - {-1} != {*range(max(self.items) + 1)}:
            raise ValueError(f"{len(self.contents)} contents are parts of the items {self.items}")
        return self

    @property
    def has_query(self) -> bool:
        return -1 in self.items


class ItemScores(Contract):
    """One per item, the best has the highest; the logistic function of a difference is the probability that the
    first is preferred. Empty where nobody can say: there is no query, and nobody has taught it."""

    kind: ClassVar[str] = "item_scores"
    scores: tuple[float, ...] = ()


@dataclass(frozen=True)
class OrderTarget:
    """Of each item the place, 0 for the best; between items with the same place there is no order."""

    places: tuple[int, ...]

    @property
    def pairs(self) -> list[tuple[int, int]]:
        """The better and the worse item of every two that are in order."""
        numbers = range(len(self.places))
        return [(a, b) for a in numbers for b in numbers if self.places[a] < self.places[b]]


class SpansInput(LabelTextsInput):
    """Which parts of a text, the one content, do the labels name?"""

    kind: ClassVar[str] = "spans"


class Span(BaseModel):
    """`start`, `end`: in characters (code points) of the text, the end exclusive. `label`: an index."""

    model_config = ConfigDict(frozen=True)
    start: int
    end: int
    label: int
    probability: float = 1.0


class SpanScores(Contract):
    """The spans in the text's order; no two overlap. `nothing`: the probability in [0, 1] that none is missing."""

    kind: ClassVar[str] = "span_scores"
    spans: tuple[Span, ...]
    nothing: float = 1.0


@dataclass(frozen=True)
class SpanTarget:
    """The right spans, each `(start, end, label)` as in `Span`, sorted; some may overlap."""

    spans: tuple[tuple[int, int, int], ...]


class BatchAdapters(Protocol):
    """The adapters by name; None is the base model."""

    def use(self, adapters: Sequence[str | None]) -> AbstractContextManager[None]:
        """Inside, row i of every batch is computed with `adapters[i]`."""

    def effective_adapter(self, adapter: str | None, layers: Collection[str]) -> str | None:
        """The adapter if it is on one of these layers; else None, since they then compute what the base model
        does."""


def media_of(question: Input) -> list[MediaRef]:
    """The files that a question is about."""
    return [content.media for content in question.contents if content.media is not None]
