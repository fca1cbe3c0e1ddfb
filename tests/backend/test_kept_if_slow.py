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


def slow_numbers(monkeypatch: pytest.MonkeyPatch, quick_s: float) -> KeptIfSlow[str, int]:
    """Counts how often it was asked for."""
    monkeypatch.setattr(kept_if_slow, "QUICK_S", quick_s)
    asked = []

    def find(key: str) -> int:
        time.sleep(SLOW_S)
        asked.append(key)
        return len(asked)

    return KeptIfSlow(find, 4, "numbers")
