"""Chooses the replica for a request: the home of its adapter, unless the home has too much to do.

Every adapter has its own order of the replicas, by a hash of both names (rendezvous hashing,
https://www.eecs.umich.edu/techreports/cse/96/CSE-TR-316-96.pdf). The first replica of the order is the adapter's
home. When a replica is added or removed, only the adapters whose home it is move. A home that has more to do than
its share leaves further requests to the next replica of the order (bounded loads,
https://arxiv.org/abs/1608.01350), so one busy project does not wait while replicas are idle. A project on the base
model (`p12`) has an order just as an adapter has.

The base class is Ray Serve's (alpha in Ray 2.60). Each of our proxies has a router of its own; all routers compute
the same order.
"""

import math
import random
import re
from collections.abc import Mapping, Sequence
from hashlib import blake2b

from ray.serve.request_router import PendingRequest, RequestRouter, RunningReplica

# A home takes this many requests at a time however idle the others are, or 1.25 times its share of all requests if
# that is more.
MIN_LOAD_LIMIT = 8
LARGEST_SHARE = 1.25
POSITION = re.compile(r"[0-9]{1,4}")


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
    return sorted(replicas, key=lambda replica: blake2b(f"{adapter}\0{replica}".encode()).digest())


def move_overloaded_last(replicas: Sequence[str], ongoing: Mapping[str, int]) -> list[str]:
    """Return the replicas that may take one more request, then those at their limit, each part in its order.

    Args:
        ongoing: requests that each replica has now.
    """
    share = math.ceil(LARGEST_SHARE * (sum(ongoing.values()) + 1) / max(1, len(replicas)))
    limit = max(MIN_LOAD_LIMIT, share)
    return sorted(replicas, key=lambda replica: ongoing[replica] >= limit)


class AdapterRouter(RequestRouter):  # type: ignore[misc]
    """Ray Serve's request router with the order of the adapters."""

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        """Return lists of replicas in the order in which Ray should try them.

        Ray takes the replica of a list that has least to do, and the next list if all of a list are full. A
        request without a key goes to the less busy of two replicas drawn at random.
        """
        if pending_request is None:
            return [candidate_replicas]
        pending_request.routing_context.should_backoff = True
        if not pending_request.metadata.session_id:
            two = random.sample(candidate_replicas, min(2, len(candidate_replicas)))
            return [two, candidate_replicas]
        adapter, position = parse_routing_key(pending_request.metadata.session_id)
        replicas = {replica.replica_id.unique_id: replica for replica in candidate_replicas}
        names = order(adapter, list(replicas))
        if position is not None:
            first = position % max(1, len(names))
            names = names[first:] + names[:first]
        else:
            ongoing = {name: self._ongoing(replica) for name, replica in replicas.items()}
            names = move_overloaded_last(names, ongoing)
        return [[replicas[name]] for name in names]

    def _ongoing(self, replica: RunningReplica) -> int:
        """Requests that the replica has, as far as this router knows; 0 if it has no recent number."""
        return self.replica_queue_len_cache.get(replica.replica_id) or 0
