import torch

from lorabel.families.cache import FeatureCache


def test_each_kind_has_its_own_room_and_forgets_what_was_not_used_for_longest() -> None:
    cache = FeatureCache({"a": 8, "b": 4})
    one = torch.zeros(1)
    for key in ("x", "y"):
        cache.put("a", key, one)
    cache.put("b", "x", one)
    assert cache.get("a", "x") is one
    cache.put("a", "z", one)
    assert [cache.get("a", key) is None for key in ("x", "y", "z")] == [False, True, False]
    assert cache.get("b", "x") is one
    assert cache.figures() == {
        "a": {"bytes": 8, "hits": 3, "misses": 1},
        "b": {"bytes": 4, "hits": 1, "misses": 0},
    }


def test_what_is_too_large_or_of_no_kind_is_not_kept() -> None:
    cache = FeatureCache({"a": 4, "off": 0})
    for kind in ("a", "off", "unheard of"):
        cache.put(kind, "x", torch.zeros(2))
        assert cache.get(kind, "x") is None
