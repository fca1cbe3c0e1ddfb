"""Figures by group, the test of differences, and how often it finds some where there are none."""

import random
from fractions import Fraction
from math import comb

import pytest

from lorabel.evaluation.agreement import Outcome, Shown
from lorabel.evaluation.group_figures import LEAST_CASES, MOST_GROUPS, compare_groups
from lorabel.evaluation.group_records import difference_text, groups_record


def case(task_id: int, predicted: str, annotated: str) -> Shown:
    outcome = Outcome.UNCHANGED if predicted == annotated else Outcome.CORRECTED
    return Shown(task_id, outcome, {"tag": {predicted}}, {"tag": {annotated}})


def cases(group: str, right: int, wrong: int) -> list[tuple[str, Shown]]:
    """Tasks predicted to be `a`, of which some are `b`."""
    return [(group, case(i, "a", "a" if i < right else "b")) for i in range(right + wrong)]


def fisher(first: tuple[int, int], second: tuple[int, int]) -> float:
    """The two-sided probability, by its definition."""
    right, total, size = first[0] + second[0], sum(first) + sum(second), sum(first)

    def probability(k: int) -> Fraction:
        return Fraction(comb(right, k) * comb(total - right, size - k), comb(total, size))

    here = probability(first[0])
    each = range(max(0, size - (total - right)), min(right, size) + 1)
    return float(sum(p for k in each if (p := probability(k)) <= here))


def test_each_group_has_its_figures_and_too_few_cases_have_none() -> None:
    groups = compare_groups([*cases("DE", 15, 5), *cases("FR", LEAST_CASES - 1, 0)])
    german, french = groups.groups
    assert (german.group, german.unchanged.value, german.precision.value) == ("DE", 0.75, 0.75)
    assert german.recall.cases == 20
    assert [(figures.label, figures.right, figures.predicted, figures.support) for figures in german.labels] == [
        ("a", 15, 20, 15),
        ("b", 0, 0, 5),
    ]
    assert (french.unchanged.value, french.unchanged.is_enough) == (None, False)
    record = groups_record("country", groups)
    assert record["groups"][1]["unchanged"]["value"] is None
    assert groups.differences == [] and groups.comparisons == 0


def test_labels_of_one_task_have_no_interval_together() -> None:
    """They are right or wrong together, so an interval for independent cases would be too narrow."""
    both: dict[str, set[str]] = {"tag": {"a", "b"}}
    several = [("DE", Shown(i, Outcome.UNCHANGED, {"tag": {"a"}}, both)) for i in range(20)]
    ((group,), record) = (compare_groups(several).groups, groups_record("country", compare_groups(several)))
    assert group.precision.interval is not None and group.recall.interval is None
    assert (record["groups"][0]["recall"]["value"], record["groups"][0]["recall"]["low"]) == (0.5, None)


def test_values_with_the_same_beginning_are_groups_of_their_own() -> None:
    long = "https://example.com/" + "x" * 60
    groups = compare_groups([*cases(long + "A.png", 60, 0), *cases(long + "B.png", 30, 30)])
    assert [group.group[-5:] for group in groups.groups] == ["A.png", "B.png"]
    text = difference_text("url", groups.differences[0])
    assert "B.png" in text and "https://example.com/" in text and long not in text


def test_a_group_that_differs_is_named_with_its_probability() -> None:
    groups = compare_groups([*cases("DE", 60, 0), *cases("FR", 30, 30)])
    found = {
        (difference.group, difference.measure, difference.label): difference for difference in groups.differences
    }
    assert set(found) == {("FR", "unchanged", ""), ("FR", "precision", "a")}
    # Two comparisons: unchanged and precision of a. Recall of a is 1 in both, which is a third.
    assert groups.comparisons == 3
    single = fisher((30, 30), (60, 0))
    assert found["FR", "precision", "a"].p == pytest.approx(3 * single, rel=1e-6)
    text = difference_text("country", found["FR", "precision", "a"])
    assert text.startswith("country 'FR': precision of 'a' 30 of 60 (50%), elsewhere 60 of 60 (100%), p = ")


def test_of_several_groups_the_one_that_differs_is_found() -> None:
    groups = compare_groups([*cases("DE", 95, 5), *cases("FR", 93, 7), *cases("IT", 60, 40)])
    assert groups.differences[0].group == "IT"
    assert {difference.group for difference in groups.differences if difference.measure == "precision"} >= {"IT"}


def test_many_groups_keep_the_largest() -> None:
    shown = [pair for number in range(MOST_GROUPS + 3) for pair in cases(f"g{number:02}", 10 + number, 0)]
    groups = compare_groups(shown)
    assert len(groups.groups) == MOST_GROUPS
    assert groups.left_out == 3
    assert groups.groups[0].group == f"g{MOST_GROUPS + 2}"


def test_nothing_shown_is_no_group() -> None:
    assert compare_groups([]).groups == []


@pytest.mark.slow
def test_differences_are_seldom_found_where_there_are_none() -> None:
    """Of 60 projects whose four groups are equal, at most 5% may get a warning: hardly ever more than 8."""
    chance = random.Random(3)
    warned = 0
    for _ in range(60):
        shown = [
            (group, case(i, chance.choice("ab"), chance.choice("ab") if chance.random() < 0.4 else "a"))
            for group in ("DE", "FR", "IT", "ES")
            for i in range(40)
        ]
        warned += bool(compare_groups(shown).differences)
    assert warned <= 8
