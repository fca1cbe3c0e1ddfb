"""The fake model server and the fake Label Studio, in a process of their own: `python -m tests.fake_services`.

It prints their addresses, one a line, and ends when its input ends. `benchmarks/simulation/measured.py` uses it,
which measures the CPU time of its own process.
"""

import base64
import sys
from functools import partial
from typing import Any

import numpy as np

from lorabel.feature_contracts import Features
from lorabel.inference.messages import PredictRow
from tests.backend import fake_model_server
from tests.lorabel.fake_label_studio import FakeLabelStudio, serve
from tests.workers.conftest import add_tasks

# As many features as ViT-B-32 has; and tasks of project 1, which are open.
DIM, TASKS = 512, 5000


def main() -> None:
    label_studio = FakeLabelStudio()
    add_tasks(label_studio, *(f"red-{number}" for number in range(TASKS)))
    with fake_model_server.running() as model_server, serve(label_studio):
        model_server.features = partial(_wide, model_server.features)  # type: ignore[method-assign]
        sys.stdout.write(f"{model_server.url}\n{label_studio.url}\n")
        sys.stdout.flush()
        sys.stdin.read()


def _wide(features_of: Any, row: PredictRow) -> Features:
    """Features with DIM dimensions, in which tasks are as similar to each other as before."""
    narrow: Features = features_of(row)
    vectors = np.frombuffer(base64.b64decode(narrow.float16), "<f2").reshape(-1, narrow.dim).astype(np.float32)
    turned = vectors @ np.linalg.qr(np.random.default_rng(0).normal(size=(DIM, narrow.dim)))[0].T
    float16 = base64.b64encode(turned.astype("<f2").tobytes()).decode()
    return narrow.model_copy(update={"dim": DIM, "float16": float16})


if __name__ == "__main__":
    main()
