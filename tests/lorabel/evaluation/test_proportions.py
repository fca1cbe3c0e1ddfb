import pytest
from scipy.stats import binomtest

from lorabel.evaluation.proportions import cases_needed, wilson


@pytest.mark.parametrize(("successes", "cases"), [(0, 5), (5, 5), (1, 2), (37, 40), (500, 1000), (1, 1000)])
def test_the_interval_is_that_of_scipy(successes: int, cases: int) -> None:
    reference = binomtest(successes, cases).proportion_ci(method="wilson")
    assert wilson(successes, cases) == pytest.approx((reference.low, reference.high), abs=1e-9)


def test_without_cases_the_interval_is_everything() -> None:
    assert wilson(0, 0) == (0.0, 1.0)


@pytest.mark.parametrize("share", [0.93, 0.97, 1.0])
def test_so_many_cases_are_needed_until_the_interval_lies_above(share: float) -> None:
    cases = cases_needed(share, 0.9)
    assert cases is not None
    assert wilson(round(share * cases), cases).low >= 0.9


def test_all_right_proves_90_percent_from_35_cases_on() -> None:
    assert cases_needed(1.0, 0.9) == 35


def test_a_share_that_is_too_low_never_proves_more() -> None:
    assert cases_needed(0.9, 0.9) is None
