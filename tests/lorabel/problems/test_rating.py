import pytest

from lorabel.contracts import Estimate, RatingTarget
from lorabel.errors import LabelConfigError, MissingTargetError
from lorabel.problems.base import Problem
from lorabel.problems.binding import bind


def config(tag: str, attributes: str = "", to_name: str = "text") -> str:
    return (
        '<View><Text name="text" value="$text"/><Text name="other" value="$other"/>'
        f'<{tag} name="it" toName="{to_name}" {attributes}/></View>'
    )


def binding(tag: str, attributes: str = "") -> Problem:
    (found,) = bind(config(tag, attributes)).bindings
    return found


def value(tag: str, number: object) -> list[dict[str, object]]:
    kind = tag.lower()
    return [{"from_name": "it", "to_name": "text", "type": kind, "value": {kind: number}}]


@pytest.mark.parametrize(
    ("tag", "attributes", "estimate", "given"),
    [
        ("Rating", "", 3.4, 3),
        ("Rating", 'maxRating="10"', 9.7, 10),
        ("Number", 'min="0" max="10"', 3.4, 3),
        ("Number", 'min="0" max="1" step="0.1"', 0.31, 0.3),
        ("Number", 'min="1" max="10" step="4"', 9.9, 9),
        ("Number", "", -1234.4, -1234),
    ],
)
def test_an_estimate_becomes_the_nearest_number_that_can_be_given(
    tag: str, attributes: str, estimate: float, given: float
) -> None:
    assert binding(tag, attributes).prediction(Estimate(value=estimate), {}).regions == value(tag, given)


def test_silence_has_no_regions() -> None:
    found = binding("Rating").prediction(Estimate(), {})
    assert (found.regions, found.score) == ([], 0.0)


def test_the_score_is_the_expected_error_as_a_share_of_the_range() -> None:
    assert binding("Rating").prediction(Estimate(value=3.0, expected_error=1.0), {}).score == pytest.approx(0.75)
    assert binding("Rating").prediction(Estimate(value=3.0, expected_error=9.0), {}).score == 0.0
    assert binding("Number").prediction(Estimate(value=9.0, expected_error=1.0), {}).score == pytest.approx(0.9)


@pytest.mark.parametrize("attributes", ['perRegion="true"', 'perItem="true"', 'visibleWhen="region-selected"'])
def test_what_is_asked_under_a_condition_is_left_alone(attributes: str) -> None:
    assert [one.control.name for one in bind(config("Rating", attributes)).unclaimed] == ["it"]


def test_one_number_about_two_objects_is_left_alone_with_the_reason() -> None:
    (unclaimed,) = bind(config("Rating", to_name="text,other")).unclaimed
    assert unclaimed.reason == "it is about 2 objects together, expected one"


def test_a_bound_that_is_no_number_is_refused() -> None:
    with pytest.raises(LabelConfigError, match="'it' has max='many', expected a number"):
        bind(config("Number", 'max="many"'))


@pytest.mark.parametrize(
    ("result", "reason"),
    [
        ([], "'it' was answered None, expected a number"),
        (value("Rating", 0), "'it' was answered 0, which is out of the label config's bounds"),
        (value("Rating", 6), "'it' was answered 6, which is out of"),
    ],
)
def test_an_annotation_that_teaches_nothing_says_why(result: list[dict[str, object]], reason: str) -> None:
    with pytest.raises(MissingTargetError, match=reason):
        binding("Rating").target(result, {})


def test_annotators_who_disagree_mean_the_number_in_between() -> None:
    assert binding("Rating").aggregate([RatingTarget(2.0), RatingTarget(5.0)]) == RatingTarget(3.5)


def test_metrics_are_error_and_rank_correlation() -> None:
    targets = [RatingTarget(value) for value in (1.0, 2.0, 4.0, 5.0)]
    outputs = [Estimate(value=value) for value in (1.5, 2.5, 5.0, 4.5)]
    found = binding("Rating").metrics(targets, outputs).values
    assert found["mae"] == pytest.approx(2.5 / 4)
    assert found["spearman"] == pytest.approx(0.8)
    assert found["closeness"] == pytest.approx(1 - 2.5 / 4 / 4)


def test_silence_is_worse_than_a_guess_that_is_far_off() -> None:
    targets = [RatingTarget(1.0), RatingTarget(5.0)]
    silent, far_off = [Estimate()] * 2, [Estimate(value=4.5), Estimate(value=1.5)]
    worse, better = (binding("Rating").metrics(targets, outputs) for outputs in (silent, far_off))
    assert worse.values["closeness"] == 0.0 < better.values["closeness"]
    assert (worse.values["answered"], worse.values["mae"], worse.values["spearman"]) == (0, None, 0.0)
