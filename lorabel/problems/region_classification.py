"""`<Choices>`, single or multiple, or `<Taxonomy>`, with `perRegion="true"`: labels for regions of an `<Image>`.

The regions are those of `<RectangleLabels>`, and of other tags that draw boxes, ellipses or polygons.
Each is cut out with a margin and classified as a picture of its own. `whenLabelValue` and `visibleWhen` count for
each region.
"""

from dataclasses import dataclass
from typing import ClassVar

from lorabel.contracts import Contract, Input
from lorabel.labeling import regions
from lorabel.labeling.image_regions import image_region
from lorabel.labeling.regions import Region
from lorabel.problems._regions import RegionProblem
from lorabel.problems.base import Problem, Sample
from lorabel.problems.image_classification import ImageClassification
from lorabel.region_contracts import EachLabelScores, EachLabelsInput

SIZE = (400, 200)
CORNERS = ((0.125, 0.25, 0.25, 0.5), (0.5, 0.5, 0.75, 0.75))
BOXES = '<RectangleLabels name="box" toName="image"><Label value="Part"/></RectangleLabels>'


def sample(control: str, answers: tuple[Region, Region], opposite: tuple[Region, Region]) -> Sample:
    """Return a sample with two boxes.

    Args:
        control: the control tag with perRegion, of the name `answer`.
        answers: to both boxes, as if they were about the picture.
    """
    result, opposite_result = (
        [
            region
            for number, (corners, answer) in enumerate(zip(CORNERS, given, strict=True))
            for region in _box_with_answer(f"box{number}", corners, answer)
        ]
        for given in (answers, opposite)
    )
    config = f'<View><Image name="image" value="$image"/>{BOXES}{control}</View>'
    return Sample(config, {"image": "/data/upload/1/parts.png"}, result, opposite_result)


def _box_with_answer(id_: str, corners: tuple[float, float, float, float], answer: Region) -> list[Region]:
    """The two regions of a box."""
    box = image_region("box", "image", "rectanglelabels", corners, SIZE, {"rectanglelabels": ["Part"]})
    place = image_region("answer", "image", answer["type"], corners, SIZE, answer["value"])
    return [{**box, "id": id_}, {**place, "id": id_}]


@dataclass(frozen=True)
class RegionClassification(RegionProblem):
    """Classification of each region of a picture."""

    name: ClassVar[str] = "region_classification"
    zero_shot: ClassVar[str] = (
        "Labels are scored by the similarity of their texts to the region, for each region that is predicted."
    )
    learns: ClassVar[str] = (
        "What each label means in this project, from the regions that people drew: at once, which features of a "
        "region go with it; by training runs, features in which the labels are farther apart."
    )
    input_type: ClassVar[type[Input]] = EachLabelsInput
    output_type: ClassVar[type[Contract]] = EachLabelScores
    about_one: ClassVar[type[Problem]] = ImageClassification
    SAMPLES: ClassVar[tuple[Sample, ...]] = (
        sample(
            '<Choices name="answer" toName="image" perRegion="true"><Choice value="whole"/>'
            '<Choice value="broken"/></Choices>',
            (regions.choices("answer", "image", ["whole"]), regions.choices("answer", "image", ["broken"])),
            (regions.choices("answer", "image", ["broken"]), regions.choices("answer", "image", ["whole"])),
        ),
        sample(
            '<Choices name="answer" toName="image" perRegion="true" choice="multiple"><Choice value="wet"/>'
            '<Choice value="torn"/></Choices>',
            (regions.choices("answer", "image", ["wet", "torn"]), regions.choices("answer", "image", ["torn"])),
            (regions.choices("answer", "image", ["wet"]), regions.choices("answer", "image", ["wet"])),
        ),
        sample(
            '<Taxonomy name="answer" toName="image" perRegion="true"><Choice value="metal"><Choice value="nut"/>'
            '<Choice value="bolt"/></Choice><Choice value="wood"/></Taxonomy>',
            (
                regions.taxonomy("answer", "image", [["metal", "nut"]]),
                regions.taxonomy("answer", "image", [["wood"]]),
            ),
            (
                regions.taxonomy("answer", "image", [["wood"]]),
                regions.taxonomy("answer", "image", [["metal", "bolt"]]),
            ),
        ),
    )
