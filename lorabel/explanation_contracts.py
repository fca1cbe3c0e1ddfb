"""The question for what carried an answer, and its answer. See `lorabel.contracts`.

The work is divided into pieces, each a row of its own, so that predictions go between them. The answers of the
pieces are added up (`Explanation.joined`).
"""

from collections.abc import Sequence
from enum import StrEnum
from typing import ClassVar, Self

from pydantic import BaseModel, ConfigDict, Field

from lorabel.contracts import Content, Contract, Input, LabelsInput, RatingInput


class Fit(StrEnum):
    """How a picture is fitted into the square that a model reads."""

    STRETCHED = "stretched"
    MIDDLE = "middle"
    PADDED = "padded"

    def seen(self, width: float, height: float) -> tuple[float, float, float, float]:
        """(left, top, right, bottom) of what the model sees; beyond the picture where it adds an edge.

        Args:
            width: of the picture.
            height: of the picture, in the same unit, which is that of the answer.
        """
        if self is Fit.STRETCHED:
            return 0.0, 0.0, width, height
        side = min(width, height) if self is Fit.MIDDLE else max(width, height)
        left, top = (width - side) / 2, (height - side) / 2
        return left, top, left + side, top + side


class ExplanationInput(Input):
    """Asks what in the contents carried the answer to another question. Answer: `Explanation`.

    Args:
        labels: as in `LabelsInput`; empty if the question is a `RatingInput`.
        parents: as in `LabelsInput`.
        is_multiple: as in `LabelsInput`.
        minimum: as in `RatingInput`.
        maximum: as in `RatingInput`.
        label: index of the label that is explained; None for the likeliest, in a tree for the end of the likeliest
            path.
        has_leaves_only: whether that path must end at a label with no label below.
        piece: which of the pieces this row computes, from 0.
        pieces: how many there are.
    """

    kind: ClassVar[str] = "explanation"
    contents: tuple[Content, ...] = Field(min_length=1)
    labels: tuple[tuple[str, ...], ...] = ()
    parents: tuple[int, ...] = ()
    is_multiple: bool = False
    minimum: float | None = None
    maximum: float | None = None
    label: int | None = None
    has_leaves_only: bool = False
    piece: int = Field(0, ge=0)
    pieces: int = Field(1, ge=1)

    @classmethod
    def of(
        cls,
        question: LabelsInput | RatingInput,
        label: int | None,
        pieces: int,
        *,
        has_leaves_only: bool = False,
    ) -> list[Self]:
        """Return the questions of all pieces about the answer to a question."""
        fields = {name: getattr(question, name) for name in type(question).model_fields}
        fields |= {"label": label, "has_leaves_only": has_leaves_only, "pieces": pieces}
        return [cls(**fields, piece=piece) for piece in range(pieces)]

    @property
    def explained(self) -> LabelsInput | RatingInput:
        """The question whose answer is explained."""
        if not self.labels:
            return RatingInput(contents=self.contents, minimum=self.minimum, maximum=self.maximum)
        return LabelsInput(
            contents=self.contents, labels=self.labels, parents=self.parents, is_multiple=self.is_multiple
        )


class WordWeight(BaseModel):
    """A word of a text, or several that stand together in a long text.

    Args:
        start: index of the first character (Unicode code points of the content's text).
        end: index after the last character.
        weight: what the word adds to the score that is explained, see `Explanation`.
    """

    model_config = ConfigDict(frozen=True)
    start: int
    end: int
    weight: float


class ContentWeights(BaseModel):
    """What a content, and what in it, carried the answer.

    Args:
        weight: what the content as a whole adds to the score. Zero if it is the only one.
        text: of a text, as the model reads it.
        words: of a text.
        heat: of a picture, from the top: rows of equal cells, with what each adds to the score; from the left.
        fit: of a picture, where `heat` lies: on all of it (stretched), on the largest square in its middle, or on
            the smallest square around it (padded).
        size: of a picture, width and height in pixels as people see it.
    """

    model_config = ConfigDict(frozen=True)
    weight: float = 0.0
    text: str | None = None
    words: tuple[WordWeight, ...] = ()
    heat: tuple[tuple[float, ...], ...] = ()
    fit: Fit | None = None
    size: tuple[int, int] | None = None

    def plus(self, other: Self) -> Self:
        """Return the content with the weights of both added."""
        words = zip(self.words, other.words, strict=True)
        rows = zip(self.heat, other.heat, strict=True)
        return self.model_copy(
            update={
                "weight": self.weight + other.weight,
                "words": tuple(a.model_copy(update={"weight": a.weight + b.weight}) for a, b in words),
                "heat": tuple(tuple(a + b for a, b in zip(*row, strict=True)) for row in rows),
            }
        )


class Explanation(Contract):
    """Answer to `ExplanationInput`.

    Weights are in the unit of the score: for a label the logarithm of its odds, for a rating its own unit.

    Args:
        label: index of the label that is explained; None for a rating.
        score: the probability of the label, or the rating; None if nothing is explained.
        contents: one for each content. The parts that other pieces compute have weight 0.
        reason: why nothing is explained; None if something is.
    """

    kind: ClassVar[str] = "explanation_of_answer"
    label: int | None = None
    score: float | None = None
    contents: tuple[ContentWeights, ...] = ()
    reason: str | None = None

    @classmethod
    def joined(cls, pieces: Sequence[Self]) -> Self:
        """Return the explanation that consists of all pieces.

        Raises:
            ValueError: they are about different labels or contents.
        """
        if len(labels := {piece.label for piece in pieces}) > 1:
            raise ValueError(f"the pieces explain different labels: {labels}")
        contents = list(pieces[0].contents)
        for piece in pieces[1:]:
            contents = [a.plus(b) for a, b in zip(contents, piece.contents, strict=True)]
        return pieces[0].model_copy(update={"contents": tuple(contents)})
