"""Inputs, outputs and targets of questions about each region of a picture by itself. See `lorabel.contracts`.

`EachLabelsInput` and `EachRatingInput` are `LabelsInput` and `RatingInput` whose contents are not judged together:
each is a question of its own, in the order of the regions. One row for all regions of a picture keeps them
together: the file is fetched and decoded once, and cross-validation leaves them out together.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from lorabel.contracts import Contract, Estimate, LabelScores, LabelsInput, RatingInput
from lorabel.picture_part import Part
from lorabel.space_contracts import Corners

# Regions of one question. Each takes as much of a model server's batch as a picture.
MOST_REGIONS = 100


class EachLabelScores(Contract):
    """Answer to `EachLabelsInput`.

    Args:
        answers: one for each content.
    """

    kind: ClassVar[str] = "each_label_scores"
    answers: tuple[LabelScores, ...]

    @property
    def temperature(self) -> float:
        """That of all answers: it depends on the labels alone. See `LabelScores`."""
        return self.answers[0].temperature if self.answers else 1.0


class EachEstimate(Contract):
    """Answer to `EachRatingInput`.

    Args:
        answers: one for each content.
    """

    kind: ClassVar[str] = "each_estimate"
    answers: tuple[Estimate, ...]


class EachLabelsInput(LabelsInput):
    """Asks which of the labels fit, about each content by itself. Answer: `EachLabelScores`."""

    kind: ClassVar[str] = "each_labels"

    @property
    def each(self) -> tuple[LabelsInput, ...]:
        """The questions about one content each."""
        fields = {name: getattr(self, name) for name in LabelsInput.model_fields if name != "contents"}
        return tuple(LabelsInput(contents=(content,), **fields) for content in self.contents)

    def joined(self, answers: Sequence[Any]) -> EachLabelScores:
        """Return the answer that consists of the answers to `each`."""
        return EachLabelScores(answers=tuple(answers))


class EachRatingInput(RatingInput):
    """Asks for a number about each content by itself. Answer: `EachEstimate`."""

    kind: ClassVar[str] = "each_rating"

    @property
    def each(self) -> tuple[RatingInput, ...]:
        """The questions about one content each."""
        fields = {name: getattr(self, name) for name in RatingInput.model_fields if name != "contents"}
        return tuple(RatingInput(contents=(content,), **fields) for content in self.contents)

    def joined(self, answers: Sequence[Any]) -> EachEstimate:
        """Return the answer that consists of the answers to `each`."""
        return EachEstimate(answers=tuple(answers))


EachInput = EachLabelsInput | EachRatingInput


@dataclass(frozen=True)
class RegionAnswer:
    """What annotators say about one region of a picture.

    Args:
        part: the region.
        corners: of the upright box around it, fractions of the picture.
        target: of the question about the region, such as a `LabelTarget`.
    """

    part: Part
    corners: Corners
    target: Any


@dataclass(frozen=True)
class EachTarget:
    """Target for `EachLabelsInput` and `EachRatingInput`.

    Args:
        regions: those that were answered, at least one, from the top of the picture down.
        left_out: why other regions of the annotation cannot be used.
    """

    regions: tuple[RegionAnswer, ...]
    left_out: tuple[str, ...] = field(default=(), compare=False)

    @property
    def each(self) -> tuple[Any, ...]:
        """The target of each region."""
        return tuple(region.target for region in self.regions)
