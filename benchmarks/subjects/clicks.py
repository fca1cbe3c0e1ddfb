"""Clicks with a smart tool: with and without looking ahead, beside a bulk run, and the memory of embeddings.

Requests are those of Label Studio: /predict with the context of a smart key point, one client. Looked ahead
means that the task was opened before, or predicted by the look-ahead, so that the picture's embedding is in
memory. The models are the demo's, and SAM 2.1 hiera tiny, the default, with random weights. Beside a bulk run
means that an OWLv2 finds boxes with the priority of bulk runs, without a break; a step is one forward pass of
it.
"""

import io
import itertools
import threading
import time
from base64 import b64encode
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any

import httpx
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families

from benchmarks import servers
from benchmarks.costs import Costs, read_costs
from benchmarks.drawn_tasks import project_key
from benchmarks.models import owlv2, sam2
from benchmarks.plan import Plan
from benchmarks.question import BOXES_CONFIG
from benchmarks.rows import Goal, Row, percentile, row_of
from lorabel.demo import DETECTOR_FOLDER, SEGMENTER_FOLDER
from lorabel.demo.mask_scenes import MaskScene, mask_scenes
from lorabel.errors import LorabelError
from lorabel.families.cache import EMBEDDINGS
from lorabel.inference.messages import PredictRow, Priority
from lorabel.inference.model_client import ModelClient
from lorabel.labeling.bit_masks import inner_point
from lorabel.problems.binding import bind
from tests.e2e.lorabel_processes import Lorabel

LABEL_CONFIG = (
    '<View><Image name="image" value="$image"/>'
    '<BrushLabels name="mask" toName="image"><Label value="Thing"/></BrushLabels>'
    '<KeyPointLabels name="click" toName="image" smart="true"><Label value="Thing"/></KeyPointLabels></View>'
)
FAMILY = "segmenter"
# A picture that is opened is asked about masks of what the labels name, too.
DETECTOR = {"MODEL_DETECTOR": f"local-dir:{DETECTOR_FOLDER}", "FAMILIES": "segmenter,detector"}
SEED, SIDE_PX = 4711, 1024
# Pictures that are clicked on without looking ahead, and as many with.
PICTURES, QUICK_PICTURES, LARGE_PICTURES = 40, 6, 6
LATER_CLICKS = 4
CLICKS_BESIDE = 100
PAUSE_S = 0.05
BULK_ROWS, BULK_PROJECT, BULK_TIMEOUT_S = 32, 4711, 600.0
LEAST_BULK_STEPS = 3
GOAL, STEPS_GOAL = Goal("<=", 150.0), Goal("<=", 1.0)
TINY, LARGE = "tiny SAM 2", "SAM 2.1"
BESIDE = "clicks, embedding there, beside a bulk run of detections"


def measure(plan: Plan) -> list[Row]:
    tiny = f"local-dir:{SEGMENTER_FOLDER}"
    rows = _of_model(plan, TINY, tiny, QUICK_PICTURES if plan.is_quick else PICTURES)
    if not plan.is_quick:
        rows += _of_model(plan, LARGE, sam2(plan.folder), LARGE_PICTURES)
        rows += _beside_bulk(plan, tiny)
    return rows


def _of_model(plan: Plan, name: str, model: str, count: int) -> list[Row]:
    """Click on `count` pictures without looking ahead, and on as many with."""
    scenes = list(islice(mask_scenes(SEED, SIDE_PX), 2 * count + 1))
    times: defaultdict[str, list[float]] = defaultdict(list)
    with _annotator(plan, {"MODEL_SEGMENTER": model, **DETECTOR}) as (lorabel, annotator):
        annotator.click(0, scenes[0], 0)  # warms up
        for number, scene in enumerate(scenes[1:], start=1):
            is_looked_ahead = number > count
            case = "looked ahead" if is_looked_ahead else "not looked ahead"
            if is_looked_ahead:
                annotator.open(number, scene)
            times[f"first click, {case}"].append(annotator.click(number, scene, 0))
            for click in range(1, LATER_CLICKS + 1):
                times[f"later clicks, {case}"].append(annotator.click(number, scene, click))
        embeddings_mb = _embeddings_mb(lorabel)
    capacity_mb = plan.settings.embeddings_memory_mb
    return [
        *(row for case, samples in times.items() for row in _rows(name, case, samples)),
        Row(f"{name}: embeddings of {len(scenes)} pictures", embeddings_mb, "MB"),
        Row(
            f"{name}: pictures whose embeddings fit into EMBEDDINGS_MEMORY_MB={capacity_mb}",
            capacity_mb * len(scenes) // embeddings_mb,
            "",
        ),
    ]


def _rows(name: str, case: str, samples: Sequence[float]) -> list[Row]:
    """The goal is for the demo's model, when the embedding is there and nothing else is computed."""
    has_goal = name == TINY and case != BESIDE and not case.startswith("first click, not")
    note = f"picture of {SIDE_PX} x {SIDE_PX}, sent with the request"
    return [
        row_of(f"{name}: {case}: p50", samples, "ms", GOAL if has_goal else None, note),
        Row(f"{name}: {case}: p95", percentile(samples, 0.95), "ms"),
    ]


