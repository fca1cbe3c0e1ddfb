"""A check of the method: one machine, loaded by clients without pauses, against what was measured on it.

It is a model of its own, of which `site.py` shares only the station: replicas, proxies, workers and the database
are compared with nothing here.

Three kinds of figures set it up: how fast forward passes are alone, how long one client waits, and the CPU time of
a task outside the model. Decision 48 measured the latter with 32 clients and with 4 clients of 100 tasks, and
where cores are full, tasks a second follow from it. So the rows of these three loads are set by the calibration,
and only 8 clients, 128 clients and 4 clients of 32 tasks are a check.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import simpy
from simpy.events import Event

from benchmarks.simulation.stations import Station, Steps

SIMULATED_S = 60.0
MAX_BATCH = 64
LOADS = ((1, 1), (8, 1), (32, 1), (128, 1), (4, 32), (4, 100))
FORWARD = "limit without decoding: forward passes alone"
# Decision 48, "before": CPU seconds of a task outside the model, in requests of one task and of many. Two cores.
ONE_TASK_CPU_S, MANY_TASKS_CPU_S, CORES = 0.017, 0.0105, 2


@dataclass(frozen=True)
class Compared:
    """Served tasks a second, and the median latency, simulated and measured."""

    name: str
    simulated: float
    measured: float
    simulated_p50_ms: float
    measured_p50_ms: float


@dataclass(frozen=True)
class OneMachine:
    """What a task costs on a machine without a GPU, in seconds of all its cores together.

    Args:
        row_s: of the forward pass of a row in a large batch; the pass uses all cores.
        one_other_s, many_other_s: everything else, in requests of one task and of many.
        alone_s: what a request takes longer than these two if nothing else is there.
    """

    row_s: float
    one_other_s: float
    many_other_s: float
    alone_s: float


def calibrated(figures: Mapping[str, float]) -> OneMachine:
    """From the limit without decoding, and one client's latency."""
    row_s, one_other_s = 1 / figures[FORWARD], ONE_TASK_CPU_S / CORES
    alone_s = figures[f"{name_of(1, 1)}: p50"] / 1000 - row_s - one_other_s
    return OneMachine(row_s, one_other_s, MANY_TASKS_CPU_S / CORES, max(0.0, alone_s))


def name_of(clients: int, tasks: int) -> str:
    start = f"served, {clients} client{'s' if clients > 1 else ''}"
    return start if tasks == 1 else f"{start}, {tasks} tasks a request, no person asks"


def compare(figures: Mapping[str, float], loads: Sequence[tuple[int, int]] = LOADS) -> Iterator[Compared]:
    machine = calibrated(figures)
    for clients, tasks in loads:
        name = name_of(clients, tasks)
        if name in figures:
            rate, p50_ms = simulate(machine, clients, tasks)
            yield Compared(name, rate, figures[name], p50_ms, figures[f"{name}: p50"])


def simulate(machine: OneMachine, clients: int, tasks: int, seconds: float = SIMULATED_S) -> tuple[float, float]:
    """Tasks a second, and the median latency in ms, of clients that ask again as soon as they are answered."""
    env = simpy.Environment()
    cores = Station(env)
    waiting: list[Event] = []
    latencies: list[float] = []
    wake = [env.event()]
    other_s = machine.one_other_s if tasks == 1 else machine.many_other_s

    def client() -> Steps:
        while True:
            began_s = env.now
            yield env.timeout(machine.alone_s)
            yield cores.visit(other_s * tasks)
            rows = [env.event() for _ in range(tasks)]
            waiting.extend(rows)
            if not wake[0].triggered:
                wake[0].succeed()
            yield env.all_of(rows)
            latencies.append(env.now - began_s)

    def device() -> Steps:
        while True:
            if not waiting:
                wake[0] = env.event()
                yield wake[0]
            batch = waiting[:MAX_BATCH]
            del waiting[:MAX_BATCH]
            yield cores.visit(machine.row_s * len(batch))
            for row in batch:
                row.succeed()

    for _ in range(clients):
        env.process(client())
    env.process(device())
    env.run(until=seconds)
    ordered = sorted(latencies)
    return len(latencies) * tasks / seconds, 1000 * ordered[len(ordered) // 2]
