"""Where problems and families meet: frozen, typed inputs, outputs and targets.

A problem turns a Label Studio task into an input and an output into regions; a family turns inputs into
outputs and learns from targets. Neither knows the other, so that each is one file.
"""

from collections.abc import Collection, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import ClassVar, Protocol

from pydantic import BaseModel, ConfigDict, Field


class Contract(BaseModel):
    """`kind` names the class on the wire between the processes."""

    model_config = ConfigDict(frozen=True)
    kind: ClassVar[str]


class MediaRef(BaseModel):
    """A file to be fetched by `lorabel.media`.

    `authorization` is the header's value for the file's own origin, never sent elsewhere. `is_trusted` marks
    a host that the operator named (Label Studio's), which may therefore be at a private address.
    """

    model_config = ConfigDict(frozen=True)
    url: str
    authorization: str | None = None
    is_trusted: bool = False


class ImageLabels(Contract):
    """One picture and the label texts to choose from; `is_multiple` allows any number of them."""

    kind: ClassVar[str] = "image_labels"
    image: MediaRef
    texts: tuple[str, ...] = Field(min_length=1)
    is_multiple: bool = False


class LabelScores(Contract):
    """A probability in [0, 1] for each label text, in the order asked; they sum to 1 unless multiple."""

    kind: ClassVar[str] = "label_scores"
    probabilities: tuple[float, ...]


@dataclass(frozen=True)
class LabelTarget:
    """The right labels as indices into the label texts; empty means none of them (multiple only)."""

    indices: tuple[int, ...]


class RowAdapters(Protocol):
    """The adapters by name; None is the base model."""

    def rows(self, adapters: Sequence[str | None]) -> AbstractContextManager[None]:
        """Inside, row i of every batch is computed with `adapters[i]`."""

    def changing(self, adapter: str | None, tower: Collection[str]) -> str | None:
        """The adapter if it is on one of these layers; else None, since they then compute what the base model
        does."""


def media_of(question: Contract) -> list[MediaRef]:
    """The files that a question is about."""
    return [value for _, value in question if isinstance(value, MediaRef)]
