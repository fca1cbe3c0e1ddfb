"""Rows that name a fitted head, over the model server's HTTP API with the demo model."""

import base64
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from flask import Flask

from lorabel.contracts import LabelsInput
from lorabel.database.adapter_folders import HEAD_FILE, AdapterFolders
from lorabel.demo import MODEL_FOLDER
from lorabel.demo.pictures import COLOURS
from lorabel.families.encoders.heads.linear_head import LinearHead
from lorabel.feature_contracts import Features, FeaturesInput
from lorabel.inference import request_body
from lorabel.inference.messages import PredictRequest, PredictResponse, PredictRow
from lorabel.settings import Settings
from model_server.app import create_app
from tests.questions import about_picture, row
from tests.workers.pictures import data_url, pictures

LABELS = tuple(COLOURS)[:3]
PICTURES = [data_url(picture) for picture in pictures(4, seed=7)]


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Flask]:
    settings = Settings(
        data_dir=tmp_path_factory.mktemp("data"),
        models={"dual_encoder": f"local-dir:{MODEL_FOLDER}"},
        device="cpu",
        precision="float32",
    )
    app = create_app(settings)
    app.extensions["folders"] = AdapterFolders(settings.adapters_dir)
    yield app
    app.extensions["engine"].close()


def predict(app: Flask, rows: list[PredictRow]) -> PredictResponse:
    answer = app.test_client().post(
        "/v1/predict", data=request_body.encode(PredictRequest(rows=rows, timeout_s=60))
    )
    assert answer.status_code == 200, answer.text
    return PredictResponse.model_validate_json(answer.data)


def probabilities(app: Flask, rows: list[PredictRow]) -> np.ndarray:
    outputs = [result.output or {} for result in predict(app, rows).rows]
    return np.array([output["probabilities"] for output in outputs])


def question(picture: str) -> LabelsInput:
    return about_picture(picture, LABELS)


def features(app: Flask) -> list[Features]:
    """What a head is fitted on, of each picture."""
    results = predict(app, [row(FeaturesInput.of(question(picture))) for picture in PICTURES]).rows
    return [Features.model_validate(result.output) for result in results]


def write_head(app: Flask, number: int, space: str, seed: int, dim: int) -> LinearHead:
    generator = np.random.default_rng(seed)
    head = LinearHead(
        weights=generator.normal(0, 5, (dim, len(LABELS))).astype(np.float32),
        bias=generator.normal(0, 1, len(LABELS)).astype(np.float32),
        zero_shot_weight=0.5,
        is_learned=np.ones(len(LABELS), np.bool_),
        kind=LabelsInput.kind,
        space=space,
    )

    def write_into(folder: Path) -> None:
        (folder / "label").mkdir()
        (folder / "label" / HEAD_FILE).write_bytes(head.to_bytes())

    app.extensions["folders"].write(f"p1.h{number}", write_into)
    return head


def expected(head: LinearHead, answers: list[Features]) -> np.ndarray:
    x = np.stack([np.frombuffer(base64.b64decode(answer.float16), "<f2") for answer in answers])
    logits = head.logits(x.astype(np.float32), np.array([answer.logits for answer in answers], np.float32))
    powers = np.exp(logits - logits.max(1, keepdims=True))
    return np.asarray(powers / powers.sum(1, keepdims=True))


def test_each_row_of_a_batch_is_answered_by_its_own_head(app: Flask) -> None:
    answers = features(app)
    heads = [write_head(app, number, answers[0].space, number, answers[0].dim) for number in (1, 2)]
    zero_shot = probabilities(app, [row(question(picture)) for picture in PICTURES])
    names = ["p1.h1/label", None, "p1.h2/label", "p1.h1/label"]
    rows = [row(question(picture), head=name) for picture, name in zip(PICTURES, names, strict=True)]
    for turn in ("computed", "from the cache"):
        mixed = probabilities(app, rows)
        for index, head in ((0, heads[0]), (2, heads[1]), (3, heads[0])):
            assert mixed[index] == pytest.approx(expected(head, answers)[index], abs=5e-3), turn
        assert mixed[1].tolist() == zero_shot[1].tolist(), "bit for bit"


def test_a_head_that_is_gone_or_of_another_base_model_is_left_out_and_counted(app: Flask) -> None:
    answers = features(app)
    write_head(app, 7, "another model", 0, answers[0].dim)
    broken = app.extensions["folders"].root / "p1.h8" / "label"
    broken.mkdir(parents=True)
    (broken / HEAD_FILE).write_bytes(b"no head")
    zero_shot = probabilities(app, [row(question(PICTURES[0]))])
    for count, name in enumerate(("p1.h99/label", "p1.h7/label", "p1.h8/label", "../../etc/passwd"), start=1):
        without = probabilities(app, [row(question(PICTURES[0]), head=name)])
        assert without.tolist() == zero_shot.tolist(), name
        metrics = app.test_client().get("/metrics").text
        assert f"lorabel_missing_heads_total {count}.0" in metrics
