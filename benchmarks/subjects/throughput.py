"""Served against the limit, and against the usual way.

Tasks per second and latency of /predict over HTTP, through backend and model server as `lorabel up` starts them.
They are compared with the model in a plain loop (`benchmarks/limit.py`) and with a backend as people usually write
it (`benchmarks/usual_way.py`). All are measured one after the other, with the same model, the same photographs
from the same server, and the same clients. For each load there is the CPU time that a task takes in our processes,
and how much of the time the model server was in forward passes.
"""

from collections.abc import Iterator, Mapping
from types import MappingProxyType

from benchmarks import servers
from benchmarks.costs import Costs, gpu_memory_mb, read_costs
from benchmarks.load import Load, Measured, blocks_of_numbers, offer
from benchmarks.measured_limit import measure_limit
from benchmarks.models import vit_b_32
from benchmarks.plan import Plan
from benchmarks.rows import Goal, Row, ratio_of, row_of
from lorabel.families.device import choose_device
from tests.e2e.lorabel_processes import Lorabel

FAMILY = "dual_encoder"
# In this order: requests for one task count as a person's, for whom other requests get short batches for a minute.
LOADS: Mapping[str, Load] = MappingProxyType(
    {
        **{f"{load.name}, no person asks": load for load in (Load(4, 32), Load(4, 100))},
        **{load.name: load for load in (Load(1), Load(8), Load(32), Load(128))},
        f"{Load(4, 100).name}, a person has just asked": Load(4, 100),
    }
)
QUICK_LOADS: Mapping[str, Load] = MappingProxyType({load.name: load for load in (Load(1), Load(32))})
REPEATED = 64
ALONE, MANY = Load(1), Load(32)
OF_LIMIT = Goal(">=", 0.9)
TIMES_USUAL = {"cpu": 5.0, "cuda": 10.0}
ALONE_TIMES_USUAL = Goal(">=", 2.0)
TIMES_SAME_PRECISION = Goal(">=", 2.5)
USUAL_PRECISION = "float32"
# Parts that take at least this much CPU time for a task are named.
NAMED_MS = 0.05
# By the name of the load.
Figures = dict[str, Measured]


def measure(plan: Plan) -> list[Row]:
    model = vit_b_32(plan.folder)
    device = choose_device(plan.settings).type
    loads = QUICK_LOADS if plan.is_quick else LOADS
    blocks = blocks_of_numbers()
    before = measure_limit(plan, FAMILY, model, device)
    with servers.photo_server() as photos:
        variables = {
            "MODEL_DUAL_ENCODER": model,
            "MEDIA_ALLOWED_HOSTS": photos.removeprefix("http://"),
        }
        with servers.lorabel(plan, variables) as lorabel:
            served, costs = _served(lorabel, loads, photos, plan, blocks)
            memory_mb = gpu_memory_mb(lorabel)
            repeated = offer(lorabel.url, photos, MANY, plan, next(blocks), repeat=REPEATED)
        # The limit is measured before and after, because the machine may get other work in between.
        limit = before + measure_limit(plan, FAMILY, model, device, before.setup)
        usual = _usual(plan, model, device, USUAL_PRECISION, loads, photos, blocks)
        precision = limit.setup["precision"]
        same_precision = None
        if precision != USUAL_PRECISION and not plan.is_quick:
            same_precision = _usual(plan, model, device, precision, {MANY.name: MANY}, photos, blocks)[MANY.name]
    return [
        *limit.rows(),
        *(row for name, measured in served.items() for row in _rows(f"served, {name}", measured)),
        *(row for name in loads for row in _cost_rows(name, served[name], costs[name])),
        *(Row(f"GPU memory: {part}", megabytes, "MB") for part, megabytes in memory_mb.items()),
        *_rows(f"served, {MANY.name}, the same {REPEATED} pictures again and again", repeated),
        *(row for name, measured in usual.items() for row in _rows(f"usual way, {name}", measured)),
        *(_rows(f"usual way in {precision}, {MANY.name}", same_precision) if same_precision else []),
        *_against_limit(loads, served, limit.images_per_second),
        *_against_usual(served, usual, TIMES_USUAL[device]),
        *(_against_same_precision(served[MANY.name], same_precision, precision) if same_precision else []),
    ]


