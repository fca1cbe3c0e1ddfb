"""`<RectangleLabels>`, `<EllipseLabels>`, or `<Rectangle>` with `<Labels>`, on an `<Image>`: boxes with labels.

Predicted boxes are upright. Of an annotated turned rectangle or an ellipse, the upright box around it is learned.
"""

import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from types import MappingProxyType
from typing import Any, ClassVar, Self

from lorabel.contracts import Contract, Input
from lorabel.errors import MissingTargetError, UnreadableError, UnservedError
from lorabel.evaluation.box_matching import agreed_places, iou_matrix
from lorabel.evaluation.box_metrics import boxes as box_metrics
from lorabel.evaluation.box_metrics import right_boxes
from lorabel.evaluation.metrics import Metrics
from lorabel.labeling.image_regions import PICTURE_FIELDS, corners_of, ellipse_region, image_region, size_of
from lorabel.labeling.label_config import ControlTag, ObjectTag
from lorabel.labeling.regions import Region
from lorabel.problems._answers import known_labels, list_in, regions_of, shown
from lorabel.problems._choices import UNSERVED_ATTRIBUTES
from lorabel.problems._masks import answer_tag
from lorabel.problems._near_labels import FoundRegion, NearLabels
from lorabel.problems._pictures import group_id, picture_of, refuse_several_pictures
from lorabel.problems._rivals import ON_PICTURES, refuse_unused, rivals_of
from lorabel.problems._scored_findings import ScoredFindings
from lorabel.problems.base import Prediction, Sample, TaskData, refuse_attributes
from lorabel.space_contracts import MOST_EXAMPLES, Box, Boxes, BoxesInput, BoxTarget, Corners

log = logging.getLogger(__name__)

# Control tag with labels of its own -> the type of its regions.
LABELLED_SHAPES: Mapping[str, str] = MappingProxyType(
    {"RectangleLabels": "rectanglelabels", "EllipseLabels": "ellipselabels"}
)
# Control tag that a `<Labels>` beside it gives labels to -> the type of its regions.
BARE_SHAPES: Mapping[str, str] = MappingProxyType({"Rectangle": "rectangle", "Ellipse": "ellipse"})
# Of a region that the editor has sent, what a suggestion of it needs.
REGION_KEYS = (*PICTURE_FIELDS, "from_name", "to_name", "type", "value")
IMAGE = '<Image name="image" value="$image"/>'
LABEL_TAGS = '<Label value="car"/><Label value="bus"/>'
DATA: Mapping[str, Any] = MappingProxyType({"image": "https://example.org/street.jpg"})
SIZE = (400, 300)
FIRST: Corners = (0.25, 0.25, 0.5, 0.75)
SECOND: Corners = (0.5, 0.125, 0.875, 0.25)


def _group(index: int, corners: Corners, label: str) -> list[Region]:
    """The two regions of a box that `<Rectangle>` and `<Labels>` share.

    Args:
        index: of the label.
    """
    same = {"id": group_id(corners, index), "score": 1.0}
    place = image_region("box", "image", "rectangle", corners, SIZE, {})
    return [
        {**place, **same},
        {**image_region("label", "image", "labels", corners, SIZE, {"labels": [label]}), **same},
    ]


def _sample(tag: str, kind: str) -> Sample:
    build = ellipse_region if tag == "EllipseLabels" else image_region
    result, opposite = (
        [
            {**build("box", "image", kind, corners, SIZE, {kind: [label]}), "score": 1.0}
            for corners, label in zip((FIRST, SECOND), labels, strict=True)
        ]
        for labels in (("car", "bus"), ("bus", "car"))
    )
    config = f'<View>{IMAGE}<{tag} name="box" toName="image">{LABEL_TAGS}</{tag}></View>'
    return Sample(config, dict(DATA), result, opposite)


