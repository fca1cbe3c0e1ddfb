"""A model server over real HTTP that answers from the picture's address, without any model.

`.../red0.png` shows the label `red`; an address with `forbidden` in it cannot be read for now, one with
`broken` in it never.
"""

import base64
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from flask import Flask, Response, request
from werkzeug.serving import make_server

from lorabel.contracts import (
    Embedding,
    EmbedInput,
    Estimate,
    ItemScores,
    LabelsInput,
    RankingInput,
    RatingInput,
    SpanScores,
    SpansInput,
)
from lorabel.inference.disconnect import is_disconnected
from lorabel.inference.messages import (
    ModelsResponse,
    PredictRequest,
    PredictResponse,
    PredictRow,
    PreloadRequest,
    RowError,
    RowResult,
)

# What nobody has been taught.
SILENT = {SpansInput.kind: SpanScores(spans=()), RatingInput.kind: Estimate(), RankingInput.kind: ItemScores()}
SURE = 0.9
AXES = ("red", "blue", "green", "circle", "star")


class FakeModelServer:
    """`rows` are those asked for so far. `status` other than 200 refuses from request `fails_from` on.

    `embedded` are rows of kind "embed", which are in no other attribute; `space` is where they lie.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.rows: list[PredictRow] = []
        self.requests: list[PredictRequest] = []
        self.preloaded: list[str] = []
        self.status = 200
        self.fails_from = 0
        self.wait_s = 0.0
        self.hung_up = 0
        self.outputs: dict[str, Any] = {}
        self.embedded: list[PredictRow] = []
        self.space = "fake one"

    def predict(self) -> Response:
        asked = PredictRequest.model_validate_json(request.get_data())
        if asked.rows[0].kind == EmbedInput.kind:
            return self.embed(asked)
        time.sleep(self.wait_s)
        self.hung_up += is_disconnected(request.environ["werkzeug.socket"])
        self.requests.append(asked)
        if self.status != 200 and len(self.requests) > self.fails_from:
            return Response("no", self.status, {"Retry-After": "7"})
        self.rows += asked.rows
        answer = PredictResponse(rows=[self.answer(row) for row in asked.rows])
        # As Python writes it: NaN too, which pydantic would make null.
        return Response(json.dumps(answer.model_dump()), content_type="application/json")

    def embed(self, asked: PredictRequest) -> Response:
        """A picture lies where the words in its address do."""
        self.embedded += asked.rows
        answer = PredictResponse(rows=[self.place(row) for row in asked.rows])
        return Response(answer.model_dump_json(), self.status, content_type="application/json")

    def place(self, row: PredictRow) -> RowResult:
        (content,) = row.input["contents"]
        shown = content["text"] or content["media"]["url"].rsplit("/", 1)[-1]
        if "broken" in shown or "forbidden" in shown:
            return RowResult(error=RowError(reason="no picture", is_permanent="broken" in shown))
        vector = np.array([0.1, *(float(axis in shown) for axis in AXES)])
        float16 = (vector / np.linalg.norm(vector)).astype("<f2").tobytes()
        found = Embedding(space=self.space, float16=base64.b64encode(float16).decode())
        return RowResult(output=found.model_dump())

    def preload(self) -> Response:
        self.preloaded += PreloadRequest.model_validate_json(request.get_data()).adapters
        return Response("{}", self.status, content_type="application/json")

    def models(self) -> Response:
        answer = ModelsResponse(
            device="cpu", precision="float32", max_batch=64, families=[], adapters=[], adapter_bytes=0
        )
        return Response(answer.model_dump_json(), content_type="application/json")

    def answer(self, row: PredictRow) -> RowResult:
        (content, *_) = row.input["contents"]
        url = content["text"] if content["media"] is None else content["media"]["url"]
        for part, output in self.outputs.items():
            if part in url:
                return RowResult(output=output)
        if "forbidden" in url:
            return RowResult(error=RowError(reason=f"{url}: 403", is_permanent=False))
        if "broken" in url:
            return RowResult(error=RowError(reason=f"{url}: no picture", is_permanent=True))
        if row.kind != LabelsInput.kind:
            return RowResult(output=SILENT[row.kind].model_dump())
        return RowResult(output={"probabilities": _scores(url, [texts[0] for texts in row.input["labels"]])})


def _scores(url: str, texts: list[str]) -> list[float]:
    name = url.rsplit("/", 1)[-1]
    shown = next((i for i, text in enumerate(texts) if text in name), 0)
    rest = (1 - SURE) / max(1, len(texts) - 1)
    return [SURE if i == shown else rest for i in range(len(texts))]


@contextmanager
def running() -> Iterator[FakeModelServer]:
    app = Flask("fake-model-server")
    server = make_server("127.0.0.1", 0, app, threaded=True)
    fake = FakeModelServer(f"http://127.0.0.1:{server.server_port}")
    app.add_url_rule("/v1/predict", view_func=fake.predict, methods=["POST"])
    app.add_url_rule("/v1/preload", view_func=fake.preload, methods=["POST"])
    app.add_url_rule("/v1/models", view_func=fake.models)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield fake
    server.shutdown()
    thread.join()
    server.server_close()
