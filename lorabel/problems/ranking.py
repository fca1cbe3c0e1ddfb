"""`<Pairwise>` over two objects, or `<Ranker>` over a `<List>`: an order of the items.

A text that is shown beside the items is the query, such as `<Text name="prompt" value="$prompt"/>`. Before
training, items are ordered by their similarity to the query; without a query, nothing is predicted.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar, Self

from lorabel.contracts import Content, Contract, Input, ItemScores, Modality, RankingInput, RankingTarget
from lorabel.errors import MissingTargetError, UnservedError
from lorabel.evaluation.metrics import Metrics, ranking
from lorabel.labeling import regions
from lorabel.labeling.label_config import ControlTag, ObjectTag
from lorabel.labeling.task_content import MODALITIES, contents, list_items
from lorabel.problems._answers import list_in, shown, values_of
from lorabel.problems.base import Prediction, Problem, Sample, TaskData

SIDES = ("left", "right")
# If several texts are shown beside the items, the query is the one whose name or data key is in this list.
QUERY_NAMES = ("query", "prompt", "question")
# Difference between neighbours in a perfect output: the logistic function of it is 1 in float64.
PERFECT_GAP = 100.0


@dataclass(frozen=True)
class Ranking(Problem):
    """Ranking of two objects or of the items of a list.

    Attributes:
        objects: the two object tags of a Pairwise, or the List of a Ranker.
        query: the object tag of the query, or None.
    """

    name: ClassVar[str] = "ranking"
    zero_shot: ClassVar[str] = (
        "Items are ordered by their similarity to the query; without a query, nothing is predicted."
    )
    learns: ClassVar[str] = (
        "What annotators prefer, from the features of the items; with a query, also what fits it."
    )
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
        """Bind `Pairwise` on two objects, or `Ranker` on a `List` without buckets; see `Problem.match`."""
        tags = [tag.tag for tag in control.objects]
        is_pair = control.tag == "Pairwise" and len(tags) == 2 and all(tag in MODALITIES for tag in tags)
        is_list = control.tag == "Ranker" and tags == ["List"]
        if not (is_pair or is_list):
            return None
        if len({MODALITIES.get(tag) for tag in tags} - {Modality.TEXT}) > 1:
            raise UnservedError(f"no model compares {tags[0]} with {tags[1]}")
        if control.buckets:
            raise UnservedError(f"it sorts items into the buckets {', '.join(control.buckets)}, which is no order")
        return cls(control.name, control.objects[0].name, control.objects, _query(control))

    def model_input(self, data: TaskData) -> RankingInput:
        """Ask for a score for each item, given the query if there is one."""
        query = contents(self.query, data) if self.query is not None else ()
        indexed = [(-1, content) for content in query]
        for index, item in enumerate(self._items(data).values()):
            indexed += [(index, content) for content in item]
        item_indices, all_contents = zip(*indexed, strict=True)
        return RankingInput(contents=all_contents, item_indices=item_indices)

    def prediction(self, output: ItemScores, data: TaskData) -> Prediction:
        """Order the items by their scores. The prediction's score is the mean probability, over all neighbours in
        this order, that the first is preferred to the second."""
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

    def target(self, result: list[regions.Region], data: TaskData) -> RankingTarget:
        """Return the ranks of the items. All items that the annotation does not name share the last rank."""
        values = values_of(result, self.from_name)
        value = values[-1] if values else {}
        ids = list(self._items(data))
        ranked = [ids.index(item_id) for item_id in self._order(value) if item_id in ids]
        if not ranked:
            raise MissingTargetError(
                f"{self.from_name!r} was answered {shown(value)}, expected an order of {shown(ids)}"
            )
        return RankingTarget(
            tuple(ranked.index(item) if item in ranked else len(ranked) for item in range(len(ids)))
        )

    def perfect_output(self, target: RankingTarget) -> ItemScores:
        """Return scores in the order of the ranks."""
        return ItemScores(scores=tuple(-PERFECT_GAP * rank for rank in target.ranks))

    def metrics(self, targets: Sequence[RankingTarget], outputs: Sequence[ItemScores]) -> Metrics:
        """Compute the metrics of `lorabel.evaluation.metrics.ranking`."""
        return ranking(targets, [output.scores for output in outputs])

    @property
    def is_silent_until_taught(self) -> bool:
        """Return whether there is no query, to which items could be similar."""
        return self.query is None

    def aggregate(self, targets: Sequence[RankingTarget]) -> RankingTarget:
        """Order the items by their mean rank over the annotators; the newest target decides a tie.

        The task may have got or lost items between two annotations. Targets that have another number of items than
        the newest then do not count.
        """
        newest = targets[-1].ranks
        counting = [target.ranks for target in targets if len(target.ranks) == len(newest)]
        means = [sum(ranks[item] for ranks in counting) / len(counting) for item in range(len(newest))]
        keys = list(zip(means, newest, strict=True))
        order = sorted(set(keys))
        return RankingTarget(tuple(order.index(key) for key in keys))

    def class_of(self, target: RankingTarget) -> tuple[int, ...] | None:
        """Return the ranks of a pair: left or right first. A list has no classes."""
        return target.ranks if self._is_pair else None

    @property
    def _is_pair(self) -> bool:
        return len(self.objects) == len(SIDES)

    def _order(self, value: dict[str, Any]) -> list[Any]:
        """Return the ids of the items in the order of an answer, the best first; of a pair only the best."""
        if self._is_pair:
            return [value.get("selected")]
        orders = value.get("ranker", {})
        if not isinstance(orders, dict):
            raise MissingTargetError(
                f"{self.from_name!r} was answered {shown(value)}, expected an object of orders"
            )
        return list_in(orders, self.from_name, self.from_name)

    def _items(self, data: TaskData) -> dict[str, tuple[Content, ...]]:
        """Return the contents of each item by its id in results, in the order of the task's data."""
        if self._is_pair:
            return {side: contents(tag, data) for side, tag in zip(SIDES, self.objects, strict=True)}
        return list_items(self.objects[0], data)


def _query(control: ControlTag) -> ObjectTag | None:
    """Return the only text among the context tags, or the only one with a name of QUERY_NAMES; else None."""
    texts = [tag for tag in control.context if MODALITIES.get(tag.tag) == Modality.TEXT]
    if len(texts) > 1:
        texts = [tag for tag in texts if tag.name in QUERY_NAMES or tag.data_key in QUERY_NAMES]
    return texts[0] if len(texts) == 1 else None