@dataclass(frozen=True)
class LabelledBoxes(NearLabels, ScoredFindings):
    """Object detection: boxes around what the labels name.

    Attributes:
        tag: the object tag of the picture.
        drawn_by: the control tag that draws the boxes: `from_name`, or the bare shape beside a `<Labels>`.
        shape: type of the regions of `drawn_by`.
        labels: the labels that boxes may have.
        rivals: the other control tags that draw on the picture.
    """

    name: ClassVar[str] = "boxes"
    zero_shot: ClassVar[str] = "Boxes around what the texts of the labels describe (open vocabulary)."
    learns: ClassVar[str] = (
        "What each label means, also if its text says nothing of it: at once, which things look like those in "
        "annotated boxes, and how sure that is; by training runs, also how boxes are drawn."
    )
    input_type: ClassVar[type[Input]] = BoxesInput
    output_type: ClassVar[type[Contract]] = Boxes
    findings: ClassVar[str] = "boxes"
    SAMPLES: ClassVar[tuple[Sample, ...]] = (
        _sample("RectangleLabels", "rectanglelabels"),
        _sample("EllipseLabels", "ellipselabels"),
        Sample(
            f'<View>{IMAGE}<Labels name="label" toName="image">{LABEL_TAGS}</Labels>'
            '<Rectangle name="box" toName="image"/></View>',
            dict(DATA),
            [*_group(0, FIRST, "car"), *_group(1, SECOND, "bus")],
            [*_group(1, FIRST, "bus"), *_group(0, SECOND, "car")],
        ),
    )

    tag: ObjectTag
    drawn_by: str
    shape: str
    rivals: tuple[str, ...] = ()

    @classmethod
    def match(cls, control: ControlTag) -> Self | None:
        """Bind a tag of `LABELLED_SHAPES`, or `Labels` beside one of `BARE_SHAPES`; see `Problem.match`."""
        if not control.objects or any(tag.tag != "Image" for tag in control.objects):
            return None
        bare = next((tag for name in BARE_SHAPES for tag in control.siblings if tag.tag == name), None)
        if control.tag == "Labels" and bare is not None:
            drawn_by, shape = bare.name, BARE_SHAPES[bare.tag]
        elif control.tag in LABELLED_SHAPES and not _asks_for_masks(control):
            drawn_by, shape = control.name, LABELLED_SHAPES[control.tag]
        else:
            return None
        refuse_attributes(control, UNSERVED_ATTRIBUTES)
        if len(control.objects) > 1:
            names = ", ".join(repr(tag.name) for tag in control.objects)
            raise UnservedError(f"toName names several pictures ({names}), expected one")
        if not control.labels:
            raise UnservedError("it has no labels")
        (tag,) = control.objects
        refuse_several_pictures(tag)
        rivals = rivals_of(control, {control.name, drawn_by}, ON_PICTURES)
        return cls(control.name, tag.name, control.labels, tag, drawn_by, shape, rivals)

    @property
    def claims(self) -> tuple[str, ...]:
        """The tag of the labels, and the bare shape beside it."""
        return (self.from_name,) if self.drawn_by == self.from_name else (self.from_name, self.drawn_by)

    def model_input(self, data: TaskData) -> BoxesInput:
        """Ask for boxes around what each label names."""
        return BoxesInput(contents=picture_of(self.tag, data), labels=tuple(label.texts for label in self.labels))

    def prompted(self, question: Input, context: Sequence[Region]) -> Input | None:
        """Ask for the others like the boxes that the annotator has drawn or accepted; see `Problem.prompted`."""
        drawn = [region for region in context if region.get("from_name") in self.claims]
        if not drawn or not isinstance(question, BoxesInput):
            return None
        try:
            examples = self.target(drawn[-MOST_EXAMPLES:], {}).boxes
        except MissingTargetError as error:
            raise UnreadableError(f"no box can be taken as an example: {error}", is_permanent=True) from error
        return question.model_copy(update={"examples": examples}) if examples else None

    def repeated(self, context: Sequence[Region]) -> list[Region]:
        """Return the boxes that the annotator has drawn or accepted: they are right; see `Problem.repeated`."""
        drawn = [region for region in context if region.get("from_name") in self.claims]
        return [
            {key: region[key] for key in REGION_KEYS if key in region}
            for region in drawn[-MOST_EXAMPLES:]
            if isinstance(region.get("id"), str)
        ]

    def prediction(self, output: Boxes, data: TaskData) -> Prediction:
        """Predict the boxes above the threshold. The score is their mean probability.

        If there is none, it is the probability that the likeliest box is not there.
        """
        shown_boxes = [box for box in output.boxes if box.probability >= output.threshold]
        if not shown_boxes:
            return Prediction([], 1 - max((box.probability for box in output.boxes), default=0.0))
        regions = [region for box in shown_boxes for region in self._regions(box, output)]
        return Prediction(regions, sum(box.probability for box in shown_boxes) / len(shown_boxes))

    def target(self, result: list[Region], data: TaskData) -> BoxTarget:
        """Return the upright boxes of the annotation with their labels; none if the picture shows none.

        What cannot be used is left out by itself. Where a box has no label that is known, nobody knows what is
        there. Where a box has no place, its label may be anywhere.

        Raises:
            MissingTargetError: see `Problem.target`; also if no box can be used, and if only other tags were used.
        """
        all_regions = regions_of(result)
        refuse_unused(all_regions, self.claims, self.to_name, ON_PICTURES)
        places = {
            region["id"]: region
            for region in all_regions
            if region.get("from_name") == self.drawn_by and isinstance(region.get("id"), str)
        }
        boxes, faults = set[tuple[Corners, int]](), list[str]()
        unlabelled, incomplete, size = set[Corners](), set[int](), None
        for region in self._labelled_regions(all_regions, places):
            labels, reasons = self._labels_of(region)
            id_ = shown(region.get("id"))
            faults += [f"region {id_}: {reason}" for reason in reasons]
            has_place = isinstance(region.get("value"), dict) and {"x", "points"} & region["value"].keys()
            place = region if has_place else places.get(str(region.get("id")), region)
            try:
                corners = corners_of(place)
            except MissingTargetError as error:
                faults.append(f"region {id_}: {error}")
                incomplete |= {*labels}
                continue
            boxes |= {(corners, label) for label in labels}
            unlabelled |= set() if labels else {corners}
            size = size or size_of(place)
        if faults and not boxes:
            raise MissingTargetError(faults[0])
        return BoxTarget(
            tuple(sorted(boxes)), size, tuple(faults), tuple(sorted(unlabelled)), tuple(sorted(incomplete))
        )

    def left_out(self, target: BoxTarget) -> Sequence[str]:
        """Return why boxes are left out."""
        return target.left_out

    def perfect_output(self, target: BoxTarget) -> Boxes:
        """Return the right boxes, each with probability 1."""
        width, height = target.size or (1, 1)
        boxes = tuple(Box(corners=corners, label=label) for corners, label in target.boxes)
        return Boxes(boxes=boxes, width=width, height=height)

    def metrics(self, targets: Sequence[BoxTarget], outputs: Sequence[Any]) -> Metrics:
        """Compute the metrics of `lorabel.evaluation.box_metrics`."""
        return box_metrics(targets, outputs, [label.value for label in self.labels])

    def aggregate(self, targets: Sequence[BoxTarget]) -> BoxTarget:
        """Keep the boxes that more than half of the annotators drew; the newest decides on exactly half.

        Boxes of two annotators are the same if their IoU is at least 0.5. Each corner is the median of theirs. The
        label is the one that most gave; of equally many, that of the newest.
        """
        if len(targets) == 1:
            return targets[0]
        places = agreed_places([[corners for corners, _ in target.boxes] for target in targets], iou_matrix)
        kept = {_agreed([targets[annotator].boxes[box] for annotator, box in place.items()]) for place in places}
        size = next((target.size for target in reversed(targets) if target.size), None)
        unlabelled = {corners for target in targets for corners in target.unlabelled}
        incomplete = {label for target in targets for label in target.incomplete}
        return BoxTarget(tuple(sorted(kept)), size, (), tuple(sorted(unlabelled)), tuple(sorted(incomplete)))

    def may_be_unused(self, target: BoxTarget) -> bool:
        """Return whether nothing is drawn, and there are `rivals` to draw with."""
        return bool(self.rivals) and not target.boxes

    def class_of(self, target: BoxTarget) -> tuple[int, ...]:
        """Return the labels that occur in the picture."""
        return tuple(sorted({label for _, label in target.boxes}))

    def label_names(self, target: BoxTarget) -> frozenset[str]:
        """Return the labels that occur in the picture."""
        return frozenset(self.labels[label].value for _, label in target.boxes)

    def right(self, output: Boxes, target: BoxTarget) -> Sequence[bool | None]:
        """Return for each box whether it is right: whether it meets a true box of its own."""
        return right_boxes(target, output)

    @property
    def region_labels(self) -> tuple[str, ...]:
        """Return the labels that boxes may have."""
        return tuple(label.value for label in self.labels)

    def found_regions(self, output: Boxes) -> Sequence[FoundRegion]:
        """Return the boxes that are shown; see `NearLabels.found_regions`."""
        boxes = self.shown(output).boxes
        return [FoundRegion(box.corners, box.label, box.probability, box.nearness) for box in boxes]

    def _regions(self, box: Box, output: Boxes) -> Iterator[Region]:
        """The region of a box; of a group, the shape's and the label's, which share an id."""
        size, label = (output.width, output.height), self.labels[box.label].value
        build = ellipse_region if self.shape.startswith("ellipse") else image_region
        if self.drawn_by == self.from_name:
            region = build(self.from_name, self.to_name, self.shape, box.corners, size, {self.shape: [label]})
            yield {**region, "score": box.probability}
            return
        same = {"id": group_id(box.corners, box.label), "score": box.probability}
        yield {**build(self.drawn_by, self.to_name, self.shape, box.corners, size, {}), **same}
        yield {**build(self.from_name, self.to_name, "labels", box.corners, size, {"labels": [label]}), **same}

    def _labelled_regions(self, regions: Sequence[Region], places: Mapping[str, Region]) -> list[Region]:
        """The regions that say which labels boxes have; of a group also the shapes of which no region says it.

        Args:
            places: the shapes of a group, by their ids.
        """
        labelled = [region for region in regions if region.get("from_name") == self.from_name]
        if self.drawn_by == self.from_name:
            return labelled
        ids = {region["id"] for region in labelled if isinstance(region.get("id"), str)}
        return [*labelled, *(region for id_, region in places.items() if id_ not in ids)]

    def _labels_of(self, region: Region) -> tuple[list[int], list[str]]:
        """The labels of a box, as indices, and why others of its labels cannot be used."""
        key = "labels" if self.drawn_by != self.from_name else self.shape
        value = region.get("value")
        if not isinstance(value, dict):
            return [], [f"{self.from_name!r} has the value {shown(value)}, expected an object"]
        try:
            names = list_in(value, key, self.from_name)
        except MissingTargetError as error:
            return [], [str(error)]
        if not names:
            return [], [f"a box of {self.from_name!r} has no label"]
        return known_labels(self.labels, names, self.from_name)


def _asks_for_masks(control: ControlTag) -> bool:
    """Whether it is a smart tool whose boxes become masks of another kind of control tag."""
    answer = answer_tag(control)
    return answer is not None and answer.tag not in LABELLED_SHAPES


def _agreed(votes: Sequence[tuple[Corners, int]]) -> tuple[Corners, int]:
    """The box, and its label, that annotators agree on.

    Args:
        votes: the newest annotator's first.
    """
    left, top, right, bottom = (float(median(side)) for side in zip(*(box for box, _ in votes), strict=True))
    (label, _), *_ = Counter(label for _, label in votes).most_common(1)
    return (left, top, right, bottom), label
