import pytest

from lorabel.contracts import ItemScores, Modality, RankingTarget
from lorabel.errors import MissingTargetError, UnreadableError
from lorabel.problems.base import Problem
from lorabel.problems.binding import bind

PAIR = '<View>{}<Text name="a" value="$a"/><Text name="b" value="$b"/><Pairwise name="it" toName="a,b"/></View>'
LIST = '<View>{}<List name="list" value="$items"/><Ranker name="it" toName="list">{}</Ranker></View>'
PROMPT = '<Text name="prompt" value="$prompt"/>'
DATA = {
    "prompt": "birds",
    "items": [
        {"id": 1, "title": "Herons", "body": "wade"},
        {"id": "two", "html": "<p>See <img src='/two.png'> it</p>"},
        {"id": "three", "html": "<img src='/three.png'/>"},
    ],
}


def binding(config: str) -> Problem:
    (problem,) = bind(config).bindings
    return problem


def ranked(*ids: str) -> list[dict[str, object]]:
    return [{"from_name": "it", "to_name": "list", "type": "ranker", "value": {"ranker": {"it": list(ids)}}}]


def selected(side: str, to_name: str = "a") -> list[dict[str, object]]:
    return [{"from_name": "it", "to_name": to_name, "type": "pairwise", "value": {"selected": side}}]


def test_items_of_a_list_are_their_texts_and_pictures_and_the_prompt_is_the_query() -> None:
    question = binding(LIST.format(PROMPT, "")).model_input(DATA)
    assert question.model_dump()["item_indices"] == (-1, 0, 1, 1, 2)
    assert [content.text for content in question.contents] == ["birds", "Herons\nwade", None, "See it", None]
    assert [content.media.url for content in question.contents if content.media] == ["/two.png", "/three.png"]
    assert question.modalities == {Modality.TEXT, Modality.IMAGE}


@pytest.mark.parametrize(
    ("beside", "has_query"),
    [
        ("", False),
        (PROMPT, True),
        ('<Text name="hint" value="Which is better?"/>', False),
        ('<Text name="task" value="$task"/>' + PROMPT, True),
        ('<Text name="one" value="$one"/><Text name="two" value="$two"/>', False),
    ],
)
def test_the_query_is_the_only_text_beside_the_items_or_the_only_one_with_such_a_name(
    beside: str, has_query: bool
) -> None:
    data = {"a": "one", "b": "other", "prompt": "best"}
    question = binding(PAIR.format(beside)).model_input(data)
    assert [content.text for content in question.contents] == ["best"] * has_query + ["one", "other"]


def test_items_are_ordered_by_score_and_the_confidence_is_that_of_neighbours() -> None:
    prediction = binding(LIST.format("", "")).prediction(ItemScores(scores=(0.0, 2.0, 1.0)), DATA)
    assert prediction.regions == ranked("two", "three", "1")
    assert prediction.score == pytest.approx(0.7310585786)
    pair = binding(PAIR.format("")).prediction(ItemScores(scores=(0.5, 0.5)), {"a": "x", "b": "y"})
    assert (pair.regions, pair.score) == (selected("left"), 0.5)


def test_items_with_the_same_id_are_permanently_unreadable() -> None:
    data = {"items": [{"id": 1, "body": "a"}, {"id": "1", "body": "b"}]}
    with pytest.raises(UnreadableError, match="an id of its own"):
        binding(LIST.format("", "")).model_input(data)


def test_text_after_the_last_tag_of_an_item_is_read() -> None:
    items = [{"id": 1, "html": "<p>x</p>AT&T"}, {"id": 2, "body": "b"}]
    question = binding(LIST.format("", "")).model_input({"items": items})
    assert question.contents[0].text == "x\nAT&T"


def test_two_objects_that_no_model_compares_are_not_served_and_the_reason_is_given() -> None:
    config = (
        '<View><Audio name="a" value="$a"/><Image name="b" value="$b"/><Pairwise name="it" toName="a,b"/></View>'
    )
    assert [tag.reason for tag in bind(config).unclaimed] == ["no model compares Audio with Image"]


