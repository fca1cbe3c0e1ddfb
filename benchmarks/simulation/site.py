"""All of Lorabel on many machines: where each request goes, and what it keeps busy there."""

import random
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import simpy
from cachetools import LRUCache, TTLCache
from simpy.events import Event

from benchmarks.simulation.bulk_workers import BulkWorkers
from benchmarks.simulation.costs import Costs
from benchmarks.simulation.light_workers import COLLECT_LINGER_S, LightWorkers
from benchmarks.simulation.replica import Answer, SimulatedReplica
from benchmarks.simulation.stations import Flushes, Station, Steps, Times
from lorabel.inference.messages import Priority
from model_server.adapter_order import preferred, routing_key

if TYPE_CHECKING:
    from lorabel.database.adapter_folders import AdapterFolders

# Constants of modules that import Ray, or take seconds to import; a test compares them.
MAX_ONGOING = 64
REPLICAS_PER_PROXY = 3
MIN_PROXIES = 2
LOOKAHEAD_PAUSE_S = 1.0
MOST_KEPT = 512
# Until a router whose replicas are all full tries again.
BACKOFF_S = 0.05
# Times that PostgreSQL is asked, one after the other: what a project's memory is checked by, what it is loaded by
# (its row, its heads, its unreadable tasks), /setup, and an event. A test of the code counts them.
LOOKUP_TRIPS, LOAD_TRIPS, SETUP_TRIPS, EVENT_TRIPS = 1, 3, 2, 2


