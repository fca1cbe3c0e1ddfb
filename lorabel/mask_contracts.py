"""Inputs, outputs and targets of masks in a picture. See `lorabel.contracts`.

Positions are fractions of the picture's width and height as people see it, that is, after its EXIF orientation.
"""

from dataclasses import dataclass, field
from itertools import accumulate
from typing import Annotated, ClassVar

from pydantic import BaseModel, ConfigDict, Field

from lorabel.contracts import Content, Contract, Input, LabelTextsInput
from lorabel.space_contracts import BoxTarget, Corners, Nearness

Runs = tuple[Annotated[int, Field(ge=0)], ...]
"""A mask as the lengths of its runs of equal pixels, row by row from the upper left: first those outside the mask
(0 if the first pixel is inside), then in turn inside and outside. They sum to width * height."""


# Points of a prompt. Models compare each with each other, so their memory grows with the square.
MOST_POINTS = 100


class Point(BaseModel):
    """A click of an annotator.

    Args:
        x: from the left, in [0, 1].
        y: from the top, in [0, 1].
        is_positive: whether the point belongs to the mask.
    """

    model_config = ConfigDict(frozen=True)
    x: float
    y: float
    is_positive: bool = True


class Prompt(BaseModel):
    """What an annotator has drawn to ask for one mask: points, a box, or both.

    Args:
        label: index of the mask's label, which does not change the mask.
        points: at most MOST_POINTS.
        corners: of the box.
    """

    model_config = ConfigDict(frozen=True)
    label: int
    points: tuple[Point, ...] = Field((), max_length=MOST_POINTS)
    corners: Corners | None = None


class MasksInput(Input):
    """Asks for the mask of each prompt. `contents` is one picture. Answer: `Masks`.

    Without prompts nothing is answered, but a family may compute what the first prompt will need.
    """

    kind: ClassVar[str] = "masks"
    contents: tuple[Content, ...] = Field(min_length=1, max_length=1)
    prompts: tuple[Prompt, ...] = ()


class LabelledMasksInput(LabelTextsInput):
    """Asks for the masks of all things that the labels name. `contents` is one picture. Answer: `Masks`.

    Args:
        is_explained: whether each mask is to say how near all labels are to what is in its box.
    """

    kind: ClassVar[str] = "labelled_masks"
    contents: tuple[Content, ...] = Field(min_length=1, max_length=1)
    is_explained: bool = Field(False, exclude_if=lambda is_explained: not is_explained)


class Mask(BaseModel):
    """The mask of a thing in a picture.

    Args:
        label: index of its label.
        runs: in a picture of the size that `Masks` names.
        probability: in [0, 1]. Answer to `MasksInput`: the IoU with the right mask that the model expects. Answer
            to `LabelledMasksInput`: the model's confidence that such a thing is there.
        nearness: of all labels; None unless the question asks for it.
    """

    model_config = ConfigDict(frozen=True)
    label: int
    runs: Runs
    probability: float = 1.0
    nearness: Nearness | None = Field(None, exclude_if=lambda nearness: nearness is None)


class Masks(Contract):
    """Answer to `MasksInput` and `LabelledMasksInput`.

    Args:
        masks: one per prompt, in their order. Without prompts the likeliest first, also those that are too
            unlikely to be shown.
        width: of the picture as people see it, in pixels.
        height: in pixels.
        tolerance_px: the farthest that the corners of a polygon may be from the outline of a mask, in pixels.
        threshold: the smallest probability of a mask that is shown.
    """

    kind: ClassVar[str] = "found_masks"
    masks: tuple[Mask, ...]
    width: int
    height: int
    tolerance_px: float = 1.0
    threshold: float = 0.0


@dataclass(frozen=True)
class MasksTarget:
    """Target for `MasksInput` and `LabelledMasksInput`.

    Args:
        masks: the runs and the index of the label of each right mask. For `MasksInput` at least one; for
            `LabelledMasksInput` none if the picture shows nothing that the labels name.
        width: of the picture that they were drawn on, in pixels; 0 if there is none.
        height: in pixels.
        left_out: why parts of the annotation are missing here.
        unlabelled: masks of things whose label is not known, on the same picture. Nothing is learned or judged
            there.
        incomplete: indices of labels of which the picture shows more, at places that are not known; sorted. Nobody
            says that a place shows no such thing.
    """

    masks: tuple[tuple[Runs, int], ...]
    width: int
    height: int
    left_out: tuple[str, ...] = field(default=(), compare=False)
    unlabelled: tuple[Runs, ...] = ()
    incomplete: tuple[int, ...] = ()

    def around(self) -> BoxTarget:
        """Return the boxes around the masks."""
        boxes = [(box_of_runs(runs, self.width, self.height), label) for runs, label in self.masks]
        return BoxTarget(
            tuple(sorted(boxes)),
            (self.width, self.height) if self.masks else None,
            unlabelled=tuple(sorted(box_of_runs(runs, self.width, self.height) for runs in self.unlabelled)),
            incomplete=self.incomplete,
        )


def box_of_runs(runs: Runs, width: int, height: int) -> Corners:
    """Return the box around a mask that is not empty, as fractions of the picture."""
    ends = list(accumulate(runs))
    left, right = width, 0
    for start, end in zip(ends[::2], ends[1::2], strict=False):
        # A run that goes on in the next row touches both sides of the picture.
        is_one_row = start // width == (end - 1) // width
        left = min(left, start % width if is_one_row else 0)
        right = max(right, (end - 1) % width + 1 if is_one_row else width)
    last = ends[2 * (len(ends) // 2) - 1]
    return left / width, (ends[0] // width) / height, right / width, ((last - 1) // width + 1) / height
