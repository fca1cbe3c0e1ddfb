"""EXPLAIN_IN and what it refuses."""

import pytest

from lorabel.settings import Settings


@pytest.mark.parametrize(
    ("value", "kinds"),
    [("", set()), ("textarea", {"textarea"}), (" textarea , regions", {"textarea", "regions"}), (",", set())],
)
def test_explain_in_lists_how_explanations_are_shown(value: str, kinds: set[str]) -> None:
    assert Settings(explain_in=value).explained_in == kinds


def test_by_default_nothing_is_explained_in_the_editor() -> None:
    assert Settings().explained_in == frozenset()


@pytest.mark.parametrize("value", ["why", "textarea regions", "true"])
def test_anything_else_is_refused_with_what_is_expected(value: str) -> None:
    with pytest.raises(ValueError, match=f"EXPLAIN_IN has '{value}'; expected textarea or regions, or both"):
        Settings(explain_in=value)


@pytest.mark.parametrize("seconds", [0, -1, 61])
def test_the_time_of_an_explanation_is_limited(seconds: float) -> None:
    with pytest.raises(ValueError, match="explain_max_s"):
        Settings(explain_max_s=seconds)
