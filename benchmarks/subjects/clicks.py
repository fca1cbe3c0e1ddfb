"""Clicks with a smart tool: the first on a picture and later ones, with and without looking ahead.

Requests are those of Label Studio: /predict with the context of a smart key point, one client, the demo model.
Looked ahead means that the task was opened before, or predicted by the look-ahead, so that the picture's embedding
is in memory.
"""

import io
import time
from base64 import b64encode
from itertools import islice
from typing import Any

import httpx
from PIL import Image

from benchmarks import servers
from benchmarks.drawn_tasks import project_key
from benchmarks.plan import Plan
from benchmarks.rows import Goal, Row, percentile, row_of
from lorabel.demo import DETECTOR_FOLDER, SEGMENTER_FOLDER
from lorabel.demo.mask_scenes import MaskScene, mask_scenes
from lorabel.labeling.bit_masks import inner_point

LABEL_CONFIG = (
    '<View><Image name="image" value="$image"/>'
    '<BrushLabels name="mask" toName="image"><Label value="Thing"/></BrushLabels>'
    '<KeyPointLabels name="click" toName="image" smart="true"><Label value="Thing"/></KeyPointLabels></View>'
)
SEED, SIDE_PX = 4711, 1024
PICTURES, QUICK_PICTURES = 40, 6
LATER_CLICKS = 4
GOAL = Goal("<=", 150.0)


def measure(plan: Plan) -> list[Row]:
    count = QUICK_PICTURES if plan.is_quick else PICTURES
    scenes = list(islice(mask_scenes(SEED, SIDE_PX), 2 * count + 1))
    variables = {
        "MODEL_SEGMENTER": f"local-dir:{SEGMENTER_FOLDER}",
        "MODEL_DETECTOR": f"local-dir:{DETECTOR_FOLDER}",
        "FAMILIES": "segmenter,detector",
    }
    times: dict[str, list[float]] = {}
    with (
        servers.lorabel(plan, variables) as lorabel,
        httpx.Client(base_url=lorabel.url, trust_env=False, timeout=60.0) as client,
    ):
        annotator = Annotator(client)
        annotator.click(0, scenes[0], 0)  # warms up
        for number, scene in enumerate(scenes[1:], start=1):
            is_looked_ahead = number > count
            if is_looked_ahead:
                annotator.open(number, scene)
            case = "looked ahead" if is_looked_ahead else "not looked ahead"
            times.setdefault(f"first click, {case}", []).append(annotator.click(number, scene, 0))
            for click in range(1, LATER_CLICKS + 1):
                times.setdefault(f"later clicks, {case}", []).append(annotator.click(number, scene, click))
    return [row for name, samples in times.items() for row in _rows(name, samples)]


def _rows(name: str, samples: list[float]) -> list[Row]:
    goal = None if name.startswith("first click, not") else GOAL
    note = f"picture of {SIDE_PX} x {SIDE_PX}, sent with the request"
    return [
        row_of(f"{name}: p50", samples, "ms", goal, note),
        Row(f"{name}: p95", percentile(samples, 0.95), "ms"),
    ]


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
