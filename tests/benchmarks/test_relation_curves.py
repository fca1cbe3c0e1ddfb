"""The baselines of the curves of relations, on regions whose relations are known."""

import numpy as np

from benchmarks.relation_curves import nearest, regression
from lorabel.contracts import Content, Modality
from lorabel.families.encoders.heads.fit import Example
from lorabel.relation_contracts import RelatedRegion, RelationsInput, RelationTarget

PERSON, THING = 0, 1


def example(*spans: tuple[int, int], links: tuple[tuple[int, int, int], ...]) -> Example:
    """Spans as (start, label)."""
    regions = tuple(RelatedRegion(label=label, start=start, end=start + 2) for start, label in spans)
    text = Content(modality=Modality.TEXT, text="in place of a text")
    question = RelationsInput(contents=(text,), region_labels=("Person", "Thing"), regions=regions)
    return Example(question, np.zeros((4, 2), np.float32), np.zeros(0, np.float32), RelationTarget(regions, links))


def test_the_nearest_thing_is_related_where_things_were_related_to_persons() -> None:
    learned = [example((0, PERSON), (9, THING), links=((0, 1, 0),))]
    asked = example((0, PERSON), (9, THING), (30, THING), (40, PERSON), links=())
    found = nearest(learned)(asked)
    assert [relation.link for relation in found.relations] == [(0, 1, 0), (3, 2, 0)]


def test_regression_learns_which_labels_are_related() -> None:
    learned = [
        example((0, PERSON), (9 + number, THING), (40, PERSON), links=((0, 1, 0), (2, 1, 0)))
        for number in range(6)
    ]

    def of_labels(asked: Example) -> np.ndarray:
        labels = [region.label for region in asked.target.regions]
        pairs = [(a, b) for a in range(len(labels)) for b in range(len(labels)) if a != b]
        return np.array(
            [[labels[a] == PERSON, labels[b] == THING, labels[a] + 2 * labels[b] == 2] for a, b in pairs], float
        )

    found = regression(of_labels)(learned)(example((3, THING), (7, PERSON), links=()))
    assert [relation.link for relation in found.relations] == [(1, 0, 0)]
