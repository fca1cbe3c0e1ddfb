"""Detections: boxes served against a plain loop of transformers, with the same model in the same run.

Requests are /predict of tasks with ten labels as boxes, over HTTP through backend and model server; every
photograph is new. The loop (`benchmarks/limit.py`) encodes the texts once, decodes ahead in threads, and uses
the best of several precisions and batch sizes. The models are an OWLv2 of the size of ViT-B-32 with random
weights, and the demo's, which computes for some milliseconds only: its figure shows what our part of a request
costs.
"""

from collections.abc import Iterator

from benchmarks import servers
from benchmarks.load import Load, Measured, blocks_of_numbers, offer
from benchmarks.measured_limit import Limit, measure_limit
from benchmarks.models import owlv2
from benchmarks.plan import Plan
from benchmarks.question import BOXES_CONFIG
from benchmarks.rows import Goal, Row, ratio_of, row_of
from lorabel.demo import DETECTOR_FOLDER
from lorabel.families.device import choose_device

FAMILY = "detector"
MANY_TASKS = Load(2, 16)
# In this order: requests for one task count as a person's, for whom other requests get short batches for a minute.
LOADS = {
    f"{MANY_TASKS.name}, no person asks": MANY_TASKS,
    Load(1).name: Load(1),
    Load(16).name: Load(16),
    f"{MANY_TASKS.name}, a person has just asked": MANY_TASKS,
}
QUICK_LOADS = {Load(16).name: Load(16)}
OF_LIMIT = Goal(">=", 0.9)


def measure(plan: Plan) -> list[Row]:
    sources = {"tiny OWLv2": f"local-dir:{DETECTOR_FOLDER}"}
    if not plan.is_quick:
        sources = {"OWLv2": owlv2(plan.folder), **sources}
    blocks = blocks_of_numbers()
    return [row for name, source in sources.items() for row in _of_model(plan, name, source, blocks)]


def _of_model(plan: Plan, name: str, model: str, blocks: Iterator[int]) -> list[Row]:
    device = choose_device(plan.settings).type
    loads = QUICK_LOADS if plan.is_quick else LOADS
    before = measure_limit(plan, FAMILY, model, device)
    with servers.photo_server() as photos:
        variables = {
            "MODEL_DETECTOR": model,
            "FAMILIES": FAMILY,
            "MEDIA_ALLOWED_HOSTS": photos.removeprefix("http://"),
        }
        with servers.lorabel(plan, variables) as lorabel:
            served = {
                load_name: offer(lorabel.url, photos, load, plan, next(blocks), label_config=BOXES_CONFIG)
                for load_name, load in loads.items()
            }
    # The loop is measured before and after, because the machine may get other work in between.
    limit = before + measure_limit(plan, FAMILY, model, device, before.setup)
    return [
        *limit.rows(f"{name}, limit"),
        *(row for load_name, measured in served.items() for row in _rows(name, load_name, measured, limit)),
    ]


def _rows(name: str, load_name: str, measured: Measured, limit: Limit) -> list[Row]:
    """The goal is for a model that computes for longer than a request takes, and for many tasks at a time."""
    refused = f"{measured.refused} times 503" if measured.refused else ""
    goal = OF_LIMIT if name == "OWLv2" and load_name != Load(1).name else None
    return [
        row_of(f"{name}, served, {load_name}", measured.tasks_per_second, "tasks/s", note=refused),
        row_of(f"{name}, served, {load_name}: p50", measured.median_ms, "ms"),
        ratio_of(
            f"{name}, served of limit, {load_name}",
            measured.tasks_per_second,
            limit.images_per_second,
            goal,
        ),
    ]
