"""What the problems share that ask about each region of a picture (`perRegion="true"`).

Label Studio stores the answer to such a control tag as a region of its own, with the id of the region that it is
about, and with its place:

    {"id": "a1", "type": "rectanglelabels", "from_name": "box", "value": {"x": 9, ..., "rectanglelabels": ["Car"]}}
    {"id": "a1", "type": "choices", "from_name": "state", "value": {"x": 9, ..., "choices": ["dented"]}}

Each region is cut out with a margin and asked about as a picture of its own, by the problem that serves such a
control tag on a picture. Predictions are about the regions that other bindings predict for the task; what people
say about the regions that they drew is learned.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Self

from lorabel.contracts import Contract, Input
from lorabel.errors import MissingTargetError, UnservedError
from lorabel.evaluation.box_matching import agreed_places, iou_matrix
from lorabel.evaluation.metrics import Metrics
from lorabel.labeling.image_regions import corners_of, part_of, place_of
from lorabel.labeling.label_config import ControlTag, ObjectTag
from lorabel.labeling.regions import Region
from lorabel.picture_part import Part
from lorabel.problems._answers import regions_of, shown
from lorabel.problems._pictures import group_of, refuse_several_pictures
from lorabel.problems.base import Case, Prediction, Problem, TaskData
from lorabel.region_contracts import MOST_REGIONS, EachTarget, RegionAnswer

SHAPES = ("RectangleLabels", "EllipseLabels", "PolygonLabels", "Rectangle", "Ellipse", "Polygon")
# What is shown around a region, as a share of each of its sides. Predicted boxes are less exact than those that
# people draw, from which the answers are learned; docs/decisions/0028 has figures of other margins.
MARGIN = 0.3


@dataclass(frozen=True)
class RegionProblem(Problem):
    """Base class of problems that ask about each region.

    Attributes:
        about_one: the problem that serves the control tag on a picture.
        tag: the object tag of the picture.
        drawn_by: names of the control tags that draw regions.
        one: its binding, as if the control tag were about the picture.
        regions: the regions that are asked about, each of `drawn_by`; empty until `about` was called.
    """

    is_per_region: ClassVar[bool] = True
    about_one: ClassVar[type[Problem]]

    tag: ObjectTag
    drawn_by: tuple[str, ...]
    one: Any
    regions: tuple[Region, ...] = field(default=(), hash=False)

    @classmethod
    def match(cls, control: ControlTag) -> Self | None:
        """Bind a tag with `perRegion` on one picture, beside tags that draw boxes; see `Problem.match`."""
        if [tag.tag for tag in control.objects] != ["Image"]:
            return None
        about_one = cls.about_one.match(replace(control, context=()))
        if about_one is None:
            return None
        (tag,) = control.objects
        refuse_several_pictures(tag)
        drawn_by = tuple(sibling.name for sibling in control.siblings if sibling.tag in SHAPES)
        if not drawn_by:
            raise UnservedError(f"perRegion: no control tag draws boxes, ellipses or polygons on {tag.name!r}")
        return cls(control.name, tag.name, tag, drawn_by, about_one)

    def about(self, regions: Sequence[Region]) -> Self | None:
        """Ask about the regions of `drawn_by`, at most MOST_REGIONS; see `Problem.about`."""
        places = [region for region in regions if region.get("from_name") in self.drawn_by]
        return replace(self, regions=tuple(places[:MOST_REGIONS])) if places else None

    def model_input(self, data: TaskData) -> Input:
        """Ask about each region; before `about`, about the whole picture."""
        question = self.one.model_input(data)
        return self._question(question, [part_of(region) for region in self.regions])

    def asked_for(self, question: Input, target: EachTarget) -> Input:
        """Ask about the regions that people drew; see `Problem.asked_for`.

        Raises:
            MissingTargetError: several annotators agree on no region.
        """
        if not target.regions:
            raise MissingTargetError(f"the annotators have answered {self.from_name!r} about no common region")
        return self._question(question, [region.part for region in target.regions])

    def _question(self, question: Input, parts: Sequence[Part]) -> Input:
        picture = question.contents[0].model_copy(update={"part": None})
        cut = tuple(picture.model_copy(update={"part": part.grown(MARGIN).rounded()}) for part in parts)
        fields = {name: getattr(question, name) for name in type(question).model_fields if name != "contents"}
        return self.input_type(contents=cut or (picture,), **fields)

    def prediction(self, output: Any, data: TaskData) -> Prediction:
        """Predict an answer for each region. Score and margin are the mean of theirs."""
        if not self.regions:
            return Prediction([], 0.0)
        predictions = [self.one.prediction(answer, data) for answer in output.answers]
        answered = [
            _merged(region, answer)
            for region, prediction in zip(self.regions, predictions, strict=True)
            for answer in prediction.regions
        ]
        margins = [prediction.margin for prediction in predictions if prediction.margin is not None]
        return Prediction(
            answered,
            sum(prediction.score for prediction in predictions) / len(predictions),
            sum(margins) / len(margins) if margins else None,
        )

    def target(self, result: list[Region], data: TaskData) -> EachTarget:
        """Return the answer to each region. A region whose answer cannot be used is left out.

        Raises:
            MissingTargetError: no region has an answer that can be used.
        """
        names = {self.from_name, *self.drawn_by}
        groups: dict[Any, list[Region]] = {}
        answered: list[RegionAnswer] = []
        faults: list[str] = []
        for region in regions_of(result):
            if region.get("from_name") in names:
                try:
                    groups.setdefault(group_of(region), []).append(region)
                except MissingTargetError as error:
                    faults.append(str(error))
        for id_, parts in groups.items():
            try:
                answered.append(self._answer(parts, data))
            except MissingTargetError as error:
                if any(part.get("from_name") == self.from_name for part in parts):
                    faults.append(f"region {shown(id_)}: {error}")
        if not answered:
            raise MissingTargetError(faults[0] if faults else f"no region was answered in {self.from_name!r}")
        answered.sort(key=lambda answer: (answer.corners[1], answer.corners[0]))
        if len(answered) > MOST_REGIONS:
            faults.append(f"{len(answered) - MOST_REGIONS} regions more than {MOST_REGIONS}")
        return EachTarget(tuple(answered[:MOST_REGIONS]), tuple(faults))

    def left_out(self, target: EachTarget) -> Sequence[str]:
        """Return why regions are left out."""
        return target.left_out

    def _answer(self, parts: Sequence[Region], data: TaskData) -> RegionAnswer:
        """What is said about the region that consists of these parts of a result."""
        by_place = sorted(parts, key=lambda part: part.get("from_name") not in self.drawn_by)
        place = next((part for part in by_place if _has_place(part)), None)
        if place is None:
            raise MissingTargetError(f"it has no place: no region of {', '.join(self.drawn_by)} has its id")
        part, corners = part_of(place), corners_of(place)
        return RegionAnswer(part, corners, self.one.target([*parts], data))

    def perfect_output(self, target: EachTarget) -> Contract:
        """Return the right answer for each region."""
        return self.output_type(answers=tuple(self.one.perfect_output(each) for each in target.each))

    def metrics(self, targets: Sequence[EachTarget], outputs: Sequence[Any]) -> Metrics:
        """Compute the metrics of the problem for one region over all regions of all tasks."""
        each = [answer for target in targets for answer in target.each]
        answers = [answer for output in outputs for answer in output.answers]
        metrics: Metrics = self.one.metrics(each, answers)
        return replace(metrics, values={**metrics.values, "tasks": len(targets), "regions": len(each)})

    def aggregate(self, targets: Sequence[EachTarget]) -> EachTarget:
        """Keep the regions that more than half of the annotators answered; the newest decides on exactly half.

        Regions of two annotators are the same if their IoU is at least 0.5. The place is that of the newest. The
        answers are combined as those about a task are.
        """
        if len(targets) == 1:
            return targets[0]
        places = agreed_places([[region.corners for region in target.regions] for target in targets], iou_matrix)
        votes = [[targets[annotator].regions[index] for annotator, index in place.items()] for place in places]
        agreed = [
            replace(newest_first[0], target=self.one.aggregate([vote.target for vote in reversed(newest_first)]))
            for newest_first in votes
        ]
        return EachTarget(tuple(sorted(agreed, key=lambda answer: (answer.corners[1], answer.corners[0]))))

    def class_of(self, target: EachTarget) -> tuple[Any, ...] | None:
        """Return the class of each region, in the order of their places."""
        classes = tuple(self.one.class_of(answer) for answer in target.each)
        return None if all(each is None for each in classes) else classes

    @property
    def is_silent_until_taught(self) -> bool:
        """Whether the problem for one region is."""
        return bool(self.one.is_silent_until_taught)

    def distributions(self, output: Any) -> Sequence[Sequence[float]]:
        """Return the distributions of each region in turn."""
        return [distribution for answer in output.answers for distribution in self.one.distributions(answer)]

    def cases(self, output: Any, target: EachTarget) -> Sequence[Case]:
        """Return the cases of each region in turn."""
        pairs = zip(output.answers, target.each, strict=True)
        return [case for answer, truth in pairs for case in self.one.cases(answer, truth)]

    def calibrated(self, output: Any, temperature: float) -> Any:
        """Return the output with the answer to each region calibrated."""
        return self.output_type(
            answers=tuple(self.one.calibrated(answer, temperature) for answer in output.answers)
        )

    def default_temperature(self, output: Any) -> float:
        """Return that of the answers, which is the same for all of them."""
        return float(self.one.default_temperature(output.answers[0])) if output.answers else 1.0


def _merged(region: Region, answer: Region) -> Region:
    """The answer as a region with the id and the place of the region that it is about."""
    place = place_of(region)
    return {**answer, **place, "value": {**place["value"], **answer["value"]}}


def _has_place(region: Region) -> bool:
    value = region.get("value")
    return isinstance(value, dict) and not {"x", "points"}.isdisjoint(value)
