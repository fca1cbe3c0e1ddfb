"""All of Lorabel on many machines: where each request goes, and what it keeps busy there."""

import random
from collections import Counter, OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import simpy
from cachetools import LRUCache, TTLCache

from benchmarks.simulation.costs import Costs
from benchmarks.simulation.replica import Answer, SimulatedReplica
from benchmarks.simulation.stations import Flushes, Station, Steps, Times
from lorabel.inference.messages import Priority
from model_server.adapter_order import preferred, routing_key

if TYPE_CHECKING:
    from lorabel.database.adapter_folders import AdapterFolders

# Constants of modules that import Ray, or take seconds to import; a test compares them.
MAX_ONGOING = 64
REPLICAS_PER_PROXY = 8
MIN_PROXIES = 2
LOOKAHEAD_PAUSE_S = 1.0
MOST_KEPT = 512
# Until a router whose replicas are all full tries again.
BACKOFF_S = 0.05
AHEAD_TASKS = 8
AHEAD_PROJECTS = 1024
AHEAD_TTL_S = 300.0


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
    """`next_task` counts the tasks that were opened. `adapter` is None while the base model and a head answer."""

    id: int
    adapter: str | None
    next_task: int = 0

    @property
    def key(self) -> str:
        return self.adapter or f"p{self.id}"


class Backend:
    """A process of the backend: its memory of projects, and its writer of events."""

    def __init__(self, env: simpy.Environment, kept_projects: int) -> None:
        self.station = Station(env)
        self.kept: LRUCache[int, bool] = LRUCache(kept_projects)
        self.looked_ahead: TTLCache[int, bool] = TTLCache(10_000, LOOKAHEAD_PAUSE_S, lambda: env.now)


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
        *,
        is_fit_shared: bool = True,
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
        self.light = LightWorkers(self, is_fit_shared=is_fit_shared)
        self.bulk = BulkWorkers(self)

    def predict(self, project: SimulatedProject) -> Steps:
        """An annotator opens a task: Label Studio asks /health, /setup and /predict."""
        costs, task = self.costs, project.next_task
        project.next_task += 1
        backend = self.random.choice(self.backends)
        yield backend.station.visit(costs.backend_health_s + costs.backend_setup_s)
        yield self.postgres.visit(costs.postgres_setup_s)
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
            self.redis.visit(costs.redis_enqueue_s)
            self.bulk.look_ahead(project)

    def _look_up(self, backend: Backend, project: SimulatedProject) -> Steps:
        costs = self.costs
        self.lookups += 1
        is_kept = project.id in backend.kept
        backend.kept[project.id] = True
        self.project_loads += not is_kept
        yield backend.station.visit(costs.backend_predict_s + (0.0 if is_kept else costs.backend_load_s))
        yield self.postgres.visit(costs.postgres_lookup_s + (0.0 if is_kept else costs.postgres_load_s))
        yield self.env.timeout(costs.network_s)

    def ask(self, project: SimulatedProject, tasks: Sequence[int], priority: Priority) -> Answer:
        """Ask the model server: Ray's HTTP proxy, ours, a replica. Returns as `SimulatedReplica.answer`."""
        costs, key = self.costs, routing_key(project.key)
        yield self.random.choice(self.ray_http).visit(costs.ray_http_s)
        router = self.random.choice(self.routers)
        yield router.station.visit(costs.proxy_s)
        while (replica := router.choose(key)) is None:
            yield self.env.timeout(BACKOFF_S)
        router.begin(replica)
        yield self.env.timeout(costs.network_s)
        answer = yield from replica.answer(project.id, project.adapter, tasks, priority)
        router.end(replica)
        return answer

    def submit(self, project: SimulatedProject) -> Steps:
        """An annotator submits: Label Studio sends an event, and waits for the answer."""
        costs, began_s = self.costs, self.env.now
        yield self.random.choice(self.backends).station.visit(costs.backend_webhook_s)
        yield self.postgres.visit(costs.postgres_event_s)
        yield self.flushes.commit()
        yield self.env.timeout(costs.network_s)
        yield self.redis.visit(costs.redis_enqueue_s)
        self.webhooks.values.append(self.env.now - began_s)
        self.light.note_event(project.id)


