"""`<BrushLabels>` or `<PolygonLabels>` over an `<Image>`: masks of everything that the labels name.

Nobody has to click: boxes are found for the texts of the labels, then the mask in each box. Clicks of a smart tool
beside the control tag are `interactive_segmentation`.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from lorabel.contracts import Contract, Input
from lorabel.errors import UnservedError
from lorabel.evaluation.box_matching import agreed_places
from lorabel.evaluation.mask_metrics import labelled_masks, mask_ious, right_masks
from lorabel.evaluation.metrics import Metrics
from lorabel.labeling import bit_masks
from lorabel.labeling.image_regions import picture_region
from lorabel.labeling.label_config import ControlTag, ObjectTag
from lorabel.labeling.regions import Region
from lorabel.mask_contracts import LabelledMasksInput, Mask, Masks, MasksTarget, Runs, box_of_runs
from lorabel.problems._answers import regions_of
from lorabel.problems._choices import UNSERVED_ATTRIBUTES
from lorabel.problems._label_scores import tempered
from lorabel.problems._masks import frames_text, mask_region, target_of
from lorabel.problems._near_labels import FoundRegion, NearLabels
from lorabel.problems._pictures import picture_of, refuse_several_pictures
from lorabel.problems._rivals import ON_PICTURES, refuse_unused, rivals_of
from lorabel.problems.base import Case, Prediction, Problem, Sample, TaskData, refuse_attributes

TAGS = ("BrushLabels", "PolygonLabels")
# Of a picture of 10 x 10 pixels: 5 x 5 pixels in the middle, and 3 x 3 in a corner.
SIZE = (10, 10)
MIDDLE, CORNER = (22, *(5, 5) * 4, 5, 33), (0, 3, 7, 3, 7, 3, 77)
POINTS = {MIDDLE: [[20, 20], [70, 20], [70, 70], [20, 70]], CORNER: [[0, 0], [30, 0], [30, 30], [0, 30]]}


def _sample(tag: str) -> Sample:
    kind = tag.lower()

    def region(runs: Runs, label: str) -> Region:
        value: dict[str, Any] = {"format": "rle", "rle": bit_masks.encode(runs)}
        if tag == "PolygonLabels":
            value = {"points": POINTS[runs], "closed": True}
        return {**picture_region("mask", "image", kind, SIZE, {**value, kind: [label]}), "score": 1.0}

    result, opposite = (
        [region(runs, label) for runs, label in zip((MIDDLE, CORNER), labels, strict=True)]
        for labels in (("car", "bus"), ("bus", "car"))
    )
    config = (
        f'<View><Image name="image" value="$image"/><{tag} name="mask" toName="image">'
        f'<Label value="car"/><Label value="bus"/></{tag}></View>'
    )
    return Sample(config, {"image": "https://example.org/street.jpg"}, result, opposite)


@dataclass(frozen=True)
class Segmentation(NearLabels, Problem):
    """Instance segmentation: the mask of each thing that the labels name.

    Attributes:
        control: the control tag that masks are regions of.
        picture: the object tag.
    """

    name: ClassVar[str] = "segmentation"
    zero_shot: ClassVar[str] = (
        "Masks of what the texts of the labels describe: boxes (open vocabulary), then the mask in each."
    )
    learns: ClassVar[str] = (
        "What each label means, by the boxes around the masks: at once, which things look like those under "
        "annotated masks; by training runs (LoRA on both models) also the outlines of the masks."
    )
    input_type: ClassVar[type[Input]] = LabelledMasksInput
    output_type: ClassVar[type[Contract]] = Masks
    SAMPLES: ClassVar[tuple[Sample, ...]] = tuple(_sample(tag) for tag in TAGS)

    control: ControlTag
    picture: ObjectTag

    @classmethod
    def match(cls, control: ControlTag) -> Self | None:
        """Bind a tag of `TAGS` on one picture; see `Problem.match`."""
        if control.tag not in TAGS or not control.objects or any(tag.tag != "Image" for tag in control.objects):
            return None
        if control.tag == "PolygonLabels" and frames_text(control, control):
            return None
        refuse_attributes(control, UNSERVED_ATTRIBUTES)
        if len(control.objects) > 1:
            names = ", ".join(repr(tag.name) for tag in control.objects)
            raise UnservedError(f"toName names several pictures ({names}), expected one")
        if not control.labels:
            raise UnservedError("it has no labels")
        brush = next((tag for tag in control.siblings if tag.tag == "BrushLabels"), None)
        if control.tag == "PolygonLabels" and brush is not None:
            raise UnservedError(f"masks are predicted as regions of {brush.name!r}, which are more exact")
        (picture,) = control.objects
        refuse_several_pictures(picture)
        return cls(control.name, picture.name, control, picture)

    def model_input(self, data: TaskData) -> LabelledMasksInput:
        """Ask for the masks of what each label names."""
        labels = tuple(label.texts for label in self.control.labels)
        return LabelledMasksInput(contents=picture_of(self.picture, data), labels=labels)

    def prediction(self, output: Masks, data: TaskData) -> Prediction:
        """Predict the masks above the threshold. The score is their mean probability.

        If there is none, it is the probability that the likeliest mask is not there.
        """
        regions, scores = [], []
        for mask in output.masks:
            if mask.probability < output.threshold:
                continue  # outlines take 0.1 s in a large picture
            region = mask_region(mask, output, self.control, self.to_name)
            if region is not None:
                regions.append({**region, "score": mask.probability})
                scores.append(mask.probability)
        if not regions:
            return Prediction([], 1 - max((mask.probability for mask in output.masks), default=0.0))
        return Prediction(regions, sum(scores) / len(scores))

    def target(self, result: list[Region], data: TaskData) -> MasksTarget:
        """Return the masks of the annotation with their labels; none if the picture shows none.

        Raises:
            MissingTargetError: see `target_of`; also if only other control tags were used to draw.
        """
        refuse_unused(regions_of(result), self.claims, self.to_name, ON_PICTURES)
        return target_of(result, self.control)

    @property
    def rivals(self) -> tuple[str, ...]:
        """The other control tags that draw on the picture."""
        return rivals_of(self.control, self.claims, ON_PICTURES)

    def left_out(self, target: MasksTarget) -> Sequence[str]:
        """Return why regions of the annotation are not learned."""
        return target.left_out

    def perfect_output(self, target: MasksTarget) -> Masks:
        """Return the right masks, each with probability 1."""
        masks = tuple(Mask(label=label, runs=runs) for runs, label in target.masks)
        return Masks(masks=masks, width=target.width, height=target.height)

    def metrics(self, targets: Sequence[MasksTarget], outputs: Sequence[Any]) -> Metrics:
        """Compute the metrics of `lorabel.evaluation.mask_metrics.labelled_masks`."""
        return labelled_masks(targets, outputs, [label.value for label in self.control.labels])

    def aggregate(self, targets: Sequence[MasksTarget]) -> MasksTarget:
        """Keep the masks that more than half of the annotators drew; the newest decides on exactly half.

        Masks of two annotators are the same if their IoU is at least 0.5. The same rule then decides about each
        pixel. The label is the one that most gave; of equally many, that of the newest. Annotators who saw the
        picture in another size than the newest do not count.
        """
        if len(targets) == 1:
            return targets[0]
        size = next(((target.width, target.height) for target in reversed(targets) if target.masks), (0, 0))
        counting = [target for target in targets if not target.masks or (target.width, target.height) == size]
        places = agreed_places([[runs for runs, _ in target.masks] for target in counting], mask_ious)
        masks = [
            _agreed([counting[annotator].masks[mask] for annotator, mask in place.items()], *size)
            for place in places
        ]
        unlabelled = tuple(runs for target in counting for runs in target.unlabelled)
        incomplete = tuple(sorted({label for target in targets for label in target.incomplete}))
        return MasksTarget(tuple(masks), *(size if masks or unlabelled else (0, 0)), (), unlabelled, incomplete)

    def may_be_unused(self, target: MasksTarget) -> bool:
        """Return whether nothing is drawn, and there are `rivals` to draw with."""
        return bool(self.rivals) and not target.masks

    def class_of(self, target: MasksTarget) -> tuple[int, ...]:
        """Return the labels that occur in the picture."""
        return tuple(sorted({label for _, label in target.masks}))

    def label_names(self, target: MasksTarget) -> frozenset[str]:
        """Return the labels that occur in the picture."""
        return frozenset(self.control.labels[label].value for _, label in target.masks)

    def distributions(self, output: Masks) -> Sequence[Sequence[float]]:
        """Return for each mask the probabilities that it is wrong and that it is right."""
        return [(1 - mask.probability, mask.probability) for mask in output.masks]

    def cases(self, output: Masks, target: MasksTarget) -> Sequence[Case]:
        """Return for each mask that is shown whether it is right: whether it meets a true mask of its own.

        Masks of which nobody knows it are left out.
        """
        masks = zip(output.masks, self.distributions(output), right_masks(target, output), strict=True)
        return [
            Case(tuple(distribution), int(is_right))
            for mask, distribution, is_right in masks
            if mask.probability >= output.threshold and is_right is not None
        ]

    def calibrated(self, output: Masks, temperature: float) -> Masks:
        """Apply the temperature to each mask, and to the threshold: the same masks are shown."""
        masks = tuple(
            mask.model_copy(update={"probability": _tempered(mask.probability, temperature)})
            for mask in output.masks
        )
        threshold = _tempered(output.threshold, temperature) if output.threshold > 0 else 0.0
        return output.model_copy(update={"masks": masks, "threshold": threshold})

    @property
    def has_threshold(self) -> bool:
        """Return True: masks have scores, and unlikely ones are not shown."""
        return True

    def with_threshold(self, output: Masks, threshold: float) -> Masks:
        """Return the output with another threshold."""
        return output.model_copy(update={"threshold": threshold})

    @property
    def region_labels(self) -> tuple[str, ...]:
        """Return the labels that masks may have."""
        return tuple(label.value for label in self.control.labels)

    def found_regions(self, output: Masks) -> Sequence[FoundRegion]:
        """Return the masks that are shown, as the boxes around them; see `NearLabels.found_regions`."""
        return [
            FoundRegion(
                box_of_runs(mask.runs, output.width, output.height), mask.label, mask.probability, mask.nearness
            )
            for mask in output.masks
            if mask.probability >= output.threshold and len(mask.runs) > 1
        ]


def _tempered(probability: float, temperature: float) -> float:
    return tempered((1 - probability, probability), temperature)[1]


def _agreed(votes: Sequence[tuple[Runs, int]], width: int, height: int) -> tuple[Runs, int]:
    """The mask, and its label, that annotators agree on.

    Args:
        votes: the newest annotator's first.
    """
    masks = [bit_masks.mask_of(runs, width, height) for runs, _ in votes]
    counts = sum(mask.astype(int) for mask in masks)
    runs = bit_masks.runs_of(2 * counts + masks[0] > len(votes))
    (label, _), *_ = Counter(label for _, label in votes).most_common(1)
    return runs, label
