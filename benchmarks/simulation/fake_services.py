"""The fake model server and the fake Label Studio of the tests.

They run in a process of their own, whose CPU time is not ours.
"""

import base64
import multiprocessing
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from lorabel.feature_contracts import Features
from lorabel.inference.messages import PredictRow
from tests.backend import fake_model_server
from tests.lorabel.fake_label_studio import FakeLabelStudio, serve
from tests.workers.conftest import add_tasks

# As many features as ViT-B-32 has.
DIM = 512
TASKS = 5000


@contextmanager
def running() -> Iterator[tuple[str, str]]:
    """The addresses of the model server and of Label Studio, whose project 1 has TASKS open tasks."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs,), daemon=True)
    process.start()
    try:
        yield ours.recv()
    finally:
        ours.send(None)
        process.join()


def _serve(connection: Connection) -> None:
    label_studio = FakeLabelStudio()
    add_tasks(label_studio, *(f"red-{number}" for number in range(TASKS)))
    with fake_model_server.running() as model_server, serve(label_studio):
        model_server.features = partial(_wide, model_server.features)  # type: ignore[method-assign]
        connection.send((model_server.url, label_studio.url))
        connection.recv()


def _wide(features_of: Any, row: PredictRow) -> Features:
    """Features with DIM dimensions, in which tasks are as similar to each other as before."""
    narrow: Features = features_of(row)
    vectors = np.frombuffer(base64.b64decode(narrow.float16), "<f2").reshape(-1, narrow.dim).astype(np.float32)
    turned = vectors @ np.linalg.qr(np.random.default_rng(0).normal(size=(DIM, narrow.dim)))[0].T
    float16 = base64.b64encode(turned.astype("<f2").tobytes()).decode()
    return narrow.model_copy(update={"dim": DIM, "float16": float16})
