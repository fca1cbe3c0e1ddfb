import torch

from lorabel.families.cache import FeatureCache


def test_each_kind_has_its_own_capacity_and_drops_the_least_recently_used_values() -> None:
    cache = FeatureCache({"a": 8, "b": 4})
    value = torch.zeros(1)
    for key in ("x", "y"):
        cache.put("a", key, value)
    cache.put("b", "x", value)
    assert cache.get("a", "x") is value
    cache.put("a", "z", value)
    assert [cache.get("a", key) is None for key in ("x", "y", "z")] == [False, True, False]
    assert cache.get("b", "x") is value
    assert cache.figures() == {
        "a": {"bytes": 8, "hits": 3, "misses": 1},
        "b": {"bytes": 4, "hits": 1, "misses": 0},
    }


def test_values_that_are_too_large_or_of_an_unknown_kind_are_not_kept() -> None:
    cache = FeatureCache({"a": 4, "off": 0})
    for kind in ("a", "off", "unknown"):
        cache.put(kind, "x", torch.zeros(2))
        assert cache.get(kind, "x") is None
