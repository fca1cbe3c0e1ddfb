import torch

from lorabel.families.cache import Memo


def test_each_kind_has_its_own_room_and_forgets_what_was_not_used_for_longest() -> None:
    memo = Memo({"a": 8, "b": 4})
    one = torch.zeros(1)
    for key in ("x", "y"):
        memo.put("a", key, one)
    memo.put("b", "x", one)
    assert memo.get("a", "x") is one
    memo.put("a", "z", one)
    assert [memo.get("a", key) is None for key in ("x", "y", "z")] == [False, True, False]
    assert memo.get("b", "x") is one
    assert memo.figures() == {
        "a": {"bytes": 8, "hits": 3, "misses": 1},
        "b": {"bytes": 4, "hits": 1, "misses": 0},
    }


def test_what_is_too_large_or_of_no_kind_is_not_kept() -> None:
    memo = Memo({"a": 4, "off": 0})
    for kind in ("a", "off", "unheard of"):
        memo.put(kind, "x", torch.zeros(2))
        assert memo.get(kind, "x") is None
