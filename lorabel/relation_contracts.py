"""Inputs, output and target of questions about relations between regions of a task. See `lorabel.contracts`."""

from dataclasses import dataclass, field
from typing import ClassVar

from pydantic import BaseModel, ConfigDict, Field

from lorabel.contracts import Content, Contract, Input
from lorabel.space_contracts import Corners

# Regions of one question. More make more pairs than anybody would draw relations between.
MOST_RELATED = 100
# What stands for the label of a relation where the label config has none.
UNLABELLED = 0

# A relation as (index of the region it goes from, index of the region it goes to, index of its label).
Link = tuple[int, int, int]


class RelatedRegion(BaseModel):
    """A region that relations may go from or to.

    Args:
        label: index of its label in the input's `region_labels`.
        start: of a span: index of the first character.
        end: of a span: index after the last character.
        corners: of a region of a picture; None for a span.
        text: what a line of text in a picture says; empty for everything else.
    """

    model_config = ConfigDict(frozen=True)
    label: int
    start: int = 0
    end: int = 0
    corners: Corners | None = None
    text: str = ""


class RelationsInput(Input):
    """Asks which relations are between spans of a text. `contents` is that one text. Answer: `Relations`.

    Args:
        labels: for each label of a relation, the texts that a model reads for it; empty if relations have none.
        region_labels: the labels that regions may have, each with the name of its control tag.
        regions: in the order in which the answer counts them.
        is_single: whether a pair of regions has one label at most.
    """

    kind: ClassVar[str] = "relations"
    contents: tuple[Content, ...] = Field(min_length=1)
    labels: tuple[tuple[str, ...], ...] = ()
    region_labels: tuple[str, ...] = Field(min_length=1)
    regions: tuple[RelatedRegion, ...] = Field((), max_length=MOST_RELATED)
    is_single: bool = False

    @property
    def label_count(self) -> int:
        """The number of labels that a relation may have; 1 if it has none."""
        return max(1, len(self.labels))


class PictureRelationsInput(RelationsInput):
    """Asks which relations are between regions of a picture. Answer: `Relations`.

    `contents` are the regions, cut out of the picture, in their order; the picture itself if there is none.
    """

    kind: ClassVar[str] = "picture_relations"


class Relation(BaseModel):
    """A relation that was found.

    Args:
        first: index of the region that it goes from.
        second: index of the region that it goes to.
        label: index of its label in the input's labels; UNLABELLED if there are none.
        probability: the model's confidence in it, in [0, 1].
    """

    model_config = ConfigDict(frozen=True)
    first: int
    second: int
    label: int = UNLABELLED
    probability: float = 1.0

    @property
    def link(self) -> Link:
        """The relation without its probability."""
        return self.first, self.second, self.label


class Relations(Contract):
    """Answer to `RelationsInput`.

    Args:
        relations: by the indices of the regions. A relation in both directions is two.
        no_relation_probability: the probability in [0, 1] that there is none. Only used if `relations` is empty.
    """

    kind: ClassVar[str] = "found_relations"
    relations: tuple[Relation, ...]
    no_relation_probability: float = 1.0


@dataclass(frozen=True)
class RelationTarget:
    """Target for `RelationsInput`.

    Args:
        regions: at least two and at most MOST_RELATED, in the order of the annotation.
        links: the right relations; sorted. A relation in both directions is two.
        unknown: pairs of regions, from the first to the second, of which nobody knows how they are related;
            sorted. None of them has a link.
        left_out: why relations or regions of the annotation cannot be used.
    """

    regions: tuple[RelatedRegion, ...]
    links: tuple[Link, ...]
    unknown: tuple[tuple[int, int], ...] = ()
    left_out: tuple[str, ...] = field(default=(), compare=False)
