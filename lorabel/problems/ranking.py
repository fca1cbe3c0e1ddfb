"""`<Pairwise>` over two objects, and `<List>` with `<Ranker>`: which comes first?

A text that is shown beside them is the query: `<Text name="prompt" value="$prompt"/>`. With a query the nearest
item comes first from the start; without one there is silence until somebody has taught what is preferred.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar, Self

from lorabel.contracts import Content, Contract, Input, ItemScores, Modality, OrderTarget, RankingInput
from lorabel.errors import MissingTargetError, UnservedError
from lorabel.evaluation.metrics import Metrics
from lorabel.labeling import regions
from lorabel.labeling.label_config import ControlTag, ObjectTag
from lorabel.labeling.task_content import MODALITIES, content, list_items
from lorabel.problems.base import Prediction, Problem, Sample, TaskData

SIDES = ("left", "right")
# Of several texts beside the items, the query is the one that is called so.
QUERIES = ("query", "prompt", "question")
# A difference of scores that is as good as certain.
CERTAIN = 100.0


@dataclass(frozen=True)
class Ranking(Problem):
    """`objects`: two of them, or the one list that a Ranker ranks."""

    name: ClassVar[str] = "ranking"
    zero_shot: ClassVar[str] = "How near each item is to the query; without a query, nothing."
    learns: ClassVar[str] = "What annotators prefer: a direction in the features, and how much the query counts."
    input_type: ClassVar[type[Input]] = RankingInput
    output_type: ClassVar[type[Contract]] = ItemScores
    SAMPLES: ClassVar[tuple[Sample, ...]] = (
        Sample(
            label_config='<View><Image name="one" value="$one"/><Image name="two" value="$two"/>'
            '<Pairwise name="nicer" toName="one,two"/></View>',
            data={"one": "/data/upload/1/front.png", "two": "/data/upload/1/back.png"},
            result=[regions.pairwise("nicer", "one", "left")],
            opposite=[regions.pairwise("nicer", "one", "right")],
        ),
        Sample(
            label_config='<View><Text name="prompt" value="$prompt"/><List name="answers" value="$answers"/>'
            '<Ranker name="rank" toName="answers"/></View>',
            data={
                "prompt": "What is a heron?",
                "answers": [{"id": "a", "body": "A fish."}, {"id": "b", "title": "A bird", "body": "It wades."}],
            },
            result=[regions.ranker("rank", "answers", {"rank": ["b", "a"]})],
            opposite=[regions.ranker("rank", "answers", {"rank": ["a", "b"]})],
        ),
    )

    objects: tuple[ObjectTag, ...]
    query: ObjectTag | None

    @classmethod
    def match(cls, control: ControlTag) -> Self | None:
        tags = [tag.tag for tag in control.objects]
        if control.tag == "Pairwise":
            is_ours = len(tags) == 2 and all(tag in MODALITIES for tag in tags)
        else:
            is_ours = control.tag == "Ranker" and tags == ["List"]
        if not is_ours:
            return None
        if len({MODALITIES.get(tag) for tag in tags} - {Modality.TEXT}) > 1:
            raise UnservedError(f"no model compares {tags[0]} with {tags[1]}")
        if control.buckets:
            raise UnservedError(f"it sorts items into the buckets {', '.join(control.buckets)}, which is no order")
        return cls(control.name, control.objects[0].name, control.objects, _query(control))

    def model_input(self, data: TaskData) -> RankingInput:
        parts = [(-1, content(self.query, data))] if self.query is not None else []
        parts += [(number, one) for number, item in enumerate(self._items(data).values()) for one in item]
        return RankingInput(contents=tuple(one for _, one in parts), items=tuple(item for item, _ in parts))

    def prediction(self, output: ItemScores, data: TaskData) -> Prediction:
        """The score is the mean probability that neighbours in the order are in the right order."""
        if not output.scores:
            return Prediction([], 0.0)
        order = sorted(range(len(output.scores)), key=lambda item: -output.scores[item])
        ids = list(self._items(data))
        if self._is_pair:
            region = regions.pairwise(self.from_name, self.to_name, ids[order[0]])
        else:
            region = regions.ranker(self.from_name, self.to_name, {self.from_name: [ids[item] for item in order]})
        gaps = [output.scores[first] - output.scores[second] for first, second in pairwise(order)]
        return Prediction([region], sum(1 / (1 + math.exp(-gap)) for gap in gaps) / len(gaps))

    def target(self, result: list[regions.Region], data: TaskData) -> OrderTarget:
        """Items that the annotation does not name are behind all that it names."""
        mine = [region for region in result if region.get("from_name") == self.from_name]
        value = mine[-1].get("value", {}) if mine else {}
        order = [value.get("selected")] if self._is_pair else value.get("ranker", {}).get(self.from_name, ())
        ids = list(self._items(data))
        known = [ids.index(one) for one in order if one in ids]
        if not known:
            raise MissingTargetError(f"{self.from_name!r} was answered {value!r}, expected an order of {ids!r}")
        return OrderTarget(tuple(known.index(item) if item in known else len(known) for item in range(len(ids))))

    def perfect_output(self, target: OrderTarget) -> ItemScores:
        return ItemScores(scores=tuple(-CERTAIN * place for place in target.places))

    def metrics(self, targets: Sequence[OrderTarget], outputs: Sequence[ItemScores]) -> Metrics:
        # The backend never scores, and SciPy takes a second to import.
        from lorabel.evaluation.metrics import ranking

        return ranking(targets, [output.scores for output in outputs])

    def agree(self, targets: Sequence[OrderTarget]) -> OrderTarget:
        """By the mean of the places; where that is the same, the newest decides."""
        newest = targets[-1].places
        means = [sum(target.places[item] for target in targets) / len(targets) for item in range(len(newest))]
        keys = list(zip(means, newest, strict=True))
        order = sorted(set(keys))
        return OrderTarget(tuple(order.index(key) for key in keys))

    def class_of(self, target: OrderTarget) -> tuple[int, ...] | None:
        """Left or right; a list has no classes."""
        return target.places if self._is_pair else None

    @property
    def _is_pair(self) -> bool:
        return len(self.objects) == len(SIDES)

    def _items(self, data: TaskData) -> dict[str, tuple[Content, ...]]:
        if self._is_pair:
            return {side: (content(tag, data),) for side, tag in zip(SIDES, self.objects, strict=True)}
        return list_items(self.objects[0], data)


def _query(control: ControlTag) -> ObjectTag | None:
    texts = [tag for tag in control.context if MODALITIES.get(tag.tag) == Modality.TEXT]
    if len(texts) > 1:
        texts = [tag for tag in texts if tag.name in QUERIES or tag.data_key in QUERIES]
    return texts[0] if len(texts) == 1 else None
