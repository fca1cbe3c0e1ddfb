"""`<Relations>` beside `<Labels>` over a `<Text>`, `<HyperText>` or `<Paragraphs>`: how spans are related.

Relations are found between the spans that are predicted for the task. Relations that people draw without the tag
`<Relations>` are not learned.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from lorabel.contracts import Content, Input, Modality
from lorabel.errors import MissingTargetError, UnservedError
from lorabel.labeling import regions
from lorabel.labeling.label_config import ControlTag
from lorabel.labeling.regions import Region
from lorabel.labeling.text_offsets import flat_text
from lorabel.labeling.words import find_words
from lorabel.problems._relations import PlaceOf, RelationProblem
from lorabel.problems.base import Problem, Sample, TaskData
from lorabel.problems.named_entities import ADA, LABEL_TAGS, LONDON, PAGE_ADA, PAGE_LONDON, NamedEntities
from lorabel.relation_contracts import RelatedRegion, RelationsInput, RelationTarget

RELATION_TAGS = '<Relation value="lives in"/><Relation value="left"/>'


def _sample(
    object_tag: str, tag: str, data: TaskData, places: Sequence[dict[str, Any]], relation_tags: str
) -> Sample:
    """Return a sample in which Ada is related to London; in the opposite result London is related to Ada."""
    ids, values = ("ada", "london"), ("Person", "City")
    spans = [
        {"id": id_, **regions.labels("entity", "text", tag.lower(), offsets, [value])}
        for id_, offsets, value in zip(ids, places, values, strict=True)
    ]
    labels = ["lives in"] if relation_tags else []
    result, opposite = (
        [*spans, regions.relation(first, second, "right", labels)] for first, second in (ids, ids[::-1])
    )
    spans_tag = f'<{tag} name="entity" toName="text">{LABEL_TAGS}</{tag}>'
    config = f"<View><Relations>{relation_tags}</Relations>{spans_tag}{object_tag}</View>"
    return Sample(config, data, result, opposite)


@dataclass(frozen=True)
class SpanRelations(RelationProblem):
    """Relations between spans of a text."""

    name: ClassVar[str] = "relations"
    zero_shot: ClassVar[str] = (
        "Nothing is predicted: only annotations show what is related. Then relations are predicted between the "
        "spans that are predicted."
    )
    learns: ClassVar[str] = (
        "How two spans are related, by their labels and words, what stands between them, and which other spans "
        "are nearer."
    )
    input_type: ClassVar[type[Input]] = RelationsInput
    SAMPLES: ClassVar[tuple[Sample, ...]] = (
        _sample(
            '<Text name="text" value="$text"/>', "Labels", {"text": "Ada in London"}, (ADA, LONDON), RELATION_TAGS
        ),
        _sample('<Text name="text" value="$text"/>', "Labels", {"text": "Ada in London"}, (ADA, LONDON), ""),
        _sample(
            '<HyperText name="text" value="$html"/>',
            "HyperTextLabels",
            {"html": "<p><b>Ada</b> lives</p><p>in London</p>"},
            (PAGE_ADA, PAGE_LONDON),
            RELATION_TAGS,
        ),
    )

    @classmethod
    def marked_by(cls, control: ControlTag) -> Problem | None:
        """Return the binding of `named_entities`."""
        try:
            return NamedEntities.match(control)
        except UnservedError:
            return None

    def places_in(self, data: TaskData) -> PlaceOf:
        """Return the function that finds the characters of a span; see `RelationProblem.places_in`."""
        text = flat_text(self.tag, data)

        def place_of(parts: Sequence[Region], label: int) -> RelatedRegion:
            value = parts[0].get("value")
            start, end = text.span(value if isinstance(value, dict) else {})
            if not find_words(text.text[start:end]):
                raise MissingTargetError(f"no word is in the span from {start} to {end}")
            return RelatedRegion(label=label, start=start, end=end)

        return place_of

    def question(self, data: TaskData, regions: Sequence[RelatedRegion]) -> RelationsInput:
        """Ask about spans of the flat text of the task."""
        text = Content(modality=Modality.TEXT, text=flat_text(self.tag, data).text)
        return RelationsInput(
            contents=(text,),
            labels=tuple(label.texts for label in self.labels),
            region_labels=self.region_labels,
            regions=tuple(regions),
            is_single=self.is_single,
        )

    def asked_for(self, question: Input, target: RelationTarget) -> Input:
        """Ask about the spans that people marked; see `Problem.asked_for`."""
        return question.model_copy(update={"regions": target.regions})

    def same_regions(self, first: Sequence[RelatedRegion], second: Sequence[RelatedRegion]) -> dict[int, int]:
        """Return which spans have the same start, end and label; see `RelationProblem.same_regions`."""
        places = {(region.start, region.end, region.label): index for index, region in enumerate(second)}
        same = {index: places.get((region.start, region.end, region.label)) for index, region in enumerate(first)}
        return {index: other for index, other in same.items() if other is not None}
