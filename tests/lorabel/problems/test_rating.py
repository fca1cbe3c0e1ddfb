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
    (problem,) = bind(config(tag, attributes)).bindings
    return problem


def value(tag: str, number: object) -> list[dict[str, object]]:
    region_type = tag.lower()
    return [{"from_name": "it", "to_name": "text", "type": region_type, "value": {region_type: number}}]


@pytest.mark.parametrize(
    ("tag", "attributes", "estimate", "predicted"),
    [
        ("Rating", "", 3.4, 3),
        ("Rating", 'maxRating="10"', 9.7, 10),
        ("Number", 'min="0" max="10"', 3.4, 3),
        ("Number", 'min="0" max="1" step="0.1"', 0.31, 0.3),
        ("Number", 'min="1" max="10" step="4"', 9.9, 9),
        ("Number", "", -1234.4, -1234),
    ],
)
def test_an_estimate_is_rounded_to_the_nearest_number_allowed(
    tag: str, attributes: str, estimate: float, predicted: float
) -> None:
    assert binding(tag, attributes).prediction(Estimate(value=estimate), {}).regions == value(tag, predicted)


def test_an_output_without_value_has_no_regions() -> None:
    prediction = binding("Rating").prediction(Estimate(), {})
    assert (prediction.regions, prediction.score) == ([], 0.0)


def test_the_score_is_one_minus_the_expected_error_relative_to_the_range() -> None:
    assert binding("Rating").prediction(Estimate(value=3.0, expected_error=1.0), {}).score == pytest.approx(0.75)
    assert binding("Rating").prediction(Estimate(value=3.0, expected_error=9.0), {}).score == 0.0
    assert binding("Number").prediction(Estimate(value=9.0, expected_error=1.0), {}).score == pytest.approx(0.9)


@pytest.mark.parametrize("attributes", ['perRegion="true"', 'perItem="true"', 'visibleWhen="region-selected"'])
def test_a_rating_of_regions_or_items_is_not_served(attributes: str) -> None:
    assert [tag.control.name for tag in bind(config("Rating", attributes)).unclaimed] == ["it"]


def test_a_number_for_two_objects_is_not_served_and_the_reason_is_given() -> None:
    (unclaimed,) = bind(config("Rating", to_name="text,other")).unclaimed
    assert unclaimed.reason == "it is about 2 objects together, expected one"


def test_a_bound_that_is_no_number_is_an_error() -> None:
    with pytest.raises(LabelConfigError, match="'it' has max='many', expected a number"):
        bind(config("Number", 'max="many"'))


@pytest.mark.parametrize(
    ("result", "reason"),
    [
        ([], "'it' was answered None, expected a number"),
        (value("Rating", 0), "'it' was answered 0, which is out of the label config's bounds"),
        (value("Rating", 6), "'it' was answered 6, which is out of"),
        (value("Rating", float("nan")), "'it' was answered nan, expected a number"),
        (value("Rating", 10**400), r"'it' was answered 10000\d+\.\.\., expected a number"),
        ([{"from_name": "it", "value": None}], "'it' has the value None, expected an object"),
    ],
)
def test_an_annotation_without_a_valid_number_has_no_target_and_the_error_says_why(
    result: list[dict[str, object]], reason: str
) -> None:
    with pytest.raises(MissingTargetError, match=reason):
        binding("Rating").target(result, {})


def test_targets_of_several_annotators_are_aggregated_by_their_mean() -> None:
    assert binding("Rating").aggregate([RatingTarget(2.0), RatingTarget(5.0)]) == RatingTarget(3.5)


def test_metrics_are_error_and_rank_correlation() -> None:
    targets = [RatingTarget(value) for value in (1.0, 2.0, 4.0, 5.0)]
    outputs = [Estimate(value=value) for value in (1.5, 2.5, 5.0, 4.5)]
    values = binding("Rating").metrics(targets, outputs).values
    assert values["mae"] == pytest.approx(2.5 / 4)
    assert values["spearman"] == pytest.approx(0.8)
    assert values["closeness"] == pytest.approx(1 - 2.5 / 4 / 4)


def test_an_output_without_value_is_worse_than_a_wrong_value() -> None:
    targets = [RatingTarget(1.0), RatingTarget(5.0)]
    without_value, far_off = [Estimate()] * 2, [Estimate(value=4.5), Estimate(value=1.5)]
    worse, better = (binding("Rating").metrics(targets, outputs) for outputs in (without_value, far_off))
    assert worse.values["closeness"] == 0.0 < better.values["closeness"]
    assert (worse.values["answered"], worse.values["mae"], worse.values["spearman"]) == (0, None, 0.0)
