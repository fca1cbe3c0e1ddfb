"""The bulk workers of the simulation: they predict the tasks that are opened next, as `workers/lookahead.py`.

What they have predicted is known to all of them, and to the backends, which add no job while it is enough.
"""

from collections import OrderedDict
from typing import TYPE_CHECKING

from cachetools import TTLCache

from benchmarks.simulation.stations import Steps
from lorabel.inference.messages import Priority

if TYPE_CHECKING:
    from benchmarks.simulation.site import SimulatedProject, Site

# The default of a setting, and a constant of `lorabel/database/predicted_tasks.py`; a test compares them.
AHEAD_TASKS = 8
KEPT_S = 300.0
PROJECTS = 1_000_000


class BulkWorkers:
    """All of them, and their queue, in which one job of a project waits at most.

    Attributes:
        busy_s: of all workers, also while they wait for others.
        label_studio_asked: jobs for which Label Studio was asked.
    """

    def __init__(self, site: "Site") -> None:
        self._site = site
        self._waiting: OrderedDict[int, tuple[SimulatedProject, int]] = OrderedDict()
        self._idle = site.machines.bulk_workers
        # By project, the highest task that is predicted.
        self._predicted: TTLCache[int, int] = TTLCache(PROJECTS, KEPT_S, lambda: site.env.now)
        self.jobs, self.label_studio_asked, self.busy_s = 0, 0, 0.0

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    def is_far_enough(self, project: "SimulatedProject", after: int) -> bool:
        """Whether enough tasks after this one are predicted."""
        return self._predicted.get(project.id, after) - after > AHEAD_TASKS // 2

    def enqueue(self, project: "SimulatedProject", after: int) -> None:
        """Queue a job, unless one of the project waits."""
        self._waiting.setdefault(project.id, (project, after))
        if self._idle:
            self._idle -= 1
            self._site.env.process(self._work())

    def _work(self) -> Steps:
        while self._waiting:
            _, (project, after) = self._waiting.popitem(last=False)
            began_s = self._site.env.now
            self.jobs += 1
            yield from self._predict_ahead(project, after)
            self.busy_s += self._site.env.now - began_s
        self._idle += 1

    def _predict_ahead(self, project: "SimulatedProject", after: int) -> Steps:
        site = self._site
        yield site.env.timeout(site.costs.lookahead_s)
        if self.is_far_enough(project, after):
            return
        self.label_studio_asked += 1
        yield site.env.timeout(site.costs.label_studio_s)
        first = max(after, self._predicted.get(project.id, after)) + 1
        tasks = range(first, after + 1 + AHEAD_TASKS)
        if not tasks:
            return
        yield from site.ask(project, tasks, Priority.LOOKAHEAD)
        yield from site.ask(project, tasks, Priority.LOOKAHEAD)  # the vectors, which the replica remembers
        yield site.postgres.visit(site.costs.postgres_ahead_s)
        yield site.flushes.commit()
        self._predicted[project.id] = max(tasks[-1], self._predicted.get(project.id, 0))
