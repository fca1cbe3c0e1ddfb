"""The model server's HTTP API with the demo model: right predictions, clear errors."""

import base64
import io
import socket
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from flask.testing import FlaskClient
from numpy.typing import NDArray
from PIL import Image
from werkzeug.serving import make_server

from lorabel.contracts import Content, Embedding, EmbedInput, MediaRef, Modality
from lorabel.demo import MODEL_FOLDER
from lorabel.demo.pictures import COLOURS, Picture
from lorabel.families.text_encoder import TextEncoder
from lorabel.inference import request_body
from lorabel.inference.disconnect import is_disconnected
from lorabel.inference.messages import (
    FamilyPart,
    FamilyQuestion,
    ModelsResponse,
    PredictRequest,
    PredictResponse,
    PredictRow,
    Priority,
    RowResult,
)
from lorabel.inference.model_client import ModelClient
from lorabel.inference.requests import PredictionCaller, send
from lorabel.settings import Settings
from model_server.app import ARRIVED_AT, IS_CLIENT_GONE, _predict, create_app
from tests import questions
from tests.model_server.slow_pictures import slow_pictures
from tests.questions import about_picture
from tests.serving import serving
from tests.workers.pictures import data_url, pictures


@pytest.fixture(scope="module")
def slow() -> Iterator[str]:
    with slow_pictures() as url:
        yield url


