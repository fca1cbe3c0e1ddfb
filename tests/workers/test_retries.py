from collections.abc import Iterator

import pytest

from lorabel.errors import LorabelError, ModelServerBusyError, ModelServerError
from workers import retries
from workers.retries import MOST_TRIES, try_again


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Nothing sleeps; these are the pauses in seconds."""
    seconds_slept: list[float] = []
    monkeypatch.setattr(retries, "sleep", seconds_slept.append)
    return seconds_slept


def is_transient(error: Exception) -> bool:
    return isinstance(error, ModelServerError)


def raise_next(errors: Iterator[Exception]) -> str:
    """Raises the next error, and returns when there are no more."""
    for error in errors:
        raise error
    return "answer"


def test_a_transient_error_is_followed_by_a_pause_and_another_attempt(pauses: list[float]) -> None:
    errors: Iterator[Exception] = iter([ModelServerError("away")] * 3)
    assert try_again(lambda: raise_next(errors), "a page", is_transient) == "answer"
    assert pauses == [1.0, 2.0, 3.0]


def test_the_last_error_is_raised_after_the_most_tries(pauses: list[float]) -> None:
    errors: Iterator[Exception] = (ModelServerError(f"away {i}") for i in range(1, 100))
    with pytest.raises(ModelServerError, match=f"^away {MOST_TRIES}$"):
        try_again(lambda: raise_next(errors), "a page", is_transient)
    assert len(pauses) == MOST_TRIES - 1


def test_any_other_error_is_raised_at_once(pauses: list[float]) -> None:
    errors: Iterator[Exception] = iter([LorabelError("no token")])
    with pytest.raises(LorabelError, match="no token"):
        try_again(lambda: raise_next(errors), "a page", is_transient)
    assert pauses == []


def test_a_busy_model_server_is_asked_again_when_it_says_without_a_limit(pauses: list[float]) -> None:
    busy = ModelServerBusyError("busy", retry_after_s=7)
    errors: Iterator[Exception] = iter([ModelServerError("away"), *[busy] * 50, ModelServerError("away")])
    assert try_again(lambda: raise_next(errors), "a page", is_transient) == "answer"
    assert pauses == [1.0, *[7.0] * 50, 2.0]


def test_failures_are_counted_anew_after_an_attempt_that_did_some_of_the_work(pauses: list[float]) -> None:
    attempts = 0

    def attempt() -> int:
        nonlocal attempts
        attempts += 1
        if attempts <= 3 * MOST_TRIES:
            raise ModelServerError("away")
        return attempts

    done = try_again(
        attempt,
        "a page",
        is_transient,
        lambda error, failures: float(failures),
        count_done=lambda: attempts // 5,
    )
    assert done == 3 * MOST_TRIES + 1
    assert max(pauses) == 4.0