class LightWorkers:
    """Apply events, and fit the heads of the projects that have changed, the one that changed last first.

    Args:
        is_fit_shared: whether a worker leaves out projects whose heads another one is fitting.
    """

    def __init__(self, site: Site, *, is_fit_shared: bool) -> None:
        self._site, self._is_fit_shared = site, is_fit_shared
        self.workers = [Station(site.env) for _ in range(site.machines.light_workers)]
        # By project, when the events came that its heads do not know of; and of how many they know.
        self._due: OrderedDict[int, list[float]] = OrderedDict()
        self._known: Counter[int] = Counter()
        self._fitting: set[int] = set()
        self._is_idle = [True] * len(self.workers)
        self.fits, self.fits_in_vain = 0, 0
        self.fits_s = Times()

    @property
    def due(self) -> int:
        """Projects whose heads do not know of their newest annotations."""
        return len(self._due)

    def note_event(self, project_id: int) -> None:
        self._site.env.process(self._apply(project_id))

    def _apply(self, project_id: int) -> Steps:
        site, noted_s = self._site, self._site.env.now
        worker = min(self.workers, key=lambda station: station.backlog_s)
        yield worker.visit(site.costs.apply_s + site.costs.due_runs_s)
        yield site.postgres.visit(site.costs.postgres_apply_s)
        yield site.flushes.commit()
        self._due.setdefault(project_id, []).append(noted_s)
        self._due.move_to_end(project_id)
        for number, is_idle in enumerate(self._is_idle):
            if is_idle:
                self._is_idle[number] = False
                site.env.process(self._fit(number))

    def _fit(self, number: int) -> Steps:
        while (project_id := self._next()) is not None:
            revision = self._known[project_id] + len(self._due[project_id])
            self._fitting.add(project_id)
            yield self.workers[number].visit(self._site.costs.fit_s)
            self._fitting.discard(project_id)
            self.fits += 1
            new = revision - self._known[project_id]
            if new <= 0:  # another worker was faster
                self.fits_in_vain += 1
                continue
            noted_s = self._due[project_id]
            self.fits_s.values.append(self._site.env.now - noted_s[0])
            self._known[project_id] = revision
            del noted_s[:new]
            if not noted_s:
                del self._due[project_id]
        self._is_idle[number] = True

    def _next(self) -> int | None:
        newest_first = reversed(self._due)
        return next((id_ for id_ in newest_first if not (self._is_fit_shared and id_ in self._fitting)), None)


class BulkWorkers:
    """Predict the next tasks of projects. Each worker knows only what it has predicted itself."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._waiting: OrderedDict[int, SimulatedProject] = OrderedDict()
        self._idle = list(range(site.machines.bulk_workers))
        self._predicted: list[TTLCache[int, int]] = [
            TTLCache(AHEAD_PROJECTS, AHEAD_TTL_S, lambda: site.env.now) for _ in self._idle
        ]
        self.jobs, self.busy_s = 0, 0.0

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    def look_ahead(self, project: SimulatedProject) -> None:
        """Queue a job, unless one of the project waits already."""
        self._waiting.setdefault(project.id, project)
        if self._idle:
            self._site.env.process(self._work(self._idle.pop()))

    def _work(self, number: int) -> Steps:
        while self._waiting:
            _, project = self._waiting.popitem(last=False)
            began_s = self._site.env.now
            self.jobs += 1
            yield self._site.env.timeout(self._site.costs.lookahead_s)
            yield from self._predict_ahead(self._predicted[number], project)
            self.busy_s += self._site.env.now - began_s
        self._idle.append(number)

    def _predict_ahead(self, predicted: TTLCache[int, int], project: SimulatedProject) -> Steps:
        first, known_to = project.next_task, predicted.get(project.id, 0)
        if known_to - first > AHEAD_TASKS // 2:
            return
        yield self._site.env.timeout(self._site.costs.label_studio_s)
        tasks = range(max(first, known_to), first + AHEAD_TASKS)
        yield from self._site.ask(project, tasks, Priority.LOOKAHEAD)
        predicted[project.id] = first + AHEAD_TASKS
