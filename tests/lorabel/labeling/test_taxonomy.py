"""The tests use a small tree of faults: machine (bearing (worn, loose), belt), software."""

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
    prediction = bound(attributes).prediction(LabelScores(probabilities=tuple(scores)), {})
    ((path,),) = [region["value"]["taxonomy"] for region in prediction.regions]
    return path, prediction.score


def target(*paths: list[str]) -> LabelTarget:
    label_target: LabelTarget = bound().target([taxonomy("c", "t", paths)], {})
    return label_target


def test_the_predicted_path_follows_the_best_choice_of_each_level() -> None:
    scores = [0.8, 0.75, 0.4, 0.6, 0.25, 0.2]
    assert predicted(scores) == (["machine", "bearing", "loose"], pytest.approx(0.8 * 0.75 * 0.6))


def test_a_better_choice_below_a_worse_choice_is_not_predicted() -> None:
    assert predicted([0.4, 0.9, 0.9, 0.1, 0.1, 0.6]) == (["software"], pytest.approx(0.6))


def test_the_predicted_path_ends_where_no_choice_below_is_likelier_than_not() -> None:
    assert predicted([0.8, 0.75, 0.5, 0.5, 0.25, 0.2]) == (["machine", "bearing"], pytest.approx(0.6))
    assert predicted([0.8, 0.5, 0.9, 0.1, 0.5, 0.2]) == (["machine"], pytest.approx(0.8))


def test_the_first_level_is_predicted_however_unlikely() -> None:
    assert predicted([0.3, 0.1, 0.1, 0.1, 0.1, 0.2])[0] == ["machine"]


def test_with_leaves_only_the_predicted_path_ends_at_a_leaf() -> None:
    scores = [0.8, 0.45, 0.4, 0.3, 0.4, 0.2]
    assert predicted(scores, ' leafsOnly="true"') == (
        ["machine", "bearing", "worn"],
        pytest.approx(0.8 * 0.45 * 0.4),
    )


def test_paths_that_differ_by_case_are_told_apart_by_value_and_by_alias() -> None:
    tree = (
        '<View><Text name="t" value="$t"/><Taxonomy name="c" toName="t">'
        '<Choice value="It"><Choice value="a"/></Choice>'
        '<Choice value="IT" alias="X"><Choice value="a"/></Choice><Choice value="b"/></Taxonomy></View>'
    )
    (binding,) = bind(tree).bindings
    expected = {"It": 1, "IT": 3, "X": 3, "x": 3, "it": None}
    for name, end in expected.items():
        if end is None:
            with pytest.raises(MissingTargetError):
                binding.target([taxonomy("c", "t", [[name, "A"]])], {})
        else:
            assert binding.target([taxonomy("c", "t", [[name, "A"]])], {}) == LabelTarget((end - 1, end))


def test_a_target_has_all_labels_of_its_path_in_any_case_of_letters() -> None:
    assert target(["machine", "bearing", "worn"]) == LabelTarget((MACHINE, BEARING, WORN))
    assert target(["MACHINE", "Belt"]) == LabelTarget((MACHINE, BELT))


def test_several_paths_have_equal_shares_of_the_target() -> None:
    both = target(["machine", "bearing", "worn"], ["machine", "belt"], ["software"])
    assert both.indices == (MACHINE, BEARING, WORN, BELT, SOFTWARE)
    assert both.shares == pytest.approx((2 / 3, 1 / 3, 1 / 3, 0, 1 / 3, 1 / 3))


def test_a_path_that_is_the_beginning_of_another_adds_nothing() -> None:
    assert target(["machine"], ["machine", "belt"]) == target(["machine", "belt"])


@pytest.mark.parametrize(
    ("value", "reason"),
    [([], "no choice was made"), ([["machine", "software"]], "no longer has"), ([["belt"]], "no longer has")],
)
def test_an_answer_that_is_no_path_of_the_label_config_is_no_target(value: Any, reason: str) -> None:
    with pytest.raises(MissingTargetError, match=reason):
        bound().target([taxonomy("c", "t", value)], {})


def test_each_annotator_has_one_vote_on_every_level() -> None:
    worn, loose, software = (target(["machine", "bearing", "worn"]), target(["machine", "bearing", "loose"]),
                             target(["software"]))  # fmt: skip
    aggregated = bound().aggregate([worn, software, loose, worn])
    assert aggregated.indices == (MACHINE, BEARING, WORN)
    assert aggregated.shares == pytest.approx((0.75, 0.75, 0.5, 0.25, 0, 0.25))
    assert bound().aggregate([worn, loose]).indices == (MACHINE, BEARING, LOOSE), "the newest decides"
    assert bound().aggregate([software, worn, software]).indices == (SOFTWARE,)
    assert bound().aggregate([worn, worn]) == worn


def test_the_aggregated_path_ends_where_most_annotators_end() -> None:
    machine, worn = target(["machine"]), target(["machine", "bearing", "worn"])
    assert bound().aggregate([machine, worn, machine]).indices == (MACHINE,)
    assert bound().aggregate([worn, machine]).indices == (MACHINE,)
    assert bound().aggregate([machine, worn]).indices == (MACHINE, BEARING, WORN)


def test_metrics_are_of_whole_paths_and_of_each_level() -> None:
    targets = [
        target(["machine", "bearing", "worn"]),
        target(["machine", "belt"]),
        target(["software"]),
        target(["machine", "bearing", "loose"], ["software"]),
    ]
    wrong = target(["machine", "bearing", "loose"])
    outputs = [bound().perfect_output(output) for output in (wrong, targets[1], targets[2], target(["software"]))]
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
def test_a_taxonomy_that_is_loaded_from_elsewhere_or_labels_regions_is_unclaimed_with_the_reason(
    attribute: str,
) -> None:
    (unclaimed,) = bind(CONFIG.format(f" {attribute}")).unclaimed
    assert unclaimed.reason.startswith(attribute.split("=")[0])
