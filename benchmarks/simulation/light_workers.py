"""The light workers of the simulation: jobs that apply events, and threads that fit heads.

As in `workers/collect.py` and `workers/head_fitting.py`: a job is added where none waits, and looks LOOKS + 1
times for pending events, which it applies a project at a time. Then the thread of the same process takes the
project that changed last and that no other worker has claimed; asks the model server for the features of its new
tasks; and fits. Both share the process's core. The rest of a project that is annotated during its fit is left
out: an annotator seldom submits so soon.
"""

from collections import OrderedDict, defaultdict
from collections.abc import Generator
from typing import TYPE_CHECKING, Any

import simpy
from simpy.events import Event

from benchmarks.simulation.stations import Station, Steps, Times
from lorabel.inference.messages import Priority

if TYPE_CHECKING:
    from benchmarks.simulation.site import SimulatedProject, Site

# Constants of modules that take seconds to import; a test compares them.
COLLECT_LINGER_S = 0.2
LOOKS = 4
MOST_AT_ONCE = 4
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 3.2


class LightWorker:
    """A process. Both threads use its core.

    Attributes:
        asking: projects about which it asks the model server.
        answered: projects about which the model server has answered since their last fit.
        heads_wanted: succeeds when annotations may have changed since its last look for heads to fit.
    """

    def __init__(self, env: simpy.Environment) -> None:
        self.station = Station(env)
        self.asking: set[int] = set()
        self.answered: set[int] = set()
        self.heads_wanted = env.event()


class LightWorkers:
    """All of them, with what the database knows: pending events, and projects whose heads are due.

    Attributes:
        fits_s: from an event to heads that know of it.
    """

    def __init__(self, site: "Site") -> None:
        self._site = site
        self.workers = [LightWorker(site.env) for _ in range(site.machines.light_workers)]
        self._idle = list(self.workers)
        self._is_job_waiting = False
        self._projects: dict[int, SimulatedProject] = {}
        self._pending: OrderedDict[int, list[float]] = OrderedDict()
        self._applying: set[int] = set()
        # By project, when the events came that its heads do not know of, and with new tasks that lack features.
        self._due: OrderedDict[int, list[float]] = OrderedDict()
        self._new_tasks: defaultdict[int, list[int]] = defaultdict(list)
        self._claimed: set[int] = set()
        self.fits, self.fits_s = 0, Times()
        for worker in self.workers:
            site.env.process(self._fit_forever(worker))

    @property
    def due(self) -> int:
        """Projects whose heads do not know of their newest annotations."""
        return len(self._due)

    def note_event(self, project: "SimulatedProject", task: int) -> None:
        """The backend has committed an event about an annotation of a task."""
        self._projects[project.id] = project
        self._pending.setdefault(project.id, []).append(self._site.env.now)
        self._new_tasks[project.id].append(task)

    def enqueue(self) -> None:
        """Add a job that applies events, unless one waits."""
        if self._idle:
            self._site.env.process(self._work(self._idle.pop(0)))
        else:
            self._is_job_waiting = True

    def _work(self, worker: LightWorker) -> Steps:
        yield from self._collect(worker)
        while self._is_job_waiting:
            self._is_job_waiting = False
            yield from self._collect(worker)
        self._idle.append(worker)

    def _collect(self, worker: LightWorker) -> Steps:
        site = self._site
        for pause_s in (0.0, *[COLLECT_LINGER_S / LOOKS] * LOOKS):
            yield site.env.timeout(pause_s)
            changed = []
            for project_id in list(self._pending):
                if project_id in self._applying or project_id not in self._pending:
                    continue
                yield from self._apply(worker, project_id)
                changed.append(project_id)
            if changed:
                self._wake(worker)
            for _ in changed:
                yield worker.station.visit(site.costs.due_runs_s)
                yield site.postgres.visit(site.costs.postgres_due_s)

    def _apply(self, worker: LightWorker, project_id: int) -> Steps:
        site, noted_s = self._site, self._pending.pop(project_id)
        self._applying.add(project_id)
        yield worker.station.visit(site.costs.apply_s * len(noted_s))
        yield site.postgres.visit(site.costs.postgres_apply_s * len(noted_s))
        yield site.flushes.commit()
        self._applying.discard(project_id)
        self._projects[project_id].revision += 1
        self._due.setdefault(project_id, []).extend(noted_s)
        self._due.move_to_end(project_id)

    def _wake(self, worker: LightWorker) -> None:
        if not worker.heads_wanted.triggered:
            worker.heads_wanted.succeed()

    def _fit_forever(self, worker: LightWorker) -> Steps:
        env, has_left_some, pause_s = self._site.env, False, FIRST_PAUSE_S
        while True:
            if has_left_some:
                yield worker.heads_wanted | env.timeout(pause_s)
                pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
            else:
                yield worker.heads_wanted
                pause_s = FIRST_PAUSE_S
            if worker.heads_wanted.triggered:
                worker.heads_wanted = env.event()
            has_left_some = yield from self._look(worker)

    def _look(self, worker: LightWorker) -> Generator[Event, Any, bool]:
        """As `HeadFitter.fit_due`. Returns whether other workers have claimed some projects."""
        site, done = self._site, set[int]()
        while True:
            yield site.postgres.visit(site.costs.postgres_look_s)
            project_id, has_left_some = self._next(worker, done)
            if project_id is None:
                return has_left_some
            done.add(project_id)
            self._claimed.add(project_id)
            if project_id in worker.answered:
                worker.answered.discard(project_id)
                yield from self._fit(worker, project_id)
                self._claimed.discard(project_id)
            elif len(worker.asking) < MOST_AT_ONCE:
                worker.asking.add(project_id)  # and stays claimed
                site.env.process(self._ask(worker, project_id))
            else:
                self._claimed.discard(project_id)

    def _next(self, worker: LightWorker, done: set[int]) -> tuple[int | None, bool]:
        has_left_some = False
        for project_id in reversed(self._due):
            if project_id in done or project_id in worker.asking:
                continue
            if project_id not in self._claimed:
                return project_id, has_left_some
            has_left_some = True
        return None, has_left_some

    def _ask(self, worker: LightWorker, project_id: int) -> Steps:
        tasks = self._new_tasks.pop(project_id, [])
        yield from self._site.ask(self._projects[project_id], tasks, Priority.BULK)
        yield self._site.flushes.commit()
        worker.asking.discard(project_id)
        worker.answered.add(project_id)
        self._claimed.discard(project_id)
        self._wake(worker)

    def _fit(self, worker: LightWorker, project_id: int) -> Steps:
        site, known = self._site, len(self._due[project_id])
        yield worker.station.visit(site.costs.fit_s)
        yield site.postgres.visit(site.costs.postgres_fit_s)
        yield site.flushes.commit()
        self.fits += 1
        self._projects[project_id].revision += 1
        noted_s = self._due[project_id]
        self.fits_s.values += [site.env.now - at_s for at_s in noted_s[:known]]
        del noted_s[:known]
        if not noted_s:
            del self._due[project_id]
