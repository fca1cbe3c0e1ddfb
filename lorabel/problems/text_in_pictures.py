"""Lines of text in an `<Image>`: where they stand, what they say, and which label each has.

The control tags that say so are a group. Label Studio's template for OCR has `<Rectangle>`, `<Polygon>`,
`<Labels>` and a `<TextArea perRegion="true">`; `<RectangleLabels>` or `<PolygonLabels>` with such a TextArea is
the same. The regions of a line have the same id, and each has the line's place:

    {"id": "a1", "type": "rectangle", "from_name": "box", "value": {"x": 10, "y": 5, "width": 30, "height": 4}}
    {"id": "a1", "type": "labels", "from_name": "label", "value": {"x": 10, ..., "labels": ["Total"]}}
    {"id": "a1", "type": "textarea", "from_name": "text", "value": {"x": 10, ..., "text": ["TOTAL 6.00"]}}
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from lorabel.contracts import Contract, Input
from lorabel.errors import MissingTargetError, UnreadableError, UnservedError
from lorabel.evaluation.box_matching import agreed_places, iou_matrix
from lorabel.evaluation.metrics import Metrics
from lorabel.evaluation.text_metrics import ReadLine, text_lines
from lorabel.labeling.image_regions import corners_of, size_of
from lorabel.labeling.label_config import ControlTag, Label, ObjectTag, find_label
from lorabel.labeling.regions import Region
from lorabel.problems._answers import list_in, regions_of, shown
from lorabel.problems._line_regions import Tags, line_groups, places_of, shapes_of, values_in
from lorabel.problems._masks import are_clicked
from lorabel.problems._pictures import group_id, group_of, picture_of, refuse_several_pictures
from lorabel.problems._rivals import ON_PICTURES, refuse_unused
from lorabel.problems.base import Prediction, Problem, Sample, TaskData
from lorabel.space_contracts import Corners, DrawnPart, TextLine, TextLines, TextLinesInput, TextLinesTarget

Line = tuple[Corners, str, int | None]


SAMPLE_SIZE = (400, 200)
SAMPLE_LINES = (((0.25, 0.125, 0.75, 0.25), "Corner Bakery", 0), ((0.25, 0.5, 0.5, 0.625), "TOTAL 6.00", 1))
IMAGE = '<Image name="image" value="$image"/>'
TEXT = '<TextArea name="text" toName="image" perRegion="true" editable="true" displayMode="region-list"/>'
LABEL_TAGS = '<Label value="Shop"/><Label value="Total"/>'


def _sample(tags: Tags, controls: str, labels: Sequence[str | None], opposite: Sequence[str | None]) -> Sample:
    """Return a sample in which the labels of the lines are `labels`, and in the opposite result `opposite`."""
    result, other = (
        [
            region
            for number, ((corners, text, _), label) in enumerate(zip(SAMPLE_LINES, values, strict=True))
            for region in tags.regions(
                "image",
                TextLine(corners=corners, text=text + suffix),
                label,
                SAMPLE_SIZE,
                group_id(corners, number),
            )
        ]
        for values, suffix in ((labels, ""), (opposite, "!"))
    )
    config = f"<View>{IMAGE}{controls}{TEXT}</View>"
    return Sample(config, {"image": "/data/upload/1/receipt.png"}, result, other)


@dataclass(frozen=True)
class TextInPictures(Problem):
    """Text in pictures (OCR), line by line.

    Attributes:
        tag: the object tag of the picture.
        labels: the labels that a line may have; empty if there are none.
        tags: the control tags of the group.
    """

    name: ClassVar[str] = "text_in_pictures"
    zero_shot: ClassVar[str] = (
        "The lines of text are found and read. They have no label, unless there is a single one."
    )
    learns: ClassVar[str] = (
        "Which label a line has, by its place, its text and what stands beside it, and which lines are left out; "
        "the words of the project, to which uncertain readings are drawn. The reader itself is not trained."
    )
    input_type: ClassVar[type[Input]] = TextLinesInput
    output_type: ClassVar[type[Contract]] = TextLines
    SAMPLES: ClassVar[tuple[Sample, ...]] = (
        _sample(
            Tags(("box", "poly"), "rectangle", "label", "text"),
            f'<Labels name="label" toName="image">{LABEL_TAGS}</Labels>'
            '<Rectangle name="box" toName="image"/><Polygon name="poly" toName="image"/>',
            ("Shop", "Total"),
            ("Total", "Shop"),
        ),
        _sample(
            Tags(("box",), "rectanglelabels", None, "text"),
            f'<RectangleLabels name="box" toName="image">{LABEL_TAGS}</RectangleLabels>',
            ("Shop", "Total"),
            ("Total", "Shop"),
        ),
        _sample(
            Tags(("poly",), "polygonlabels", None, "text"),
            f'<PolygonLabels name="poly" toName="image">{LABEL_TAGS}</PolygonLabels>',
            ("Shop", "Total"),
            ("Total", "Shop"),
        ),
        _sample(
            Tags(("box",), "rectangle", None, "text"),
            '<Rectangle name="box" toName="image"/>',
            (None, None),
            (None, None),
        ),
    )

    tag: ObjectTag
    labels: tuple[Label, ...]
    tags: Tags

    @classmethod
    def match(cls, control: ControlTag) -> Self | None:
        """Bind the first control tag of a group on one picture; see `Problem.match`."""
        if [tag.tag for tag in control.objects] != ["Image"]:
            return None
        texts = [tag.name for tag in control.siblings if tag.tag == "TextArea" and tag.is_per_region]
        shapes = shapes_of(control)
        if not texts or not shapes:
            return None
        if control.is_smart and any(tag.tag == "BrushLabels" for tag in control.siblings):
            raise UnservedError("what is drawn with it asks for masks of BrushLabels, not for text")
        if control.tag == "PolygonLabels" and are_clicked(control.siblings):
            raise UnservedError("what is clicked becomes masks of it, not frames of text")
        (image,) = control.objects
        refuse_several_pictures(image)
        if len(texts) > 1:
            names = ", ".join(map(repr, texts))
            raise UnservedError(f"each region has several texts ({names}), expected one TextArea with perRegion")
        kind = shapes[0].tag.lower()
        labels = control.name if control.tag == "Labels" else None
        tags = Tags(tuple(tag.name for tag in shapes), kind, labels, texts[0])
        return cls(control.name, image.name, image, control.labels, tags)

    @property
    def claims(self) -> tuple[str, ...]:
        """The control tags of the group."""
        return tuple(dict.fromkeys((self.from_name, *self.tags.shapes, self.tags.text)))

    def model_input(self, data: TaskData) -> TextLinesInput:
        """Ask for the lines of text in the picture of the task."""
        return TextLinesInput(
            contents=picture_of(self.tag, data), labels=tuple(label.texts for label in self.labels)
        )

    def prompted(self, question: Input, context: Sequence[Region]) -> Input | None:
        """Ask for the text in the shape that the annotator has just drawn; see `Problem.prompted`.

        The answer has the id of the shape: where it is accepted, the editor puts it in the place of the shape.
        """
        drawn = [region for region in context if region.get("from_name") in self.tags.shapes]
        if not drawn:
            return None
        id_ = drawn[-1].get("id")
        parts = [region for region in context if id_ is not None and region.get("id") == id_] or drawn[-1:]
        try:
            part = DrawnPart(
                corners=corners_of(drawn[-1]),
                id=id_ if isinstance(id_, str) else "",
                label=self._label_of(parts),
            )
        except MissingTargetError as error:
            raise UnreadableError(f"the drawn shape cannot be read: {error}", is_permanent=True) from error
        return question.model_copy(update={"part": part})

    def prediction(self, output: TextLines, data: TaskData) -> Prediction:
        """Predict the lines. The score is their mean confidence; 0 if there is no line."""
        size, predicted, confidences = (output.width, output.height), [], []
        for number, line in enumerate(output.lines):
            label, confidence = self._label(line)
            value = None if label is None else self.labels[label].value
            id_ = line.id or group_id(line.corners, number)
            predicted += self.tags.regions(self.to_name, line, value, size, id_)
            confidences.append(line.probability * confidence)
        return Prediction(predicted, sum(confidences) / len(confidences) if confidences else 0.0)

    def _label(self, line: TextLine) -> tuple[int | None, float]:
        """The index of a line's label, or None, and the confidence in it."""
        if not line.label_probabilities:
            return (0 if len(self.labels) == 1 else None), 1.0
        if len(line.label_probabilities) != 1 + len(self.labels):
            raise ValueError(f"{len(line.label_probabilities)} probabilities for {len(self.labels)} labels")
        confidence = max(line.label_probabilities)
        best = line.label_probabilities.index(confidence)
        return (best - 1 if best else None), confidence

    def target(self, result: list[Region], data: TaskData) -> TextLinesTarget:
        """Return the lines of the annotation. A shape without area is no line.

        What cannot be used is left out by itself, and nobody knows what is at its place.

        Raises:
            MissingTargetError: see `Problem.target`; also if no line can be used, if only other control tags were,
                or if something that cannot be used has no place: a missing line would count as one to leave out.
        """
        all_regions = regions_of(result)
        refuse_unused(all_regions, self.claims, self.to_name, ON_PICTURES)
        regions = [region for region in all_regions if region.get("from_name") in self.claims]
        lines, faults, unknown = list[Line](), list[str](), set[Corners]()
        for parts in line_groups(regions):
            try:
                lines.append(self._line(parts))
            except MissingTargetError as error:
                places = places_of(parts)
                if not places and len(self._shapes_of(parts)) != 1:
                    raise
                faults.append(f"region {shown(parts[0].get('id'))}: {error}")
                unknown |= places
        if faults and not lines:
            raise MissingTargetError(faults[0])
        width, height = next((size for size in map(size_of, regions) if size is not None), (0, 0))
        return TextLinesTarget(
            tuple(sorted(lines, key=_place)), width, height, tuple(faults), tuple(sorted(unknown))
        )

    def left_out(self, target: TextLinesTarget) -> Sequence[str]:
        """Return why regions of the annotation are not learned."""
        return target.left_out

    def _shapes_of(self, parts: Sequence[Region]) -> list[Region]:
        return [region for region in parts if region.get("from_name") in self.tags.shapes]

    def _line(self, parts: Sequence[Region]) -> Line:
        """The line that a group of regions describes."""
        group_of(parts[0])  # refuses an id that is no text
        shapes = self._shapes_of(parts)
        if len(shapes) != 1:
            raise MissingTargetError(
                f"of {parts[0].get('from_name')!r} has {len(shapes)} shapes of "
                f"{', '.join(map(repr, self.tags.shapes))} with its id, expected one"
            )
        return corners_of(shapes[0]), self._text_of(parts), self._label_of(parts)

    def _text_of(self, parts: Sequence[Region]) -> str:
        """The text of a line; "" if nobody has written it."""
        texts = [
            text for value in values_in(parts, self.tags.text) for text in list_in(value, "text", self.tags.text)
        ]
        if not all(isinstance(text, str) for text in texts):
            raise MissingTargetError(f"{self.tags.text!r} was answered {shown(texts)}, expected texts")
        return "\n".join(texts).strip()

    def _label_of(self, parts: Sequence[Region]) -> int | None:
        """The index of a line's label; None if it has none."""
        key = self.tags.kind if self.tags.has_labeled_shapes else "labels"
        names = [
            name for value in values_in(parts, self.from_name) for name in list_in(value, key, self.from_name)
        ]
        if not names:
            return None
        index = find_label(self.labels, names[0]) if isinstance(names[0], str) else None
        if index is None:
            raise MissingTargetError(
                f"{self.from_name!r} was answered {shown(names)}, which the label config no longer has"
            )
        return index

    def perfect_output(self, target: TextLinesTarget) -> TextLines:
        """Return the right lines, each with probability 1."""
        lines = tuple(
            TextLine(corners=corners, text=text, label_probabilities=self._sure_of(label))
            for corners, text, label in target.lines
        )
        return TextLines(lines=lines, width=target.width, height=target.height)

    def _sure_of(self, label: int | None) -> tuple[float, ...]:
        right = 0 if label is None else 1 + label
        return tuple(float(index == right) for index in range(1 + len(self.labels))) if self.labels else ()

    def metrics(self, targets: Sequence[TextLinesTarget], outputs: Sequence[Any]) -> Metrics:
        """Compute the metrics of `lorabel.evaluation.text_metrics.text_lines`."""
        truth = [[ReadLine(*line) for line in target.lines] for target in targets]
        predicted = [
            [
                ReadLine(line.corners, line.text, self._label(line)[0])
                for line in output.lines
                if target.has_in_line(line.corners) or not target.has_in_unknown(line.corners)
            ]
            for target, output in zip(targets, outputs, strict=True)
        ]
        return text_lines(truth, predicted, [label.value for label in self.labels])

    def aggregate(self, targets: Sequence[TextLinesTarget]) -> TextLinesTarget:
        """Keep the lines that more than half of the annotators have drawn; the newest decides on exactly half.

        A line of one annotator and a line of another are the same if their IoU is at least 0.5. Its place is that
        of the newest; text and label are what most of them say, and of equally many the newest.
        """
        places = agreed_places([[corners for corners, _, _ in target.lines] for target in targets], iou_matrix)
        votes = [[targets[annotator].lines[line] for annotator, line in place.items()] for place in places]
        agreed = [
            (lines[0][0], _most([line[1] for line in lines]), _most([line[2] for line in lines]))
            for lines in votes
        ]
        newest = targets[-1]
        unknown = {corners for target in targets for corners in target.unknown}
        return TextLinesTarget(
            tuple(sorted(agreed, key=_place)), newest.width, newest.height, unknown=tuple(sorted(unknown))
        )

    def class_of(self, target: TextLinesTarget) -> tuple[int, ...]:
        """Return the labels that occur in the picture."""
        return tuple(sorted({label for _, _, label in target.lines if label is not None}))


def _place(line: Line) -> tuple[float, float]:
    (left, top, _, _), _, _ = line
    return top, left


def _most(values: Sequence[Any]) -> Any:
    """The most frequent value; of equally frequent ones the first."""
    return Counter(values).most_common(1)[0][0]
