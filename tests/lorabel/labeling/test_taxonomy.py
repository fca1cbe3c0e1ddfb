"""A little tree of faults: machine (bearing (worn, loose), belt), software."""

from typing import Any

import pytest

from lorabel.contracts import LabelScores, LabelTarget
from lorabel.errors import MissingTargetError
from lorabel.labeling.regions import taxonomy
from lorabel.problems.base import Problem
from lorabel.problems.binding import bind

CONFIG = (
    '<View><Text name="t" value="$t"/><Taxonomy name="c" toName="t"{}>'
    '<Choice value="machine"><Choice value="bearing"><Choice value="worn"/><Choice value="loose"/></Choice>'
    '<Choice value="belt"/></Choice><Choice value="software"/></Taxonomy></View>'
)
MACHINE, BEARING, WORN, LOOSE, BELT, SOFTWARE = range(6)


def bound(attributes: str = "") -> Problem:
    (binding,) = bind(CONFIG.format(attributes)).bindings
    return binding


def predicted(scores: list[float], attributes: str = "") -> tuple[list[str], float]:
    found = bound(attributes).prediction(LabelScores(probabilities=tuple(scores)), {})
    ((path,),) = [region["value"]["taxonomy"] for region in found.regions]
    return path, found.score


def target(*paths: list[str]) -> LabelTarget:
    answered: LabelTarget = bound().target([taxonomy("c", "t", paths)], {})
    return answered


def test_the_way_down_follows_the_best_choice_of_each_level() -> None:
    scores = [0.8, 0.75, 0.4, 0.6, 0.25, 0.2]
    assert predicted(scores) == (["machine", "bearing", "loose"], pytest.approx(0.8 * 0.75 * 0.6))


def test_a_likelier_choice_below_a_worse_one_does_not_count() -> None:
    assert predicted([0.4, 0.9, 0.9, 0.1, 0.1, 0.6]) == (["software"], pytest.approx(0.6))


def test_the_way_stops_where_nothing_below_is_likelier_than_not() -> None:
    assert predicted([0.8, 0.75, 0.5, 0.5, 0.25, 0.2]) == (["machine", "bearing"], pytest.approx(0.6))
    assert predicted([0.8, 0.5, 0.9, 0.1, 0.5, 0.2]) == (["machine"], pytest.approx(0.8))


def test_the_first_level_is_answered_however_unlikely() -> None:
    assert predicted([0.3, 0.1, 0.1, 0.1, 0.1, 0.2])[0] == ["machine"]


def test_with_leaves_only_the_way_goes_down_to_one() -> None:
    scores = [0.8, 0.45, 0.4, 0.3, 0.4, 0.2]
    assert predicted(scores, ' leafsOnly="true"') == (
        ["machine", "bearing", "worn"],
        pytest.approx(0.8 * 0.45 * 0.4),
    )


def test_a_target_is_its_label_and_all_above_in_any_case_of_letters() -> None:
    assert target(["machine", "bearing", "worn"]) == LabelTarget((MACHINE, BEARING, WORN))
    assert target(["MACHINE", "Belt"]) == LabelTarget((MACHINE, BELT))


def test_several_paths_are_each_a_part_of_the_truth() -> None:
    both = target(["machine", "bearing", "worn"], ["machine", "belt"], ["software"])
    assert both.indices == (MACHINE, BEARING, WORN, BELT, SOFTWARE)
    assert both.shares == pytest.approx((2 / 3, 1 / 3, 1 / 3, 0, 1 / 3, 1 / 3))


def test_a_path_that_another_goes_on_from_adds_nothing() -> None:
    assert target(["machine"], ["machine", "belt"]) == target(["machine", "belt"])


@pytest.mark.parametrize(
    ("value", "said"),
    [([], "no choice was made"), ([["machine", "software"]], "no longer has"), ([["belt"]], "no longer has")],
)
def test_what_is_no_path_teaches_nothing(value: Any, said: str) -> None:
    with pytest.raises(MissingTargetError, match=said):
        bound().target([taxonomy("c", "t", value)], {})


def test_annotators_who_disagree_have_one_voice_each_on_every_level() -> None:
    worn, loose, software = (target(["machine", "bearing", "worn"]), target(["machine", "bearing", "loose"]),
                             target(["software"]))  # fmt: skip
    agreed = bound().agree([worn, software, loose, worn])
    assert agreed.indices == (MACHINE, BEARING, WORN)
    assert agreed.shares == pytest.approx((0.75, 0.75, 0.5, 0.25, 0, 0.25))
    assert bound().agree([worn, loose]).indices == (MACHINE, BEARING, LOOSE), "the newest decides"
    assert bound().agree([software, worn, software]).indices == (SOFTWARE,)
    assert bound().agree([worn, worn]) == worn


def test_annotators_agree_to_stop_where_most_of_them_do() -> None:
    stopped, worn = target(["machine"]), target(["machine", "bearing", "worn"])
    assert bound().agree([stopped, worn, stopped]).indices == (MACHINE,)
    assert bound().agree([worn, stopped]).indices == (MACHINE,)
    assert bound().agree([stopped, worn]).indices == (MACHINE, BEARING, WORN)


def test_metrics_count_whole_paths_and_each_level() -> None:
    targets = [
        target(["machine", "bearing", "worn"]),
        target(["machine", "belt"]),
        target(["software"]),
        target(["machine", "bearing", "loose"], ["software"]),
    ]
    wrong = target(["machine", "bearing", "loose"])
    outputs = [bound().perfect_output(one) for one in (wrong, targets[1], targets[2], target(["software"]))]
    metrics = bound().metrics(targets, outputs)
    assert metrics.primary == "accuracy"
    assert metrics.values["accuracy"] == 0.75
    assert metrics.values["accuracy_by_level"] == [1.0, 2 / 3, 0.0]
    assert metrics.values["labels"][WORN] == "machine / bearing / worn"
    assert metrics.values["per_class"]["machine / bearing / worn"]["recall"] == 0.0
    software = {"precision": 1.0, "recall": 1.0, "f1": 1.0, "roc_auc": 1.0, "support": 2}
    assert metrics.values["per_class"]["software"] == software


@pytest.mark.parametrize(
    "attribute", ['apiUrl="https://example.org/tree"', 'labeling="true"', 'perRegion="true"', 'value="$tree"']
)
def test_a_taxonomy_that_comes_from_elsewhere_or_labels_regions_is_left_alone_with_the_reason(
    attribute: str,
) -> None:
    (unclaimed,) = bind(CONFIG.format(f" {attribute}")).unclaimed
    assert unclaimed.reason.startswith(attribute.split("=")[0])
