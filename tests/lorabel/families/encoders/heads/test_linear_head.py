"""The file of a fitted head."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import load, save

from lorabel.errors import UnreadableError
from lorabel.families.encoders.heads.linear_head import LinearHead
from lorabel.families.encoders.heads.platt import Scale

HEAD = LinearHead(
    np.arange(6, dtype=np.float32).reshape(3, 2),
    np.array([0.5, -1.0], np.float32),
    np.array([1.0, 0.25], np.float32),
    np.array([True, False]),
    expected_error=0.75,
    kind="labels",
    space="dual_encoder a model",
    feature_map="concat",
    slots=("image", "text"),
)
FEATURES, ZERO_SHOT = np.eye(3, dtype=np.float32), np.full((3, 2), 2.0, np.float32)


def test_a_head_that_was_written_and_read_computes_the_same() -> None:
    read = LinearHead.from_bytes(HEAD.to_bytes())
    assert np.array_equal(read.logits(FEATURES, ZERO_SHOT), HEAD.logits(FEATURES, ZERO_SHOT))
    assert read.logits(FEATURES, ZERO_SHOT).tolist() == [[2.5, 0.5], [4.5, 2.5], [6.5, 4.5]]
    assert read.is_learned.tolist() == [True, False]
    for field in ("expected_error", "kind", "space", "feature_map", "slots"):
        assert getattr(read, field) == getattr(HEAD, field)


def test_equal_heads_have_equal_files() -> None:
    assert {HEAD.to_bytes() for _ in range(20)} == {replace(HEAD, weights=HEAD.weights.copy()).to_bytes()}


def test_one_factor_for_all_outputs_is_written_for_each() -> None:
    read = LinearHead.from_bytes(replace(HEAD, zero_shot_weight=0.5).to_bytes())
    assert np.array_equal(read.zero_shot_weight, np.array([0.5, 0.5]))


@pytest.mark.parametrize("length", [0, 4, 8, 60, -1])
def test_a_file_that_was_cut_off_is_refused(length: int) -> None:
    with pytest.raises(UnreadableError, match="no file of a head"):
        LinearHead.from_bytes(HEAD.to_bytes()[:length])


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"bias": np.zeros(3, np.float32)}, "shapes"),
        ({"weights": np.zeros(2, np.float32)}, "shapes"),
        ({"zero_shot_weight": np.zeros((1, 2), np.float32)}, "shapes"),
        ({"weights": np.full((3, 2), np.nan, np.float32)}, "not finite"),
        ({"bias": np.array([np.inf, 0], np.float32)}, "not finite"),
        ({"bias": np.zeros(2, np.float64)}, "float64"),
        ({"more": np.zeros(2, np.float32)}, "more"),
    ],
)
def test_a_file_with_wrong_tensors_is_refused_with_the_reason(changed: dict[str, np.ndarray], reason: str) -> None:
    file = save({**load(HEAD.to_bytes()), **changed}, {"head": _fields()})
    with pytest.raises(UnreadableError, match=reason):
        LinearHead.from_bytes(file)


@pytest.mark.parametrize(
    "metadata",
    [
        None,
        {"other": "{}"},
        {"head": "[]"},
        {"head": "{}"},
        {"head": "no JSON"},
        {"head": '{"expected_error": "much", "kind": "", "space": "", "feature_map": "mean", "slots": []}'},
        {"head": '{"expected_error": NaN, "kind": "", "space": "", "feature_map": "mean", "slots": []}'},
        {"head": '{"expected_error": 0.0, "kind": "", "space": "", "feature_map": "mean", "slots": [1]}'},
    ],
)
def test_a_file_with_wrong_fields_is_refused(metadata: dict[str, str] | None) -> None:
    file = save(load(HEAD.to_bytes()), metadata)
    with pytest.raises(UnreadableError, match="no file of a head"):
        LinearHead.from_bytes(file)


@pytest.mark.parametrize(
    "scales", [[[1.0, 0.0]], [[1.0], [1.0]], [[1.0, "0"], [1.0, 0.0]], [[math.nan, 0.0]] * 2, {}]
)
def test_a_file_with_wrong_scales_of_scores_is_refused(scales: object) -> None:
    fields = {**json.loads(_fields()), "score_scales": scales}
    file = save(load(HEAD.to_bytes()), {"head": json.dumps(fields)})
    with pytest.raises(UnreadableError, match="factor and shift for each label"):
        LinearHead.from_bytes(file)


def test_scales_of_scores_are_read_again() -> None:
    head = replace(HEAD, score_scales=(Scale(0.5, -1.0), Scale()))
    assert LinearHead.from_bytes(head.to_bytes()).score_scales == head.score_scales
    assert b"score_scales" not in HEAD.to_bytes(), "heads without them have the file that they had before"


def _fields() -> str:
    file = HEAD.to_bytes()
    header = json.loads(file[8 : 8 + int.from_bytes(file[:8], "little")])
    return str(header["__metadata__"]["head"])