def _served(
    lorabel: Lorabel, loads: Mapping[str, Load], photos: str, plan: Plan, blocks: Iterator[int]
) -> tuple[Figures, dict[str, Costs]]:
    """Measure each load, and what it costs with its warm-up."""
    served, costs = {}, {}
    for name, load in loads.items():
        before = read_costs(lorabel)
        served[name] = offer(lorabel.url, photos, load, plan, next(blocks))
        costs[name] = read_costs(lorabel) - before
    return served, costs


def _usual(
    plan: Plan,
    model: str,
    device: str,
    precision: str,
    loads: Mapping[str, Load],
    photos: str,
    blocks: Iterator[int],
) -> Figures:
    with servers.usual_way(model, device, precision) as url:
        return {
            load.name: offer(url, photos, load, plan, next(blocks))
            for load in dict.fromkeys(loads.values())  # who has asked before makes no difference to it
        }


def _rows(name: str, measured: Measured) -> list[Row]:
    refused = f"{measured.refused} times 503" if measured.refused else ""
    return [
        row_of(name, measured.tasks_per_second, "tasks/s", note=refused),
        row_of(f"{name}: p50", measured.median_ms, "ms"),
        Row(f"{name}: p99", measured.p99_ms, "ms"),
    ]


def _cost_rows(name: str, measured: Measured, costs: Costs) -> list[Row]:
    cpu_ms = {part: 1000 * seconds / measured.tasks for part, seconds in costs.cpu_s.items()}
    parts = ", ".join(f"{part} {ms:.1f}" for part, ms in cpu_ms.items() if ms >= NAMED_MS)
    batches = f"batches of {costs.rows / costs.batches:.1f}" if costs.batches else ""
    return [
        Row(f"served, {name}: CPU time of a task", sum(cpu_ms.values()), "ms", note=parts),
        Row(f"served, {name}: share in forward passes", costs.forward_s / costs.clock_s, "x", note=batches),
    ]


def _against_limit(loads: Mapping[str, Load], served: Figures, limit: list[float]) -> list[Row]:
    """The goal is for at least 32 tasks at a time, from many clients or in requests of many tasks."""
    return [
        ratio_of(
            f"served of limit, {name}",
            measured.tasks_per_second,
            limit,
            OF_LIMIT if loads[name].clients * loads[name].tasks >= MANY.clients else None,
        )
        for name, measured in served.items()
    ]


def _against_usual(served: Figures, usual: Figures, times: float) -> list[Row]:
    goal = Goal(">=", times)
    return [
        ratio_of(
            f"throughput, times the usual way's, {MANY.name}",
            served[MANY.name].tasks_per_second,
            usual[MANY.name].tasks_per_second,
            goal,
        ),
        _faster(f"p50, usual way's over ours, {MANY.name}", served[MANY.name], usual[MANY.name], goal),
        _faster(
            f"p50, usual way's over ours, {ALONE.name}", served[ALONE.name], usual[ALONE.name], ALONE_TIMES_USUAL
        ),
    ]


def _against_same_precision(served: Measured, usual: Measured, precision: str) -> list[Row]:
    name = f"throughput, times the usual way's in {precision}, {MANY.name}"
    return [ratio_of(name, served.tasks_per_second, usual.tasks_per_second, TIMES_SAME_PRECISION)]


def _faster(name: str, ours: Measured, theirs: Measured, goal: Goal) -> Row:
    """Their median latency over ours. The spread is that of their windows."""
    return ratio_of(name, theirs.median_ms, ours.median_ms, goal)
