"""Which replica computes a request: the one that its adapter belongs to, unless that one is too busy.

Every adapter has its own order of the replicas, by a hash of both names (rendezvous hashing,
https://www.eecs.umich.edu/techreports/cse/96/CSE-TR-316-96.pdf). The first is its home. When a replica comes or
goes, only the adapters that it is home to move. A home that has more to do than others passes on what comes next
(bounded loads, https://arxiv.org/abs/1608.01350), so one busy project does not wait while replicas are idle.
A project on the base model (`p12`) is treated as an adapter is.

The base class is Ray Serve's (alpha in Ray 2.60). Every proxy has a router of its own; all find the same order.
"""

import math
import random
import re
from collections.abc import Mapping, Sequence
from hashlib import blake2b

from ray.serve.request_router import PendingRequest, RequestRouter, RunningReplica

# A home takes this many requests at a time however idle the others are, and beyond that 1.25 times its share.
LIGHT_LOAD = 8
LARGEST_SHARE = 1.25
PLACE = re.compile(r"[0-9]{1,4}")


def key_of(adapter: str, place: int | None = None) -> str:
    """What a proxy says with a request. With a place: the replica at that place of the order, however busy."""
    return adapter if place is None else f"{adapter}\0{place}"


def adapter_and_place(key: str) -> tuple[str, int | None]:
    """What `key_of` put together. What it did not is taken as an adapter's name."""
    adapter, _, place = key.rpartition("\0")
    return (adapter, int(place)) if adapter and PLACE.fullmatch(place) else (key, None)


def order(adapter: str, replicas: Sequence[str]) -> list[str]:
    """The replicas by their names, the adapter's home first; the same wherever it is computed."""
    return sorted(replicas, key=lambda replica: blake2b(f"{adapter}\0{replica}".encode()).digest())


def light_ones_first(replicas: Sequence[str], ongoing: Mapping[str, int]) -> list[str]:
    """Those that may take one more request in their order, then those that have more than their share."""
    share = math.ceil(LARGEST_SHARE * (sum(ongoing.values()) + 1) / max(1, len(replicas)))
    most = max(LIGHT_LOAD, share)
    return sorted(replicas, key=lambda replica: ongoing[replica] >= most)


class AdapterRouter(RequestRouter):  # type: ignore[misc]
    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        """Ray asks the replicas of one list which has less to do, and goes on to the next list if all are full."""
        if pending_request is None:
            return [candidate_replicas]
        pending_request.routing_context.should_backoff = True
        if not pending_request.metadata.session_id:
            two = random.sample(candidate_replicas, min(2, len(candidate_replicas)))
            return [two, candidate_replicas]
        adapter, place = adapter_and_place(pending_request.metadata.session_id)
        replicas = {replica.replica_id.unique_id: replica for replica in candidate_replicas}
        names = order(adapter, list(replicas))
        if place is not None:
            first = place % max(1, len(names))
            names = names[first:] + names[:first]
        else:
            names = light_ones_first(names, {name: self._ongoing(replica) for name, replica in replicas.items()})
        return [[replicas[name]] for name in names]

    def _ongoing(self, replica: RunningReplica) -> int:
        """As this router knows it; a replica that it has not heard of lately counts as idle."""
        return self.replica_queue_len_cache.get(replica.replica_id) or 0
