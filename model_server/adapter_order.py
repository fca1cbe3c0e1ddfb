"""Decides which replica a request goes to: the home of its adapter, unless the home has too much to do.

Every adapter has its own order of the replicas, by a hash of both names (rendezvous hashing,
https://www.eecs.umich.edu/techreports/cse/96/CSE-TR-316-96.pdf). The first replica of the order is the adapter's
home. When a replica is added or removed, only the adapters whose home it is move. A home that has more to do than
its share leaves further requests to the next replica of the order (bounded loads,
https://arxiv.org/abs/1608.01350), so one busy project does not wait while replicas are idle. A project on the base
model (`p12`) has an order just as an adapter has.

`model_server/ray_router.py` makes these decisions on a cluster, `benchmarks/simulation` in a simulated one.
"""

import math
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from hashlib import blake2b

# A home takes this many requests at a time however idle the others are, or 1.25 times its share of all requests if
# that is more.
MIN_LOAD_LIMIT = 8
LARGEST_SHARE = 1.25
POSITION = re.compile(r"[0-9]{1,4}")
# Orders that a proxy keeps. Of 100 replicas each takes 1 kB; hashing their names again takes 0.25 ms.
ORDERS_KEPT = 16_384


def routing_key(adapter: str, position: int | None = None) -> str:
    """Return the key that a proxy sends with a request, as Ray's session id.

    Args:
        adapter: the adapter, or the project on the base model (`p12`).
        position: in the adapter's order of the replicas; that replica gets the request, whatever it has to do.
            None lets the router choose.
    """
    return adapter if position is None else f"{adapter}\0{position}"


def parse_routing_key(key: str) -> tuple[str, int | None]:
    """Return the adapter and the position of a `routing_key`. Any other string is taken as an adapter's name."""
    adapter, _, position = key.rpartition("\0")
    return (adapter, int(position)) if adapter and POSITION.fullmatch(position) else (key, None)


def order(adapter: str, replicas: Sequence[str]) -> list[str]:
    """Return the names of the replicas in the adapter's order, its home first; the same in every process."""
    return list(_order(adapter, tuple(replicas)))


@lru_cache(ORDERS_KEPT)
def _order(adapter: str, replicas: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(sorted(replicas, key=lambda replica: blake2b(f"{adapter}\0{replica}".encode()).digest()))


def move_overloaded_last(replicas: Sequence[str], ongoing: Mapping[str, int]) -> list[str]:
    """Return the replicas that may take one more request, then those at their limit, each part in its order.

    Args:
        ongoing: requests that each replica has now.
    """
    share = math.ceil(LARGEST_SHARE * (sum(ongoing.values()) + 1) / max(1, len(replicas)))
    limit = max(MIN_LOAD_LIMIT, share)
    return sorted(replicas, key=lambda replica: ongoing[replica] >= limit)


def preferred(key: str, ongoing: Mapping[str, int]) -> list[str]:
    """Return the names of the replicas in the order in which a request should try them.

    Args:
        key: a `routing_key`.
        ongoing: requests that each replica has now, as far as the caller knows; its keys are all replicas.
    """
    adapter, position = parse_routing_key(key)
    names = order(adapter, list(ongoing))
    if position is None:
        return move_overloaded_last(names, ongoing)
    first = position % max(1, len(names))
    return names[first:] + names[:first]