@dataclass(frozen=True)
class Machines:
    """How many of each process there are. The defaults are those of docs/scaling.md for 100 GPUs."""

    replicas: int = 100
    ray_http_proxies: int = 13
    backends: int = 32
    postgres_cores: int = 16
    light_workers: int = 4
    bulk_workers: int = 4
    adapters_held: int = 226
    kept_projects: int = MOST_KEPT

    @property
    def proxies(self) -> int:
        return max(MIN_PROXIES, self.replicas // REPLICAS_PER_PROXY)


class Router:
    """One of our proxies, with what its router knows of the replicas.

    Ray's router counts a request that it sends, takes over the number that the replica reports, and counts down
    when the answer is there.
    """

    def __init__(self, env: simpy.Environment, replicas: Sequence[SimulatedReplica]) -> None:
        self.station = Station(env)
        self.replicas = {replica.name: replica for replica in replicas}
        self.known = dict.fromkeys(self.replicas, 0)

    def choose(self, key: str) -> SimulatedReplica | None:
        """The first replica in the order of preference that is not full; None if all are."""
        for name in preferred(key, self.known):
            replica = self.replicas[name]
            if replica.ongoing < MAX_ONGOING:
                return replica
            self.known[name] = replica.ongoing
        return None

    def begin(self, replica: SimulatedReplica) -> None:
        replica.ongoing += 1
        self.known[replica.name] = replica.ongoing

    def end(self, replica: SimulatedReplica) -> None:
        replica.ongoing -= 1
        self.known[replica.name] = max(0, self.known[replica.name] - 1)


@dataclass
class SimulatedProject:
    """Attributes:
    adapter: None while the base model and a head answer.
    opened: how many tasks were opened, which is the id of the last.
    revision: counts the changes of its row: events that were applied, and new heads.
    """

    id: int
    adapter: str | None
    opened: int = 0
    revision: int = 0

    @property
    def key(self) -> str:
        return self.adapter or f"p{self.id}"


class Backend:
    """A process of the backend.

    Attributes:
        kept: by project, the revision of its row that is in memory.
        looked_ahead: projects whose look-ahead was seen to a moment ago.
        collected_until: until then no job that applies events is added, since one will find them.
    """

    def __init__(self, env: simpy.Environment, kept_projects: int) -> None:
        self.station = Station(env)
        self.kept: LRUCache[int, int] = LRUCache(kept_projects)
        self.looked_ahead: TTLCache[int, bool] = TTLCache(10_000, LOOKAHEAD_PAUSE_S, lambda: env.now)
        self.collected_until = 0.0


class Site:
    """Takes the requests of annotators.

    Attributes:
        predictions, webhooks: how long requests took.
        cold_waits: how long those predictions took that had to load an adapter.
        fits_s: from an event to heads that know of it.
    """

    def __init__(
        self,
        env: simpy.Environment,
        machines: Machines,
        costs: Costs,
        folders: "AdapterFolders",
        seed: int,
    ) -> None:
        self.env, self.machines, self.costs = env, machines, costs
        self.random = random.Random(seed)
        self.replicas = [
            SimulatedReplica(env, f"{number:08x}", costs, folders, machines.adapters_held)
            for number in range(machines.replicas)
        ]
        self.routers = [Router(env, self.replicas) for _ in range(machines.proxies)]
        self.ray_http = [Station(env) for _ in range(machines.ray_http_proxies)]
        self.backends = [Backend(env, machines.kept_projects) for _ in range(machines.backends)]
        self.postgres, self.redis = Station(env, machines.postgres_cores), Station(env)
        self.flushes = Flushes(env, costs.flush_s)
        self.predictions, self.webhooks, self.cold_waits = Times(), Times(), Times()
        self.remembered, self.project_loads, self.lookups = 0, 0, 0
        self.light = LightWorkers(self)
        self.bulk = BulkWorkers(self)

    def open_task(self, project: SimulatedProject) -> Generator[Event, Any, int]:
        """An annotator opens a task: Label Studio asks /health, /setup and /predict. Returns the task's id."""
        costs = self.costs
        project.opened += 1
        task = project.opened
        backend = self.random.choice(self.backends)
        yield backend.station.visit(costs.backend_health_s + costs.backend_setup_s)
        yield from self._ask_postgres(costs.postgres_setup_s, SETUP_TRIPS)
        began_s = self.env.now
        yield from self._look_up(backend, project)
        is_cold, is_remembered = yield from self.ask(project, [task], Priority.INTERACTIVE)
        took_s = self.env.now - began_s
        self.predictions.values.append(took_s)
        self.remembered += is_remembered
        if is_cold:
            self.cold_waits.values.append(took_s)
        if project.id not in backend.looked_ahead:
            backend.looked_ahead[project.id] = True
            yield self.redis.visit(costs.redis_enqueue_s)
            if not self.bulk.is_far_enough(project, task):
                self.bulk.enqueue(project, task)
        return task

    def _look_up(self, backend: Backend, project: SimulatedProject) -> Steps:
        """The backend loads a project that its memory lacks, or whose row has changed since."""
        costs = self.costs
        self.lookups += 1
        yield backend.station.visit(costs.backend_predict_s)
        yield from self._ask_postgres(costs.postgres_lookup_s, LOOKUP_TRIPS)
        if backend.kept.get(project.id) != project.revision:
            self.project_loads += 1
            backend.kept[project.id] = project.revision
            yield backend.station.visit(costs.backend_load_s)
            yield from self._ask_postgres(costs.postgres_load_s, LOAD_TRIPS)

    def _ask_postgres(self, service_s: float, trips: int) -> Steps:
        yield self.postgres.visit(service_s)
        yield self.env.timeout(trips * self.costs.network_s)

    def ask(self, project: SimulatedProject, tasks: Sequence[int], priority: Priority) -> Answer:
        """Ask the model server: Ray's HTTP proxy, ours, a replica. Returns as `SimulatedReplica.answer`."""
        costs, key = self.costs, routing_key(project.key)
        yield self.env.timeout(costs.network_s)
        yield self.random.choice(self.ray_http).visit(costs.ray_http_s)
        yield self.env.timeout(costs.network_s)
        router = self.random.choice(self.routers)
        yield router.station.visit(costs.proxy_s)
        while (replica := router.choose(key)) is None:
            yield self.env.timeout(BACKOFF_S)
        router.begin(replica)
        yield self.env.timeout(costs.network_s)
        answer = yield from replica.answer(project.id, project.adapter, tasks, priority)
        router.end(replica)
        return answer

    def submit(self, project: SimulatedProject, task: int) -> Steps:
        """An annotator submits: Label Studio sends an event, and waits for the answer."""
        costs, began_s = self.costs, self.env.now
        backend = self.random.choice(self.backends)
        yield backend.station.visit(costs.backend_webhook_s)
        yield from self._ask_postgres(costs.postgres_event_s, EVENT_TRIPS)
        yield self.flushes.commit()
        self.light.note_event(project, task)
        if self.env.now >= backend.collected_until:
            backend.collected_until = self.env.now + COLLECT_LINGER_S / 2
            yield self.redis.visit(costs.redis_enqueue_s)
            self.light.enqueue()
        self.webhooks.values.append(self.env.now - began_s)
