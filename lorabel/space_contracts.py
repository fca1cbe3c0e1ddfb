"""Inputs, outputs and targets of what is found in a picture: boxes, lines of text.

Positions are fractions of the picture's width and height as people see it, that is, after its EXIF orientation.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import ClassVar

from pydantic import BaseModel, ConfigDict, Field

from lorabel.contracts import Content, Contract, Input, LabelTextsInput

Corners = tuple[float, float, float, float]
"""(left, top, right, bottom) of an upright box, each in [0, 1]."""


# Boxes of a question that are examples. Each is compared with thousands of places in the picture.
MOST_EXAMPLES = 1000
# Boxes of an annotated picture that a head learns from.
MOST_PLACES = 200


class Nearness(BaseModel):
    """How near each label is to a place in a picture: the logarithm of the odds that it names what is there.

    Args:
        answering: (labels,) of what answers: the fitted head, or else the texts of the labels.
        of_texts: (labels,) of the texts alone; empty if these answer.
        is_taught: (labels,) whether the head has learned anything of the label; empty if the texts answer.
    """

    model_config = ConfigDict(frozen=True)
    answering: tuple[float, ...]
    of_texts: tuple[float, ...] = ()
    is_taught: tuple[bool, ...] = ()


class Box(BaseModel):
    """An upright box around something in a picture.

    Args:
        corners: left < right and top < bottom.
        label: index of the label in the input's labels.
        probability: the model's confidence in place and label, in [0, 1].
        nearness: of all labels; None unless the question asks for it.
    """

    model_config = ConfigDict(frozen=True)
    corners: Corners
    label: int
    probability: float = 1.0
    nearness: Nearness | None = Field(None, exclude_if=lambda nearness: nearness is None)


class BoxesInput(LabelTextsInput):
    """Asks where the things are that the labels name. `contents` is one picture. Answer: `Boxes`.

    Args:
        examples: boxes in this picture with the indices of their labels. If there are any, the question is where
            the others like them are, whatever the texts of the labels say. At most MOST_EXAMPLES.
        is_explained: whether each box is to say how near all labels are to it.
    """

    kind: ClassVar[str] = "boxes"
    examples: tuple[tuple[Corners, int], ...] = Field((), max_length=MOST_EXAMPLES)
    is_explained: bool = Field(False, exclude_if=lambda is_explained: not is_explained)


class Boxes(Contract):
    """Answer to `BoxesInput`.

    Args:
        boxes: the likeliest first, also those that are too unlikely to be shown.
        width: of the picture as people see it, in pixels.
        height: in pixels.
        threshold: the smallest probability of a box that is shown.
    """

    kind: ClassVar[str] = "found_boxes"
    boxes: tuple[Box, ...]
    width: int
    height: int
    threshold: float = 0.0


@dataclass(frozen=True)
class BoxTarget:
    """Target for `BoxesInput`.

    Args:
        boxes: the right boxes with the indices of their labels; sorted. Empty if the picture shows none.
        size: width and height of the picture in pixels, if the annotation says it.
        left_out: why other boxes of the annotation cannot be used.
        unlabelled: boxes around things whose label is not known; sorted. Nothing is learned or judged there.
        incomplete: indices of labels of which the picture shows more, at places that are not known; sorted. Nobody
            says that a place shows no such thing.
    """

    boxes: tuple[tuple[Corners, int], ...]
    size: tuple[int, int] | None = None
    left_out: tuple[str, ...] = field(default=(), compare=False)
    unlabelled: tuple[Corners, ...] = ()
    incomplete: tuple[int, ...] = ()


class DrawnPart(BaseModel):
    """A part of a picture that an annotator has drawn.

    Args:
        corners: of the upright box around it.
        id: of its region in the editor; empty if it has none.
        label: index of its label in the input's labels; None if it has none.
    """

    model_config = ConfigDict(frozen=True)
    corners: Corners
    id: str = ""
    label: int | None = None


class TextLinesInput(Input):
    """Asks for the lines of text in a picture. `contents` is one picture. Answer: `TextLines`.

    Args:
        labels: for each label that a line may have, the texts that a model reads for it. Empty if lines have none.
        part: if it is set, the question is what the text in this part of the picture says. Then the answer is a
            single line with its place, id and label, or none if there is no text.
    """

    kind: ClassVar[str] = "text_lines"
    contents: tuple[Content, ...] = Field(min_length=1)
    labels: tuple[tuple[str, ...], ...] = ()
    part: DrawnPart | None = None


class TextLine(BaseModel):
    """A line of text in a picture.

    Args:
        corners: of the upright box around it.
        text: what it says.
        probability: the model's confidence in the text, in [0, 1].
        label_probabilities: (1 + labels,) that sum to 1: that it has no label, then each label. Empty as long as
            nothing was learned about labels.
        id: of the region in the editor whose text this is; empty for a line that was found.
    """

    model_config = ConfigDict(frozen=True)
    corners: Corners
    text: str
    probability: float = 1.0
    label_probabilities: tuple[float, ...] = ()
    id: str = ""


class TextLines(Contract):
    """Answer to `TextLinesInput`.

    Args:
        lines: in reading order.
        width: of the picture as people see it, in pixels.
        height: in pixels.
    """

    kind: ClassVar[str] = "found_lines"
    lines: tuple[TextLine, ...]
    width: int
    height: int


@dataclass(frozen=True)
class TextLinesTarget:
    """Target for `TextLinesInput`.

    Args:
        lines: the right lines, each with its text and the index of its label, or None; sorted by place.
        width: of the picture as people see it, in pixels; 0 if the annotation does not say.
        height: in pixels.
        left_out: why other regions of the annotation cannot be used.
        unknown: the places of these. Nothing is learned or judged there.
    """

    lines: tuple[tuple[Corners, str, int | None], ...]
    width: int = 0
    height: int = 0
    left_out: tuple[str, ...] = field(default=(), compare=False)
    unknown: tuple[Corners, ...] = ()

    def has_in_line(self, corners: Corners) -> bool:
        """Whether the middle of a box is in one of the lines."""
        return _has_middle((line for line, _, _ in self.lines), corners)

    def has_in_unknown(self, corners: Corners) -> bool:
        """Whether the middle of a box is in one of `unknown`."""
        return _has_middle(self.unknown, corners)


def _has_middle(places: Iterable[Corners], corners: Corners) -> bool:
    x, y = (corners[0] + corners[2]) / 2, (corners[1] + corners[3]) / 2
    return any(left <= x <= right and top <= y <= bottom for left, top, right, bottom in places)
