"""How many machines a load needs, by multiplication alone: rate times cost, over the use that is wanted."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from benchmarks.simulation.costs import Costs

# Beyond this share of the time, waiting grows fast.
WANTED_USE = 0.7
# Rows of a batch at that use; the cost of a batch is divided by it. The simulation finds it, too.
ROWS_PER_BATCH = 2.0


@dataclass(frozen=True)
class Needed:
    """A part of Lorabel, and how many of it a load needs.

    Args:
        rate: visits a second.
        cost_s: of a visit.
    """

    part: str
    rate: float
    cost_s: float

    @property
    def busy(self) -> float:
        """How many of it are busy all the time."""
        return self.rate * self.cost_s

    @property
    def count(self) -> int:
        return max(1, math.ceil(self.busy / WANTED_USE))


def needed(tasks_per_second: float, costs: Costs, shares: Mapping[str, float]) -> list[Needed]:
    """What so many opened and submitted tasks a second need.

    Args:
        shares: of the simulation: look-ahead `jobs`, `fits`, `rows`, `requests` to the model server and to `redis`
            per task; the share of tasks for which the backend has to load the project (`loads`); `job_s`, how long
            a look-ahead job takes.
    """
    rate = tasks_per_second
    backend_s = costs.backend_health_s + costs.backend_setup_s + costs.backend_predict_s + costs.backend_webhook_s
    postgres_s = costs.postgres_setup_s + costs.postgres_lookup_s + shares["loads"] * costs.postgres_load_s
    postgres_s += costs.postgres_event_s + costs.postgres_apply_s + costs.postgres_due_s
    # A project is looked for before the model server is asked for its features, before the fit, and after it.
    postgres_s += shares["fits"] * (costs.postgres_fit_s + 3 * costs.postgres_look_s)
    postgres_s += shares["jobs"] * costs.postgres_ahead_s
    return [
        Needed("Ray's HTTP proxy", rate * shares["requests"], costs.ray_http_s),
        Needed("our proxy", rate * shares["requests"], costs.proxy_s),
        Needed("GPU", rate * shares["rows"], costs.row_s + costs.batch_s / ROWS_PER_BATCH),
        Needed("replica's process", rate * shares["rows"], costs.replica_row_s),
        Needed("backend", rate, backend_s + shares["loads"] * costs.backend_load_s),
        Needed("PostgreSQL core", rate, postgres_s),
        Needed("Redis", rate * shares["redis"], costs.redis_enqueue_s),
        Needed("light worker", rate, costs.apply_s + costs.due_runs_s + shares["fits"] * costs.fit_s),
        Needed("bulk worker", rate * shares["jobs"], shares["job_s"]),
    ]
