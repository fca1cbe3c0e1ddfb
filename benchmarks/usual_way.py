"""A Label Studio backend as people usually write it, for comparison.

    python -m benchmarks.usual_way --model local-dir:FOLDER --device cpu --precision float32 --port 9999

It has one global model and predicts one task after the other in the request's thread, with gunicorn's 8 threads
and open_clip's own preprocessing, like the examples of https://github.com/HumanSignal/label-studio-ml-backend. To
be fair, the model is loaded once, text features are kept, connections are reused, and answers are small.
"""

import argparse
import io
from typing import Any

import open_clip
import requests
import torch
from flask import Flask, request
from gunicorn.app.base import BaseApplication
from PIL import Image
from torch.nn import functional

from benchmarks.question import LABELS

THREADS = 8


def create_app(source: str, device: str, precision: str) -> Flask:
    model, _, preprocess = open_clip.create_model_and_transforms(source)
    model.eval().to(device, getattr(torch, precision))
    tokens = open_clip.get_tokenizer(source)(list(LABELS)).to(device)
    with torch.inference_mode():
        texts = model.encode_text(tokens, normalize=True).T
        scale = model.logit_scale.exp()
    session = requests.Session()
    session.mount("http://", requests.adapters.HTTPAdapter(pool_maxsize=THREADS))
    app = Flask("usual_way")

    def predict_one(task: dict[str, Any]) -> dict[str, Any]:
        image = Image.open(io.BytesIO(session.get(task["data"]["image"], timeout=20).content)).convert("RGB")
        pixels = preprocess(image).unsqueeze(0).to(device, texts.dtype)
        with torch.inference_mode():
            features = functional.normalize(model.encode_image(pixels), dim=-1)
            scores = (scale * features @ texts).float().softmax(-1)[0]
        score, best = scores.max(0)
        region = {
            "from_name": "label",
            "to_name": "image",
            "type": "choices",
            "value": {"choices": [LABELS[int(best)]]},
        }
        return {"result": [region], "score": float(score), "model_version": "usual"}

    @app.get("/health")
    def health() -> dict[str, str]:
        return {"status": "UP"}

    @app.post("/predict")
    def predict() -> dict[str, Any]:
        return {"results": [predict_one(task) for task in request.get_json()["tasks"]]}

    return app


class Server(BaseApplication):  # type: ignore[misc]
    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        super().__init__()

    def load_config(self) -> None:
        for key, value in {
            "bind": f"127.0.0.1:{self._options.port}",
            "threads": THREADS,
            "worker_class": "gthread",
            "timeout": 0,
            "loglevel": "error",
            "keepalive": 75,
            "control_socket_disable": True,
        }.items():
            self.cfg.set(key, value)

    def load(self) -> Flask:
        return create_app(self._options.model, self._options.device, self._options.precision)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--device", required=True)
    parser.add_argument("--precision", required=True)
    parser.add_argument("--port", type=int, required=True)
    Server(parser.parse_args()).run()


if __name__ == "__main__":
    main()
