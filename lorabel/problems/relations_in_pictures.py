"""`<Relations>` beside tags that draw boxes, or mark lines of text, on an `<Image>`: how these are related.

Relations are found between the boxes or the lines of text that are predicted for the task.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from lorabel.contracts import Content, Input
from lorabel.errors import MissingTargetError, UnservedError
from lorabel.evaluation.box_matching import match_boxes
from lorabel.labeling import regions
from lorabel.labeling.image_regions import corners_of, image_region
from lorabel.labeling.label_config import ControlTag
from lorabel.labeling.regions import Region
from lorabel.picture_part import Part
from lorabel.problems._pictures import picture_of
from lorabel.problems._relations import PlaceOf, RelationProblem
from lorabel.problems.base import Problem, Sample, TaskData
from lorabel.problems.boxes import DATA, FIRST, IMAGE, LABEL_TAGS, SECOND, SIZE, LabelledBoxes
from lorabel.problems.text_in_pictures import TextInPictures
from lorabel.relation_contracts import PictureRelationsInput, RelatedRegion, RelationTarget
from lorabel.space_contracts import Corners

# What is shown around a region, as a share of each of its sides.
MARGIN = 0.1
LONGEST_TEXT = 80


def _sample(relation_tags: str, labels: Sequence[str]) -> Sample:
    """Return a sample in which the car is related to the bus; in the opposite result the bus is to the car."""
    boxes = [
        {
            "id": label,
            **image_region("box", "image", "rectanglelabels", corners, SIZE, {"rectanglelabels": [label]}),
        }
        for corners, label in ((FIRST, "car"), (SECOND, "bus"))
    ]
    result, opposite = (
        [*boxes, regions.relation(*ends, "right", labels)] for ends in (("car", "bus"), ("bus", "car"))
    )
    boxes_tag = f'<RectangleLabels name="box" toName="image">{LABEL_TAGS}</RectangleLabels>'
    config = f"<View>{IMAGE}<Relations>{relation_tags}</Relations>{boxes_tag}</View>"
    return Sample(config, dict(DATA), result, opposite)


@dataclass(frozen=True)
class PictureRelations(RelationProblem):
    """Relations between boxes, or lines of text, of a picture."""

    name: ClassVar[str] = "relations_in_pictures"
    zero_shot: ClassVar[str] = (
        "Nothing is predicted: only annotations show what is related. Then relations are predicted between the "
        "boxes or the lines of text that are predicted."
    )
    learns: ClassVar[str] = (
        "How two regions are related, by their labels, looks and texts, where one lies from the other, and which "
        "others are nearer."
    )
    input_type: ClassVar[type[Input]] = PictureRelationsInput
    SAMPLES: ClassVar[tuple[Sample, ...]] = (
        _sample('<Relation value="behind"/><Relation value="tows"/>', ["behind"]),
        _sample("", []),
    )

    @classmethod
    def marked_by(cls, control: ControlTag) -> Problem | None:
        """Return the binding of `text_in_pictures`, or of `boxes`."""
        for problem in (TextInPictures, LabelledBoxes):
            try:
                binding: Problem | None = problem.match(control)
            except UnservedError:
                continue
            if binding is not None:
                return binding
        return None

    def places_in(self, data: TaskData) -> PlaceOf:
        """Return the function that finds the upright box around a region, and its text; it reads no task."""
        return _place_of

    def question(self, data: TaskData, regions: Sequence[RelatedRegion]) -> PictureRelationsInput:
        """Ask about parts of the picture of the task."""
        (picture,) = picture_of(self.tag, data)
        return PictureRelationsInput(
            contents=_cut_out(picture, regions),
            labels=tuple(label.texts for label in self.labels),
            region_labels=self.region_labels,
            regions=tuple(regions),
            is_single=self.is_single,
        )

    def asked_for(self, question: Input, target: RelationTarget) -> Input:
        """Ask about the regions that people drew; see `Problem.asked_for`."""
        contents = _cut_out(question.contents[0], target.regions)
        return question.model_copy(update={"contents": contents, "regions": target.regions})

    def same_regions(self, first: Sequence[RelatedRegion], second: Sequence[RelatedRegion]) -> dict[int, int]:
        """Return which regions have one label and an IoU of at least 0.5; see `RelationProblem.same_regions`."""
        by_label: dict[int, tuple[list[int], list[int]]] = defaultdict(lambda: ([], []))
        for side, of_side in enumerate((first, second)):
            for index, region in enumerate(of_side):
                by_label[region.label][side].append(index)
        same: dict[int, int] = {}
        for of_first, of_second in by_label.values():
            places = [_box(first[index]) for index in of_first]
            others = [_box(second[index]) for index in of_second]
            same |= {of_first[i]: of_second[k] for i, k in match_boxes(places, others)}
        return same


def _place_of(parts: Sequence[Region], label: int) -> RelatedRegion:
    texts = [text for part in parts if part.get("type") == "textarea" for text in _texts_of(part)]
    return RelatedRegion(label=label, corners=_corners_of(parts), text=" ".join(texts)[:LONGEST_TEXT])


def _cut_out(picture: Content, regions: Sequence[RelatedRegion]) -> tuple[Content, ...]:
    """The regions cut out of a picture; the picture itself if there is none."""
    whole = picture.model_copy(update={"part": None})
    parts = [_part(_box(region)).grown(MARGIN).rounded() for region in regions]
    return tuple(picture.model_copy(update={"part": part}) for part in parts) or (whole,)


def _part(corners: Corners) -> Part:
    left, top, right, bottom = corners
    return Part(x=(left + right) / 2, y=(top + bottom) / 2, width=right - left, height=bottom - top)


def _box(region: RelatedRegion) -> Corners:
    assert region.corners is not None
    return region.corners


def _corners_of(parts: Sequence[Region]) -> Corners:
    """The place of a region: that of the first of its parts that has one.

    Raises:
        MissingTargetError: none has.
    """
    fault = MissingTargetError("it has no place")
    for part in parts:
        try:
            return corners_of(part)
        except MissingTargetError as error:
            fault = error
    raise fault


def _texts_of(part: Region) -> list[str]:
    value = part.get("value")
    texts = value.get("text") if isinstance(value, dict) else None
    return [text for text in texts if isinstance(text, str)] if isinstance(texts, list) else []
