"""The check of the simulation: one machine, loaded by clients without pauses, against what was measured on it.

Two figures of the measurement set it up: how fast the forward passes are alone, and how long one client waits.
What it then says for more clients, and for requests of many tasks, is compared with the same benchmark.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import simpy

from benchmarks.simulation.stations import Station

SIMULATED_S = 60.0
MAX_BATCH = 64
LOADS = ((1, 1), (8, 1), (32, 1), (128, 1), (4, 32), (4, 100))
FORWARD = "limit without decoding: forward passes alone"
LOOP = "limit: plain loop over JPEGs in memory"


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
        other_s: everything else, of the cores too.
        alone_s: what a request takes longer than these two if nothing else is there.
    """

    row_s: float
    other_s: float
    alone_s: float


def calibrated(figures: Mapping[str, float]) -> OneMachine:
    """From the limit with and without decoding, and from one client's latency."""
    row_s = 1 / figures[FORWARD]
    other_s = max(0.0, 1 / figures[LOOP] - row_s) + 1 / figures[LOOP] / 10
    alone_s = figures["served, 1 client: p50"] / 1000 - row_s - other_s
    return OneMachine(row_s, other_s, max(0.0, alone_s))


def name_of(clients: int, tasks: int) -> str:
    start = f"served, {clients} client{'s' if clients > 1 else ''}"
    return start if tasks == 1 else f"{start}, {tasks} tasks a request"


def compare(
    figures: Mapping[str, float], loads: Sequence[tuple[int, int]] = LOADS
) -> Iterator[Compared]:
    machine = calibrated(figures)
    for clients, tasks in loads:
        name = name_of(clients, tasks)
        if name in figures:
            rate, p50_ms = simulate(machine, clients, tasks)
            yield Compared(name, rate, figures[name], p50_ms, figures[f"{name}: p50"])


def simulate(machine: OneMachine, clients: int, tasks: int, seconds: float = SIMULATED_S) -> tuple[float, float]:
    """Tasks a second, and the median latency in ms, of clients that ask again as soon as they are answered."""
    env = simpy.Environment()
    cores, waiting, latencies = Station(env), [], []  # type: ignore[var-annotated]
    wake = [env.event()]

    def client():  # type: ignore[no-untyped-def]
        while True:
            began_s = env.now
            yield env.timeout(machine.alone_s)
            yield cores.visit(machine.other_s * tasks)
            rows = [env.event() for _ in range(tasks)]
            waiting.extend(rows)
            if not wake[0].triggered:
                wake[0].succeed()
            yield env.all_of(rows)
            latencies.append(env.now - began_s)

    def device():  # type: ignore[no-untyped-def]
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
