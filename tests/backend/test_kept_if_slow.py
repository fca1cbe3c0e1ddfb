"""Values that are kept while it takes long to find them out."""

import time
from datetime import timedelta

import pytest

from backend.pages import kept_if_slow
from backend.pages.kept_if_slow import KeptIfSlow

SLOW_S = 0.02


@pytest.mark.parametrize(("quick_s", "second"), [(SLOW_S / 2, 1), (60.0, 2)])
def test_a_value_is_kept_if_it_takes_long_to_find(
    monkeypatch: pytest.MonkeyPatch, quick_s: float, second: int
) -> None:
    kept = slow_numbers(monkeypatch, quick_s)
    assert [kept.get("a"), kept.get("a")] == [1, second]
    kept.close()


def test_an_old_value_is_found_anew_before_it_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = slow_numbers(monkeypatch, SLOW_S / 2)
    assert kept.get("a") == 1
    monkeypatch.setattr(kept_if_slow, "OLDEST", timedelta(0))
    assert kept.get("a") == 2
    kept.close()


@pytest.mark.parametrize(
    ("share", "most_s", "is_renewed"), [(1e-9, 0.0, True), (1e9, 60.0, True), (1e-9, 60.0, False)]
)
def test_a_kept_value_is_renewed_in_the_background_after_a_time_that_depends_on_what_finding_it_takes(
    monkeypatch: pytest.MonkeyPatch, share: float, most_s: float, is_renewed: bool
) -> None:
    monkeypatch.setattr(kept_if_slow, "RENEWED_SHARE", share)
    monkeypatch.setattr(kept_if_slow, "MOST_LIFETIME_S", most_s)
    kept = slow_numbers(monkeypatch, SLOW_S / 2)
    assert [kept.get("a"), kept.get("a")] == [1, 1]
    kept.close()  # which waits for what is being found
    assert (kept.get("a") > 1) is is_renewed


def slow_numbers(monkeypatch: pytest.MonkeyPatch, quick_s: float) -> KeptIfSlow[str, int]:
    """Counts how often it was asked for."""
    monkeypatch.setattr(kept_if_slow, "QUICK_S", quick_s)
    asked = []

    def find(key: str) -> int:
        time.sleep(SLOW_S)
        asked.append(key)
        return len(asked)

    return KeptIfSlow(find, 4, "numbers")