def test_an_output_without_scores_has_no_regions() -> None:
    assert binding(PAIR.format("")).prediction(ItemScores(), {"a": "x", "b": "y"}).regions == []


def test_a_target_has_the_rank_of_each_item_and_items_without_one_are_last() -> None:
    ranker = binding(LIST.format("", ""))
    assert ranker.target(ranked("two", "three", "1"), DATA) == RankingTarget((2, 0, 1))
    assert ranker.target(ranked("three", "gone"), DATA) == RankingTarget((1, 1, 0))


def test_a_pair_is_read_with_the_control_tags_name_as_to_name_as_the_editor_writes_it() -> None:
    assert binding(PAIR.format("")).target(selected("right", "it"), {"a": "x", "b": "y"}) == RankingTarget((1, 0))


def test_an_annotation_without_an_order_has_no_target() -> None:
    with pytest.raises(MissingTargetError, match=r"'it' was answered \{\}, expected an order of"):
        binding(PAIR.format("")).target([], {"a": "x", "b": "y"})


def test_buckets_are_not_served_and_the_reason_is_given() -> None:
    (unclaimed,) = bind(LIST.format("", '<Bucket name="good"/><Bucket name="bad"/>')).unclaimed
    assert unclaimed.reason == "it sorts items into the buckets good, bad, which is no order"


@pytest.mark.parametrize(
    "items", [None, "x", [], [{"id": 1, "body": "alone"}], [{"body": "no id"}] * 2, [{"id": 1}] * 2]
)
def test_a_task_without_items_to_rank_is_permanently_unreadable(items: object) -> None:
    with pytest.raises(UnreadableError) as caught:
        binding(LIST.format("", "")).model_input({"items": items})
    assert caught.value.is_permanent


def test_targets_of_several_annotators_are_aggregated_by_mean_rank_and_the_newest_decides_a_tie() -> None:
    pair, ranker = binding(PAIR.format("")), binding(LIST.format("", ""))
    assert pair.aggregate([RankingTarget((0, 1)), RankingTarget((1, 0))]) == RankingTarget((1, 0))
    orders = [RankingTarget((0, 1, 2)), RankingTarget((0, 2, 1)), RankingTarget((1, 0, 2))]
    assert ranker.aggregate(orders) == RankingTarget((0, 1, 2))


def test_metrics_are_the_share_of_right_pairs_the_best_item_and_rank_correlations() -> None:
    targets = [RankingTarget((0, 1, 2)), RankingTarget((0, 1, 2)), RankingTarget((1, 0, 0))]
    outputs = [ItemScores(scores=scores) for scores in ((3, 2, 1), (2, 3, 1), (1, 2, 2))]
    values = binding(LIST.format("", "")).metrics(targets, outputs).values
    assert values["pair_accuracy"] == pytest.approx((1 + 2 / 3 + 1) / 3)
    assert values["recall_at_1"] == pytest.approx(2 / 3)
    assert values["kendall"] == pytest.approx((1 + 1 / 3 + 1) / 3)
    assert values["spearman"] == pytest.approx((1 + 0.5 + 1) / 3)


def test_an_output_without_scores_is_worse_than_chance() -> None:
    pair, targets = binding(PAIR.format("")), [RankingTarget((0, 1)), RankingTarget((1, 0))]
    without_scores, constant = ([ItemScores()] * 2, [ItemScores(scores=(1.0, 0.0))] * 2)
    assert pair.metrics(targets, without_scores).values["pair_accuracy"] == 0.0
    assert pair.metrics(targets, constant).values["pair_accuracy"] == 0.5


def test_targets_from_before_the_items_of_the_task_changed_are_not_aggregated() -> None:
    ranker = binding(LIST.format("", ""))
    changed = [
        RankingTarget((0, 1)),
        RankingTarget((2, 1, 0)),
        RankingTarget((0, 1, 2, 3)),
        RankingTarget((2, 0, 1)),
    ]
    assert ranker.aggregate(changed) == RankingTarget((2, 0, 1))
    assert ranker.aggregate([RankingTarget((0, 1)), RankingTarget((0, 1, 2))]) == RankingTarget((0, 1, 2))
