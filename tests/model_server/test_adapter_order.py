"""The order of replicas and the keys of requests, without a cluster."""

from model_server.adapter_order import (
    MIN_LOAD_LIMIT,
    move_overloaded_last,
    order,
    parse_routing_key,
    preferred,
    routing_key,
)

REPLICAS = [f"replica-{i}" for i in range(8)]
ADAPTERS = [f"p{i}.v1/label" for i in range(800)]


def homes(replicas: list[str]) -> dict[str, str]:
    """Adapter -> its home."""
    return {adapter: order(adapter, replicas)[0] for adapter in ADAPTERS}


def test_the_order_does_not_depend_on_how_the_replicas_are_listed() -> None:
    assert order("p1.v1/label", REPLICAS) == order("p1.v1/label", REPLICAS[::-1])


def test_parsing_inverts_routing_key_and_takes_any_other_string_as_a_name() -> None:
    assert parse_routing_key(routing_key("p1.v1/label")) == ("p1.v1/label", None)
    assert parse_routing_key(routing_key("p1.v1/label", 1)) == ("p1.v1/label", 1)
    for name in ("a\0x", "a\0²", "\0", "\0" + "1", "a\0" + "9" * 5000):
        assert parse_routing_key(name) == (name, None)


def test_adapters_spread_over_the_replicas() -> None:
    counts = [list(homes(REPLICAS).values()).count(replica) for replica in REPLICAS]
    assert min(counts) > 60 and max(counts) < 140, "100 each, give or take"


def test_adapters_of_a_removed_replica_move_to_their_second_replica_and_no_others_move() -> None:
    before, after = homes(REPLICAS), homes(REPLICAS[:-1])
    removed = REPLICAS[-1]
    assert {adapter for adapter in ADAPTERS if before[adapter] != after[adapter]} == {
        adapter for adapter in ADAPTERS if before[adapter] == removed
    }
    assert all(after[adapter] == order(adapter, REPLICAS)[1] for adapter in ADAPTERS if before[adapter] == removed)


def test_a_home_takes_requests_up_to_its_limit_and_then_comes_last() -> None:
    names = order("p1.v1/label", REPLICAS)
    idle = dict.fromkeys(names, 0)
    assert move_overloaded_last(names, {**idle, names[0]: MIN_LOAD_LIMIT - 1}) == names
    assert move_overloaded_last(names, {**idle, names[0]: MIN_LOAD_LIMIT}) == [*names[1:], names[0]]
    busy = dict.fromkeys(names, 40)
    assert move_overloaded_last(names, busy) == names, "all have the same load, so the order stays"


def test_a_position_is_preferred_whatever_its_replica_has_to_do_and_else_a_home_that_is_not_full() -> None:
    names = order("p1.v1/label", REPLICAS)
    full_home = {**dict.fromkeys(REPLICAS, 0), names[0]: MIN_LOAD_LIMIT}
    assert preferred(routing_key("p1.v1/label"), full_home) == [*names[1:], names[0]]
    assert preferred(routing_key("p1.v1/label", 0), full_home) == names
    assert preferred(routing_key("p1.v1/label", 9), full_home) == [*names[1:], names[0]], "9 of 8 is the second"
    assert preferred(routing_key("p1.v1/label", 3), {}) == []


def test_a_new_set_of_replicas_has_its_own_order_at_once() -> None:
    before = order("p1.v1/label", REPLICAS)
    assert order("p1.v1/label", before[1:]) == before[1:]
