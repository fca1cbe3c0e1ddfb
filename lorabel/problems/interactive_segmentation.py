"""Clicks and boxes drawn with a smart `<KeyPointLabels>` or `<RectangleLabels>` over an `<Image>` become masks.

The mask is answered as a region of the label config's `<BrushLabels>` or `<PolygonLabels>`, else of its
`<RectangleLabels>`, with the label of the click. Without a click `segmentation` or `boxes` predicts regions of
that control tag. For example:

    <View>
      <Image name="image" value="$image"/>
      <BrushLabels name="mask" toName="image"><Label value="Car"/></BrushLabels>
      <KeyPointLabels name="click" toName="image" smart="true"><Label value="Car"/></KeyPointLabels>
    </View>
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from lorabel.contracts import Contract, Input
from lorabel.errors import MissingTargetError, UnreadableError, UnservedError
from lorabel.evaluation.mask_metrics import masks as mask_metrics
from lorabel.evaluation.metrics import Metrics
from lorabel.labeling import bit_masks
from lorabel.labeling.image_regions import corners_of, picture_region
from lorabel.labeling.label_config import ControlTag, ObjectTag, find_label
from lorabel.labeling.regions import Region
from lorabel.mask_contracts import MOST_POINTS, Mask, Masks, MasksInput, MasksTarget, Point, Prompt, Runs
from lorabel.problems._answers import list_in, shown
from lorabel.problems._masks import PROMPT_TAGS, answer_tag, mask_region, target_of, value_of
from lorabel.problems._pictures import picture_of, refuse_several_pictures
from lorabel.problems.base import Prediction, Problem, Sample, TaskData

# Of a picture of 10 x 10 pixels.
SQUARE, CORNER = (22, *(5, 5) * 4, 5, 33), (0, 3, 7, 3, 7, 3, 77)


def _sample_mask(runs: Runs) -> Region:
    value = {"format": "rle", "rle": bit_masks.encode(runs), "brushlabels": ["Car"]}
    return picture_region("mask", "image", "brushlabels", (10, 10), value)


def _sample_click(x_percent: float, y_percent: float) -> Region:
    value = {"x": x_percent, "y": y_percent, "width": 0.2, "keypointlabels": ["Car"]}
    return {**picture_region("click", "image", "keypointlabels", (10, 10), value), "is_positive": True}


@dataclass(frozen=True)
class InteractiveSegmentation(Problem):
    """Interactive segmentation: what an annotator clicks on gets a mask.

    `from_name` is the first smart tool of the label config.

    Attributes:
        prompt_tags: all smart tools that ask for masks, by their names.
        answer: the control tag that masks are regions of.
        picture: the object tag.
    """

    name: ClassVar[str] = "interactive_segmentation"
    zero_shot: ClassVar[str] = "The mask of what is clicked, or in the box that is drawn, with a smart tool."
    learns: ClassVar[str] = "The outlines of what people mask: LoRA on the decoder of masks."
    silence: ClassVar[str] = (
        "nothing is predicted before somebody clicks, which is right; switch Auto-Annotation on in the editor"
    )
    input_type: ClassVar[type[Input]] = MasksInput
    output_type: ClassVar[type[Contract]] = Masks
    SAMPLES: ClassVar[tuple[Sample, ...]] = (
        Sample(
            label_config='<View><Image name="image" value="$image"/>'
            '<BrushLabels name="mask" toName="image"><Label value="Car"/></BrushLabels>'
            '<KeyPointLabels name="click" toName="image" smart="true"><Label value="Car"/></KeyPointLabels>'
            "</View>",
            data={"image": "/data/upload/1/street.png"},
            result=[_sample_mask(SQUARE)],
            opposite=[_sample_mask(CORNER)],
            context=[_sample_click(45, 45)],
        ),
    )

    prompt_tags: tuple[ControlTag, ...]
    answer: ControlTag
    picture: ObjectTag

    @classmethod
    def match(cls, control: ControlTag) -> Self | None:
        """Bind the first smart tool on a picture that has a control tag for masks too; see `Problem.match`."""
        answer = answer_tag(control)
        if answer is None:
            return None
        (picture,) = control.objects
        if not answer.labels:
            raise UnservedError(f"{answer.name!r}, which its masks would be regions of, has no labels")
        refuse_several_pictures(picture)
        is_box = answer.tag == "RectangleLabels"
        prompts = [
            tag
            for tag in (control, *control.siblings)
            if tag.tag in PROMPT_TAGS and tag.is_smart and (not is_box or tag.tag != answer.tag)
        ]
        return cls(control.name, picture.name, tuple(prompts), answer, picture)

    @property
    def claims(self) -> tuple[str, ...]:
        """The smart tools. The control tag of their masks is another problem's, which predicts without a click."""
        return (self.from_name, *(tag.name for tag in self.prompt_tags if tag.name != self.from_name))

    @property
    def is_silent_until_taught(self) -> bool:
        """True: nothing is predicted before somebody clicks."""
        return True

    def model_input(self, data: TaskData) -> MasksInput:
        """Ask for no mask; a family may compute what the first click will need."""
        return MasksInput(contents=picture_of(self.picture, data))

    def prompted(self, question: Input, context: Sequence[Region]) -> MasksInput | None:
        """Ask for the mask that the points and the last box of a context mean; see `Problem.prompted`."""
        last = context[-1] if context else {}
        keys = {tag.name: PROMPT_TAGS[tag.tag] for tag in self.prompt_tags}
        if last.get("from_name") not in keys:
            return None
        clicks = [region for region in context if region.get("type") == "keypointlabels"]
        if len(clicks) > MOST_POINTS:
            raise UnreadableError(
                f"there are {len(clicks)} clicks, expected at most {MOST_POINTS}", is_permanent=True
            )
        try:
            label = self._prompt_label(last, keys[last["from_name"]])
            points = [_point(click) for click in clicks]
            boxes = [corners_of(region) for region in context[-1:] if region.get("type") == "rectanglelabels"]
        except MissingTargetError as error:
            raise UnreadableError(
                f"the smart tool's context cannot be read: {error}", is_permanent=True
            ) from error
        if not boxes and not any(point.is_positive for point in points):
            raise UnreadableError("no point is positive, so nothing is asked for", is_permanent=True)
        prompt = Prompt(label=label, points=tuple(points), corners=boxes[0] if boxes else None)
        return MasksInput(contents=question.contents, prompts=(prompt,))

    def asked_for(self, question: Input, target: MasksTarget) -> MasksInput:
        """Ask for each mask of the target with a click in its middle; see `Problem.asked_for`."""
        prompts = []
        for runs, label in target.masks:
            x, y = bit_masks.inner_point(bit_masks.mask_of(runs, target.width, target.height))
            prompts.append(Prompt(label=label, points=(Point(x=x, y=y),)))
        return MasksInput(contents=question.contents, prompts=tuple(prompts))

    def prediction(self, output: Masks, data: TaskData) -> Prediction:
        """A region for each mask that is not empty. The score is the mean IoU that the model expects.

        It is 1 if nobody has clicked: then nothing can be wrong.
        """
        drawn = [mask_region(mask, output, self.answer, self.to_name) for mask in output.masks]
        regions = [region for region in drawn if region is not None]
        probabilities = [mask.probability for mask in output.masks]
        return Prediction(regions, sum(probabilities) / len(probabilities) if probabilities else 1.0)

    def target(self, result: list[Region], data: TaskData) -> MasksTarget:
        """Return the masks of the annotation."""
        target = target_of(result, self.answer)
        if not target.masks:
            raise MissingTargetError(f"{self.answer.name!r} has no region")
        return target

    def perfect_output(self, target: MasksTarget) -> Masks:
        """Return the right masks, each with probability 1."""
        masks = tuple(Mask(label=label, runs=runs) for runs, label in target.masks)
        return Masks(masks=masks, width=target.width, height=target.height)

    def metrics(self, targets: Sequence[MasksTarget], outputs: Sequence[Any]) -> Metrics:
        """Compute the metrics of `lorabel.evaluation.mask_metrics.masks`."""
        return mask_metrics(targets, outputs)

    def class_of(self, target: MasksTarget) -> tuple[int, ...]:
        """Return the labels that occur in the picture."""
        return tuple(sorted({label for _, label in target.masks}))

    def left_out(self, target: MasksTarget) -> Sequence[str]:
        """Return why regions of the annotation are not learned."""
        return target.left_out

    def _prompt_label(self, region: Region, key: str) -> int:
        names = list_in(value_of(region), key, region["from_name"])
        index = find_label(self.answer.labels, names[0]) if names and isinstance(names[0], str) else None
        if index is None:
            raise MissingTargetError(f"{self.answer.name!r} has none of the labels {shown(names)}")
        return index


def _point(region: Region) -> Point:
    value = value_of(region)
    x, y = value.get("x"), value.get("y")
    for number in (x, y):
        if isinstance(number, bool) or not isinstance(number, int | float) or not 0 <= number <= 100:
            raise MissingTargetError(f"a point is at {shown((x, y))}, expected percent of the picture")
    return Point(x=x / 100, y=y / 100, is_positive=region.get("is_positive", True) is not False)  # type: ignore[operator]
