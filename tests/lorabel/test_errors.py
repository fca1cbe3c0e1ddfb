import pytest

from lorabel.errors import (
    LorabelError,
    MissingTargetError,
    SettingsError,
    UnreadableError,
    UnservedError,
    short_reason,
)

LONG = "x" * 10_000


@pytest.mark.parametrize(
    "error", [MissingTargetError(LONG), UnservedError(LONG), UnreadableError(LONG, is_permanent=True)]
)
def test_an_error_whose_message_is_shown_as_a_reason_is_cut(error: LorabelError) -> None:
    assert str(error) == "x" * 400 + "..."


def test_a_reason_has_the_type_of_errors_that_are_not_ours_and_is_cut() -> None:
    assert short_reason(SettingsError("DEVICE is wrong")) == "DEVICE is wrong"
    assert short_reason(KeyError("a")) == "KeyError: 'a'"
    assert short_reason(ValueError(LONG)) == f"ValueError: {LONG}"[:400] + "..."
