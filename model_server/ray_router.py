"""Ray Serve's request router with the decisions of `model_server/adapter_order.py`.

The base class is Ray Serve's (alpha in Ray 2.60). Each of our proxies has a router of its own; all routers compute
the same order.
"""

import random

from ray.serve.request_router import PendingRequest, RequestRouter, RunningReplica

from model_server.adapter_order import preferred


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
        key = pending_request.metadata.session_id
        if not key:
            two = random.sample(candidate_replicas, min(2, len(candidate_replicas)))
            return [two, candidate_replicas]
        replicas = {replica.replica_id.unique_id: replica for replica in candidate_replicas}
        ongoing = {name: self._ongoing(replica) for name, replica in replicas.items()}
        return [[replicas[name]] for name in preferred(key, ongoing)]

    def _ongoing(self, replica: RunningReplica) -> int:
        """Requests that the replica has, as far as this router knows; 0 if it has no recent number."""
        return self.replica_queue_len_cache.get(replica.replica_id) or 0
