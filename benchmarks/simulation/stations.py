"""The parts of a queueing network: stations with servers, a disk that is flushed for many, and their use."""

import heapq
from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Any

import simpy
from simpy.events import Event, Timeout

Steps = Generator[Event, Any, None]
"""A process of the simulation: the events that it waits for."""


class Station:
    """So many servers with one queue, first come first served: cores, or processes that hold the GIL.

    The service time of a visit is known when it begins to wait. So its end is known, too, and a visit is a single
    event of the simulation.
    """

    def __init__(self, env: simpy.Environment, servers: int = 1) -> None:
        self._env, self._free_at = env, [0.0] * servers
        self.visits, self.busy_s = 0, 0.0

    def visit(self, service_s: float, servers: int = 1) -> Timeout:
        """Wait for a server, and be served.

        Args:
            servers: how many of them this visit keeps busy.
        """
        start_s = self._env.now
        for _ in range(servers):
            start_s = max(start_s, heapq.heappop(self._free_at))
        for _ in range(servers):
            heapq.heappush(self._free_at, start_s + service_s)
        self.visits += 1
        self.busy_s += service_s * servers
        return self._env.timeout(start_s + service_s - self._env.now)

    @property
    def servers(self) -> int:
        return len(self._free_at)

    @property
    def backlog_s(self) -> float:
        """How long a visit that begins now would wait."""
        return max(0.0, self._free_at[0] - self._env.now)


class Flushes:
    """A log that is flushed for all that wait (PostgreSQL's group commit), one flush at a time."""

    def __init__(self, env: simpy.Environment, flush_s: float) -> None:
        self._env, self._flush_s = env, flush_s
        self._waiting: list[Event] = []
        self._is_flushing = False
        self.flushes = 0

    def commit(self) -> Event:
        """Wait until a flush that begins from now on has ended."""
        done = self._env.event()
        self._waiting.append(done)
        if not self._is_flushing:
            self._is_flushing = True
            self._env.process(self._flush())
        return done

    def _flush(self) -> Steps:
        while self._waiting:
            waiting, self._waiting = self._waiting, []
            self.flushes += 1
            yield self._env.timeout(self._flush_s)
            for done in waiting:
                done.succeed()
        self._is_flushing = False


@dataclass
class Times:
    """Durations in seconds."""

    values: list[float] = field(default_factory=list)

    def percentile_ms(self, share: float) -> float:
        """Nearest rank; 0 without values."""
        if not self.values:
            return 0.0
        ordered = sorted(self.values)
        return 1000 * ordered[min(len(ordered) - 1, int(share * len(ordered)))]

    @property
    def mean_ms(self) -> float:
        return 1000 * sum(self.values) / len(self.values) if self.values else 0.0
