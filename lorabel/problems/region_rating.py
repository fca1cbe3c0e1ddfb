"""`<Rating>` or `<Number>` with `perRegion="true"`: a number for each region of an `<Image>`.

The regions are those of `<RectangleLabels>`, and of other tags that draw boxes, ellipses or polygons.
Nothing is predicted before training.
"""

from dataclasses import dataclass
from typing import ClassVar

from lorabel.contracts import Contract, Input
from lorabel.labeling import regions
from lorabel.problems._regions import RegionProblem
from lorabel.problems.base import Problem, Sample
from lorabel.problems.rating import Rating
from lorabel.problems.region_classification import sample
from lorabel.region_contracts import EachEstimate, EachRatingInput


@dataclass(frozen=True)
class RegionRating(RegionProblem):
    """Regression of a number from each region of a picture."""

    name: ClassVar[str] = "region_rating"
    zero_shot: ClassVar[str] = "Nothing is predicted: only annotations show what a number means in this project."
    learns: ClassVar[str] = "A regression from the features of a region to the number, and its expected error."
    input_type: ClassVar[type[Input]] = EachRatingInput
    output_type: ClassVar[type[Contract]] = EachEstimate
    about_one: ClassVar[type[Problem]] = Rating
    SAMPLES: ClassVar[tuple[Sample, ...]] = (
        sample(
            '<Rating name="answer" toName="image" perRegion="true"/>',
            (regions.rating("answer", "image", 4), regions.rating("answer", "image", 1)),
            (regions.rating("answer", "image", 1), regions.rating("answer", "image", 5)),
        ),
        sample(
            '<Number name="answer" toName="image" perRegion="true" min="0" max="100"/>',
            (regions.number("answer", "image", 30), regions.number("answer", "image", 70)),
            (regions.number("answer", "image", 0), regions.number("answer", "image", 100)),
        ),
    )