@pytest.fixture(scope="module")
def client(slow: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[FlaskClient]:
    settings = Settings(
        data_dir=tmp_path_factory.mktemp("data"),
        models={"dual_encoder": f"local-dir:{MODEL_FOLDER}"},
        device="cpu",
        precision="float32",
        max_request_mb=1,
        media_allowed_hosts=slow.removeprefix("http://"),
    )
    app = create_app(settings)
    yield app.test_client()
    app.extensions["engine"].close()


def row(url: str, texts: tuple[str, ...] = tuple(COLOURS), adapter: str | None = None) -> PredictRow:
    return questions.row(about_picture(url, texts), adapter=adapter)


def predict(client: FlaskClient, rows: list[PredictRow]) -> PredictResponse:
    body = request_body.encode(PredictRequest(rows=rows, timeout_s=60))
    answer = client.post("/v1/predict", data=body)
    assert answer.status_code == 200, answer.text
    return PredictResponse.model_validate_json(answer.data)


def noisy_picture(seed: int) -> str:
    """A data URL of about 160 kB."""
    pixels = np.random.default_rng(seed).integers(0, 256, (200, 200, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


@contextmanager
def served(client: FlaskClient) -> Iterator[str]:
    """Serve the client's app over HTTP; yields its address."""
    server = make_server("127.0.0.1", 0, client.application, threaded=True)
    with serving(server):
        yield f"http://127.0.0.1:{server.server_port}"


def test_colours_of_drawn_pictures_are_recognised_without_training(client: FlaskClient) -> None:
    drawn = pictures(40, seed=123)
    results = predict(client, [row(data_url(picture)) for picture in drawn]).rows
    guesses = []
    for result in results:
        assert result.output is not None
        scores = result.output["probabilities"]
        assert sum(scores) == pytest.approx(1.0, abs=1e-3)
        guesses.append(tuple(COLOURS)[scores.index(max(scores))])
    right = sum(guess == picture.colour for guess, picture in zip(guesses, drawn, strict=True))
    assert right >= 36


def test_a_broken_picture_and_a_missing_adapter_are_errors_of_their_rows(client: FlaskClient) -> None:
    good = data_url(pictures(1)[0])
    results = predict(
        client, [row("data:image/png;base64,AAAA"), row(good), row(good, adapter="p1.v9/label")]
    ).rows
    assert [result.output is not None for result in results] == [False, True, False]
    assert results[0].error is not None and results[0].error.is_permanent
    assert results[2].error is not None and "'p1.v9/label' is not in" in results[2].error.reason


def test_v1_models_describes_what_is_loaded(client: FlaskClient) -> None:
    models = ModelsResponse.model_validate_json(client.get("/v1/models").data)
    assert (models.device, models.precision, models.adapters) == ("cpu", "float32", [])
    assert [family.name for family in models.families] == ["dual_encoder"]
    assert models.families[0].lora_layers > 20


def test_metrics_count_the_rows(client: FlaskClient) -> None:
    predict(client, [row(data_url(pictures(1)[0]))])
    text = client.get("/metrics").text
    assert 'lorabel_rows_total{outcome="ok",priority="interactive"}' in text
    assert "lorabel_batch_rows_bucket" in text


def metric(client: FlaskClient, name: str) -> float:
    """The sum of the metric's lines that begin with `name`."""
    return sum(
        float(line.split()[-1]) for line in client.get("/metrics").text.splitlines() if line.startswith(name)
    )


def test_a_second_prediction_of_a_picture_runs_no_model(client: FlaskClient) -> None:
    rows = [row(data_url(picture)) for picture in pictures(3, seed=5)]
    first = predict(client, rows)
    batches = metric(client, "lorabel_batch_rows_count")
    assert predict(client, rows) == first
    assert metric(client, "lorabel_batch_rows_count") == batches
    assert metric(client, 'lorabel_memo_hits_total{family="dual_encoder",kind="features"}') >= 3


def test_rows_are_cancelled_when_the_client_closes_its_connection() -> None:
    """The closed socket is noticed, the rows leave the queue, and the thread is free for other requests."""
    server_end, client_end = socket.socketpair()
    futures: list[Future[RowResult]] = [Future(), Future()]
    engine = SimpleNamespace(submit=lambda _: futures)
    request = PredictRequest(rows=[row("x"), row("y")], timeout_s=30)
    with ThreadPoolExecutor(1) as threads:
        answer = threads.submit(_predict, engine, request, lambda: is_disconnected(server_end))  # type: ignore[arg-type]
        futures[0].set_result(RowResult(output={"a": 1}))
        wait([answer], timeout=0.5)
        assert not answer.done()
        client_end.close()
        rows = answer.result(5).rows
    assert (rows[0].output, futures[1].cancelled()) == ({"a": 1}, True)
    server_end.close()


def test_a_caller_without_a_socket_can_tell_that_the_client_has_gone(client: FlaskClient, slow: str) -> None:
    gone = Event()
    body = PredictRequest(rows=[row(f"{slow}/3000/1.png")], timeout_s=60).model_dump_json()
    with ThreadPoolExecutor(1) as threads:
        answer = threads.submit(
            client.post, "/v1/predict", data=body, environ_overrides={IS_CLIENT_GONE: gone.is_set}
        )
        wait([answer], timeout=0.5)
        assert not answer.done()
        gone.set()
        result = PredictResponse.model_validate_json(answer.result(1.5).data).rows[0]
    assert result.error is not None and "not ready" in result.error.reason


def test_the_time_that_a_request_has_waited_is_subtracted_from_its_timeout(client: FlaskClient, slow: str) -> None:
    started = time.monotonic()
    body = PredictRequest(rows=[row(f"{slow}/6000/2.png")], timeout_s=60).model_dump_json()
    answer = client.post("/v1/predict", data=body, environ_overrides={ARRIVED_AT: started - 60})
    result = PredictResponse.model_validate_json(answer.data).rows[0]
    assert result.error is not None and not result.error.is_permanent
    assert time.monotonic() - started < 3


def embedding_row(**content: Any) -> PredictRow:
    question = EmbedInput(
        contents=(Content(**content),), comparable_with=frozenset({Modality.IMAGE, Modality.TEXT})
    )
    return questions.row(question)


def picture_row(url: str) -> PredictRow:
    return embedding_row(modality=Modality.IMAGE, media=MediaRef(url=url))


def vector(result: RowResult) -> NDArray[np.float32]:
    embedding = Embedding.model_validate(result.output)
    assert embedding.space == f"dual_encoder local-dir:{MODEL_FOLDER}"
    return np.frombuffer(base64.b64decode(embedding.float16), "<f2").astype(np.float32)


def test_pictures_and_texts_get_vectors_in_one_space(client: FlaskClient) -> None:
    """Vectors have length 1, and a text about a picture is nearer to it than a text about another picture."""
    drawn = [Picture(colour, shape, seed=7) for colour, shape in (("red", "star"), ("blue", "circle"))]
    texts = [
        embedding_row(modality=Modality.TEXT, text=f"a {picture.colour} {picture.shape}") for picture in drawn
    ]
    results = predict(client, [*(picture_row(data_url(picture)) for picture in drawn), *texts]).rows
    vectors = np.stack([vector(result) for result in results])
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-3)
    similarities = vectors[:2] @ vectors[2:].T
    assert similarities.argmax(axis=1).tolist() == [0, 1]


def test_the_vector_of_several_contents_is_their_normalized_mean(client: FlaskClient) -> None:
    url = data_url(pictures(1, seed=9)[0])
    picture = Content(modality=Modality.IMAGE, media=MediaRef(url=url))
    words = Content(modality=Modality.TEXT, text="something else")
    both = questions.row(EmbedInput(contents=(picture, words)))
    picture_vector, text_vector, both_vector = (
        vector(result)
        for result in predict(
            client, [picture_row(url), embedding_row(modality=Modality.TEXT, text=words.text), both]
        ).rows
    )
    total = picture_vector + text_vector
    np.testing.assert_allclose(both_vector, total / np.linalg.norm(total), atol=1e-3)


def test_a_predicted_picture_is_embedded_from_the_cache(client: FlaskClient) -> None:
    new, predicted = (data_url(picture) for picture in pictures(2, seed=11))
    predict(client, [row(predicted)])
    batches = metric(client, "lorabel_batch_rows_count")
    cache_only = [
        questions.row(
            EmbedInput(contents=(Content(modality=Modality.IMAGE, media=MediaRef(url=url)),), is_cache_only=True)
        )
        for url in (new, predicted)
    ]
    absent, recalled = predict(client, cache_only).rows
    assert absent.error is not None and not absent.error.is_permanent
    assert metric(client, "lorabel_batch_rows_count") == batches
    np.testing.assert_array_equal(vector(recalled), vector(predict(client, [picture_row(predicted)]).rows[0]))


@pytest.mark.parametrize(
    "body", ["", "{}", '{"rows": [], "timeout_s": 1}', '{"rows": [{"kind": 1}], "timeout_s": 1}']
)
def test_a_malformed_request_is_told_what_is_wrong(client: FlaskClient, body: str) -> None:
    answer = client.post("/v1/predict", data=body)
    assert answer.status_code == 400
    assert answer.json is not None and answer.json["error"]


def test_the_client_is_told_who_would_answer_and_nothing_is_loaded_for_it(client: FlaskClient) -> None:
    asked = [
        FamilyQuestion(kind="labels", modalities=[Modality.IMAGE]),
        FamilyQuestion(kind="labels", modalities=[Modality.TEXT]),
        FamilyQuestion(kind="boxes", modalities=[Modality.TEXT]),
    ]
    with served(client) as url:
        model_client = ModelClient(Settings(model_server_url=url))
        pictures, texts, nobody = model_client.families(asked)
        loaded = [family.name for family in model_client.models().families]
        model_client.close()
    assert pictures.parts == [
        FamilyPart(family="dual_encoder", source=f"local-dir:{MODEL_FOLDER}", is_loaded=True)
    ]
    assert [(part.family, part.is_loaded) for part in texts.parts] == [("text_encoder", False)]
    assert nobody.parts == [] and "'boxes' about text" in (nobody.fault or "")
    assert loaded == ["dual_encoder"]
    assert client.post("/v1/families", json={"questions": [{"kind": "labels"}]}).status_code == 400


def test_preloading_a_missing_adapter_is_answered_404(client: FlaskClient) -> None:
    for family in (None, "dual_encoder", "text_encoder"):
        answer = client.post("/v1/preload", json={"adapters": ["p1.v9/label"], "family": family})
        assert answer.status_code == 404
        assert "p1.v9/label" in answer.text


@pytest.mark.parametrize(
    "name", ["p1.v1/" + "x" * 300, "p1.v1/" + "ü" * 200, f"p{'1' * 300}.v1/label", "p1.v²/label"]
)
def test_preloading_a_name_that_no_adapter_can_have_is_answered_404(client: FlaskClient, name: str) -> None:
    answer = client.post("/v1/preload", json={"adapters": [name]})
    assert answer.status_code == 404
    assert "is no adapter name" in answer.text and len(answer.text) < 1000


def test_a_request_that_is_too_large_is_answered_413(client: FlaskClient) -> None:
    assert client.post("/v1/predict", data=b"x" * 2**21).status_code == 413


def test_a_request_with_more_rows_than_may_wait_is_answered_413(client: FlaskClient) -> None:
    body = PredictRequest(rows=[row("x", ("a",))] * 2049, timeout_s=5).model_dump_json()
    answer = client.post("/v1/predict", data=body)
    assert answer.status_code == 413
    assert answer.json == {"error": "the request has more than 2048 rows (MAX_WAITING); send it in several parts"}
    assert metric(client, "lorabel_rows_waiting") == 0


def test_pictures_in_data_urls_that_two_control_tags_ask_about_are_answered_up_to_the_size_limit(
    client: FlaskClient,
) -> None:
    """Each picture is sent once, so the requests are not larger than what Label Studio sent."""
    urls = [noisy_picture(seed) for seed in range(5)]
    questions_of_tags = [row(url, texts) for url in urls for texts in (("red", "blue"), ("big", "small"))]
    size = sum(len(url) for url in urls)
    assert 0.7 * 2**20 < size < 2**20 < 2 * size, "the limit is 1 MB"
    with served(client) as url:
        model_client = ModelClient(Settings(model_server_url=url, max_request_mb=1))
        caller = PredictionCaller(model_client, 1, Priority.BULK, time.monotonic() + 60)
        answers = send(caller, questions_of_tags, "late")
        model_client.close()
    outputs = [answer for answer in answers if isinstance(answer, dict)]
    expected = [result.output or {} for result in predict(client, questions_of_tags).rows]
    assert len(outputs) == 10, answers
    for output, expected_output in zip(outputs, expected, strict=True):
        assert output["probabilities"] == pytest.approx(expected_output["probabilities"], abs=1e-4)


def test_each_metric_is_described_once_whatever_the_number_of_families(tmp_path: Path) -> None:
    settings = Settings(
        data_dir=tmp_path,
        families="dual_encoder,text_encoder",
        models={
            "dual_encoder": f"local-dir:{MODEL_FOLDER}",
            "text_encoder": TextEncoder.tiny(tmp_path / "text"),
        },
        device="cpu",
    )
    app = create_app(settings)
    text = app.test_client().get("/metrics").text
    app.extensions["engine"].close()
    described = [line.split()[2] for line in text.splitlines() if line.startswith("# TYPE ")]
    assert sorted(described) == sorted(set(described))
    for family in ("dual_encoder", "text_encoder"):
        assert f'lorabel_memo_bytes{{family="{family}",kind="features"}}' in text


def test_everything_but_livez_needs_the_password(tmp_path_factory: pytest.TempPathFactory) -> None:
    from model_server.app import _create_app

    guarded = Settings(basic_auth_user="u", basic_auth_pass="p", data_dir=tmp_path_factory.mktemp("d"))  # type: ignore[arg-type]
    client = _create_app(guarded, SimpleNamespace(is_alive=True), None).test_client()  # type: ignore[arg-type]
    assert client.get("/livez").status_code == 200
    assert client.get("/health").status_code == 401
    assert client.get("/health", auth=("u", "wrong")).status_code == 401
    assert client.get("/health", auth=("u", "p")).status_code == 200


def test_rows_that_could_be_answered_need_the_password(tmp_path_factory: pytest.TempPathFactory) -> None:
    """/v1/predict is answered past Flask, whose hook checks it."""
    from model_server.app import _create_app

    guarded = Settings(basic_auth_user="u", basic_auth_pass="p", data_dir=tmp_path_factory.mktemp("d"))  # type: ignore[arg-type]
    answered: Future[RowResult] = Future()
    answered.set_result(RowResult(output={"a": 1}))
    submitted: list[PredictRequest] = []

    def submit(predict_request: PredictRequest) -> list[Future[RowResult]]:
        submitted.append(predict_request)
        return [answered]

    client = _create_app(guarded, SimpleNamespace(submit=submit), None).test_client()  # type: ignore[arg-type]
    body = request_body.encode(PredictRequest(rows=[row("x")], timeout_s=1))
    for auth in (None, ("u", "wrong"), ("x", "p")):
        assert client.post("/v1/predict", data=body, auth=auth).status_code == 401
    assert submitted == []
    assert client.post("/v1/predict", data=body, auth=("u", "p")).status_code == 200
    assert len(submitted) == 1