def _beside_bulk(plan: Plan, model: str) -> list[Row]:
    """Click on pictures whose embeddings are there: alone, and beside a bulk run of detections."""
    scenes = list(islice(mask_scenes(SEED, SIDE_PX), QUICK_PICTURES))
    with servers.photo_server() as photos:
        variables = {
            "MODEL_SEGMENTER": model,
            "MODEL_DETECTOR": owlv2(plan.folder),
            "FAMILIES": f"{FAMILY},detector",
            "MEDIA_ALLOWED_HOSTS": photos.removeprefix("http://"),
        }
        with _annotator(plan, variables) as (lorabel, annotator):
            for number, scene in enumerate(scenes):
                annotator.open(number, scene)
            alone, alone_costs = _clicks(lorabel, annotator, scenes)
            with _bulk_run(lorabel, photos):
                beside, beside_costs = _clicks(lorabel, annotator, scenes)
    own_s = alone_costs.forward_s / alone_costs.batches
    steps = beside_costs.batches - len(beside)
    step_ms = 1000 * (beside_costs.forward_s - len(beside) * own_s) / steps
    p50, p95 = (percentile(beside, share) - percentile(alone, share) for share in (0.5, 0.95))
    return [
        *_rows(TINY, "clicks, embedding there, nothing else", alone),
        *_rows(TINY, BESIDE, beside),
        Row("step of the bulk run: mean", step_ms, "ms", note=f"OWLv2, {steps:.0f} steps"),
        Row("delay of a click by the bulk run: p50, in steps", p50 / step_ms, "x", goal=STEPS_GOAL),
        Row("delay of a click by the bulk run: p95, in steps", p95 / step_ms, "x", goal=STEPS_GOAL),
    ]


@contextmanager
def _annotator(plan: Plan, variables: Mapping[str, str]) -> Iterator[tuple[Lorabel, "Annotator"]]:
    with (
        servers.lorabel(plan, variables) as lorabel,
        httpx.Client(base_url=lorabel.url, trust_env=False, timeout=60.0) as client,
    ):
        yield lorabel, Annotator(client)


def _clicks(lorabel: Lorabel, annotator: "Annotator", scenes: Sequence[MaskScene]) -> tuple[list[float], Costs]:
    """Returns the milliseconds of each of CLICKS_BESIDE clicks, and what was spent meanwhile."""
    before = read_costs(lorabel)
    times = []
    for click in range(CLICKS_BESIDE):
        number = click % len(scenes)
        times.append(annotator.click(number, scenes[number], click))
        time.sleep(PAUSE_S)
    return times, read_costs(lorabel) - before


@contextmanager
def _bulk_run(lorabel: Lorabel, photos: str) -> Iterator[None]:
    """Have boxes found on new photographs during the block, as a bulk run asks for them.

    Raises:
        RuntimeError: a photograph got no answer.
    """
    (problem,) = bind(BOXES_CONFIG).bindings
    client, stop, failed = ModelClient(lorabel.settings), threading.Event(), list[str]()
    numbers = itertools.count()

    def run() -> None:
        while not stop.is_set():
            urls = [f"{photos}/{next(numbers)}.jpg" for _ in range(BULK_ROWS)]
            questions = [problem.model_input({"image": url}) for url in urls]
            rows = [PredictRow(kind=each.kind, input=each.model_dump()) for each in questions]
            try:
                answers = client.predict(rows, BULK_TIMEOUT_S, BULK_PROJECT, Priority.BULK, stop.is_set)
            except LorabelError as error:
                if not stop.is_set():
                    failed.append(str(error))
                return
            failed.extend(answer.error.reason for answer in answers if answer.error is not None)

    # Two requests at a time, so that rows always wait.
    threads = [threading.Thread(target=run) for _ in range(2)]
    before = read_costs(lorabel).batches
    for thread in threads:
        thread.start()
    try:
        while read_costs(lorabel).batches < before + LEAST_BULK_STEPS and not failed:
            time.sleep(PAUSE_S)
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()
        client.close()
    if failed:
        raise RuntimeError(f"the bulk run broke off: {failed[0]}")


def _embeddings_mb(lorabel: Lorabel) -> float:
    answer = httpx.get(f"{lorabel.settings.model_server_url}/metrics", trust_env=False).raise_for_status()
    wanted = {"family": FAMILY, "kind": EMBEDDINGS}
    (stored,) = (
        sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
        if sample.name == "lorabel_memo_bytes" and sample.labels == wanted
    )
    return stored / 2**20


class Annotator:
    """Opens pictures and clicks on the things in them."""

    def __init__(self, client: httpx.Client) -> None:
        self._client, self._project = client, project_key()
        self._urls: dict[int, str] = {}

    def open(self, number: int, scene: MaskScene) -> None:
        self._predict(number, scene, None)

    def click(self, number: int, scene: MaskScene, click: int) -> float:
        """Click on a thing. Returns the milliseconds until the mask is there."""
        x, y = inner_point(scene.masks[click % len(scene.masks)])
        value = {"x": 100 * x, "y": 100 * y, "width": 0.2, "keypointlabels": ["Thing"]}
        region = {"from_name": "click", "to_name": "image", "type": "keypointlabels", "value": value}
        context = {"result": [{**region, "is_positive": True, "original_width": SIDE_PX}]}
        self._url(number, scene)  # not part of the time
        began = time.perf_counter()
        entry = self._predict(number, scene, context)
        passed_ms = 1000 * (time.perf_counter() - began)
        if not entry["result"]:
            raise RuntimeError(f"picture {number} got no mask")
        return passed_ms

    def _predict(self, number: int, scene: MaskScene, context: Any) -> dict[str, Any]:
        task = {"id": number, "data": {"image": self._url(number, scene)}, "project": 1}
        body = {
            "project": self._project,
            "tasks": [task],
            "label_config": LABEL_CONFIG,
            "params": {"context": context},
        }
        answer = self._client.post("/predict", json=body).raise_for_status().json()
        return dict(answer["results"][0])

    def _url(self, number: int, scene: MaskScene) -> str:
        if number not in self._urls:
            file = io.BytesIO()
            Image.fromarray(scene.pixels).save(file, "JPEG", quality=90)
            self._urls[number] = f"data:image/jpeg;base64,{b64encode(file.getvalue()).decode()}"
        return self._urls[number]
