"""The order of replicas, without a cluster."""

import pytest

pytest.importorskip("ray", reason="the extra `ray` is not installed: make test-ray")

from model_server.ray_router import LIGHT_LOAD, adapter_and_place, key_of, light_ones_first, order

pytestmark = pytest.mark.ray

REPLICAS = [f"replica-{i}" for i in range(8)]
ADAPTERS = [f"p{i}.v1/label" for i in range(800)]


def homes(replicas: list[str]) -> dict[str, str]:
    return {adapter: order(adapter, replicas)[0] for adapter in ADAPTERS}


def test_the_order_does_not_depend_on_how_the_replicas_are_listed() -> None:
    assert order("p1.v1/label", REPLICAS) == order("p1.v1/label", REPLICAS[::-1])


def test_a_key_is_taken_apart_as_it_was_put_together_and_any_other_is_a_name() -> None:
    assert adapter_and_place(key_of("p1.v1/label")) == ("p1.v1/label", None)
    assert adapter_and_place(key_of("p1.v1/label", 1)) == ("p1.v1/label", 1)
    for odd in ("a\0x", "a\0²", "\0", "\0" + "1", "a\0" + "9" * 5000):
        assert adapter_and_place(odd) == (odd, None)


def test_adapters_spread_over_the_replicas() -> None:
    counts = [list(homes(REPLICAS).values()).count(replica) for replica in REPLICAS]
    assert min(counts) > 60 and max(counts) < 140, "100 each, give or take"


def test_when_a_replica_goes_its_adapters_go_to_their_second_place_and_no_other_moves() -> None:
    before, after = homes(REPLICAS), homes(REPLICAS[:-1])
    gone = REPLICAS[-1]
    assert {adapter for adapter in ADAPTERS if before[adapter] != after[adapter]} == {
        adapter for adapter in ADAPTERS if before[adapter] == gone
    }
    assert all(after[a] == order(a, REPLICAS)[1] for a in ADAPTERS if before[a] == gone)


def test_a_home_keeps_its_requests_while_it_has_few_and_passes_them_on_when_it_has_more_than_its_share() -> None:
    names = order("p1.v1/label", REPLICAS)
    idle = dict.fromkeys(names, 0)
    assert light_ones_first(names, {**idle, names[0]: LIGHT_LOAD - 1}) == names
    assert light_ones_first(names, {**idle, names[0]: LIGHT_LOAD}) == [*names[1:], names[0]]
    busy = dict.fromkeys(names, 40)
    assert light_ones_first(names, busy) == names, "all have as much to do: nothing is gained elsewhere"
