"""What a task costs outside the model.

Backend, model server and workers as `lorabel up` starts them, with a model that computes next to nothing but reads
pictures of the usual 224 px (`benchmarks/models.py`): what is left is fetching, decoding, HTTP, the database and
the queues. The CPU time of a task is summed over all of our processes from Linux' /proc, so it means the same on a
machine that other people use, too; tasks per second and the median need an idle one.

The device's thread has two figures for each task: the time that it holds batches outside forward passes, and the
time of its batches, forward passes included, in which it does not run. With this model that is waiting for the GIL
or for a core.
"""

from benchmarks import servers
from benchmarks.costs import Costs, read_costs
from benchmarks.load import Load, Measured, blocks_of_numbers, offer
from benchmarks.models import weightless
from benchmarks.plan import Plan
from benchmarks.rows import Goal, Row, row_of

ALONE, MANY, LARGE = Load(1), Load(32), Load(4, 100)
CPU_MS = {MANY: Goal("<=", 5.0), LARGE: Goal("<=", 2.5)}
TASKS_PER_SECOND = {MANY: Goal(">=", 350.0), LARGE: Goal(">=", 600.0)}
ALONE_MEDIAN = Goal("<=", 8.0)
DEVICE_THREAD = Goal("<=", 0.2)
# Parts that take at least this much CPU time for a task are named.
NAMED_MS = 0.05


def measure(plan: Plan) -> list[Row]:
    blocks = blocks_of_numbers()
    rows: list[Row] = []
    with servers.photo_server() as photos:
        variables = {
            "MODEL_DUAL_ENCODER": weightless(plan.folder),
            "MEDIA_ALLOWED_HOSTS": photos.removeprefix("http://"),
        }
        with servers.lorabel(plan, variables) as lorabel:
            for load in (ALONE, MANY, LARGE):
                before = read_costs(lorabel)
                measured = offer(lorabel.url, photos, load, plan, next(blocks))
                rows += _rows(load, measured, read_costs(lorabel) - before)
    return rows


def _rows(load: Load, measured: Measured, costs: Costs) -> list[Row]:
    cpu_ms = {part: 1000 * seconds / measured.tasks for part, seconds in costs.cpu_s.items()}
    parts = ", ".join(f"{part} {ms:.1f}" for part, ms in cpu_ms.items() if ms >= NAMED_MS)
    rows = max(1.0, costs.rows)
    batches = f"batches of {costs.rows / costs.batches:.1f}" if costs.batches else ""
    return [
        Row(f"{load.name}: CPU time of a task", sum(cpu_ms.values()), "ms", goal=CPU_MS.get(load), note=parts),
        row_of(load.name, measured.tasks_per_second, "tasks/s", TASKS_PER_SECOND.get(load)),
        row_of(f"{load.name}: p50", measured.median_ms, "ms", ALONE_MEDIAN if load == ALONE else None),
        Row(
            f"{load.name}: device's thread outside forward passes, a task",
            1000 * (costs.device_s - costs.forward_s) / rows,
            "ms",
            note=batches,
        ),
        Row(
            f"{load.name}: device's thread waits for the GIL or a core, a task",
            1000 * (costs.device_s - costs.device_cpu_s) / rows,
            "ms",
            goal=DEVICE_THREAD,
        ),
    ]
