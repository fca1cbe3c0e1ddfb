"""/predict, as tests/data/recordings/CLIENT_CONTRACT.md describes it."""

import math
import threading
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from backend.app import create_app
from backend.services import EXTENSION, Services
from lorabel.database import versions
from lorabel.errors import LabelStudioError
from lorabel.settings import Settings
from tests.backend import requests
from tests.backend.fake_answers import SURE
from tests.backend.fake_model_server import FakeModelServer
from tests.backend.test_label_studio_routes import add_version


def results(client: FlaskClient, *tasks: dict[str, Any], **parts: Any) -> list[Any]:
    answer = client.post("/predict", json=requests.predict(*tasks, **parts))
    assert answer.status_code == 200, answer.json
    return list(answer.json["results"])


def choices(entry: Any) -> dict[str, list[str]]:
    return {region["from_name"]: region["value"]["choices"] for region in entry["result"]}


def picture(task_id: int, name: str) -> dict[str, Any]:
    return requests.task(task_id, f"http://pictures.test/{name}.png")


def test_each_task_gets_its_own_prediction_in_order(client: FlaskClient) -> None:
    entries = results(client, picture(5, "blue"), picture(3, "red"), picture(4, "blue"))
    assert [choices(entry) for entry in entries] == [{"label": ["blue"]}, {"label": ["red"]}, {"label": ["blue"]}]
    assert [entry["score"] for entry in entries] == [SURE] * 3
    assert {entry["model_version"] for entry in entries} == {"p1.v0"}


def test_regions_have_the_fields_that_label_studio_needs_and_no_id(client: FlaskClient) -> None:
    [entry] = results(client, picture(1, "red"))
    region = {"from_name": "label", "to_name": "image", "type": "choices", "value": {"choices": ["red"]}}
    assert entry["result"] == [region]


def test_predict_keeps_task_order_when_images_are_unreadable(client: FlaskClient) -> None:
    names = ["red", "forbidden", "blue", "broken", "blue"]
    entries = results(client, *(picture(i, name) for i, name in enumerate(names)))
    assert entries[1] == []
    assert entries[3] == {"result": [], "score": 0.0, "model_version": "p1.v0"}
    assert [choices(entries[i]) for i in (0, 2, 4)] == [
        {"label": ["red"]},
        {"label": ["blue"]},
        {"label": ["blue"]},
    ]


def test_an_unreadable_task_is_logged_counted_and_listed_until_it_is_read(
    client: FlaskClient, metric: Any, caplog: pytest.LogCaptureFixture
) -> None:
    results(client, picture(7, "forbidden"), picture(8, "broken"), picture(9, "red"))
    assert "project 1, task 7 cannot be read for now: http://pictures.test/forbidden.png: 403" in caplog.text
    assert "project 1, task 8 cannot be read for good" in caplog.text
    assert metric("lorabel_unread_tasks_total", is_permanent="false") == 1
    assert metric("lorabel_unread_tasks_total", is_permanent="true") == 1
    assert metric("lorabel_predictions_total") == 1
    listed = client.get("/api/v1/projects/1").json["unread"]
    assert [(task["task_id"], task["is_permanent"]) for task in listed] == [(7, False), (8, True)]
    results(client, picture(7, "blue"))
    assert [task["task_id"] for task in client.get("/api/v1/projects/1").json["unread"]] == [8]


def test_an_unreadable_task_is_listed_with_its_newest_reason(client: FlaskClient) -> None:
    results(client, picture(7, "forbidden"))
    results(client, picture(7, "broken"))
    [row] = client.get("/api/v1/projects/1").json["unread"]
    assert (row["is_permanent"], row["reason"]) == (True, "http://pictures.test/broken.png: no picture")


@pytest.mark.parametrize("data", [{}, {"image": None}, {"image": ""}, {"image": 3}, {"picture": "x"}])
def test_a_task_without_a_picture_gets_an_empty_result_and_does_not_affect_others(
    client: FlaskClient, model_server: FakeModelServer, data: dict[str, Any]
) -> None:
    entries = results(client, {"id": 1, "data": data}, picture(2, "blue"))
    assert entries[0]["result"] == []
    assert choices(entries[1]) == {"label": ["blue"]}
    assert len(model_server.rows) == 1


def test_a_request_without_a_readable_task_sends_nothing_to_the_model_server(
    client: FlaskClient, model_server: FakeModelServer
) -> None:
    assert results(client, {"id": 1, "data": {}})[0]["result"] == []
    assert model_server.requests == []


def test_no_tasks_get_no_results(client: FlaskClient) -> None:
    assert results(client) == []


def test_existing_annotations_and_predictions_are_never_read(
    client: FlaskClient, model_server: FakeModelServer
) -> None:
    answered = picture(1, "red") | {
        "annotations": [requests.annotation(1) | {"result": "poison"}],
        "predictions": {"poison": True},
        "drafts": [None],
    }
    assert choices(results(client, answered)[0]) == {"label": ["red"]}
    assert "poison" not in model_server.requests[0].model_dump_json()


def test_several_control_tags_are_merged_into_one_prediction_with_their_mean_score(
    client: FlaskClient, model_server: FakeModelServer
) -> None:
    model_server.outputs = {"odd": {"probabilities": [0.4, 0.6]}}
    entries = results(client, picture(1, "odd"), picture(2, "red-small"), label_config=requests.TWO_TAGS)
    assert choices(entries[0]) == {"label": ["blue"], "size": ["small"]}
    assert choices(entries[1]) == {"label": ["red"], "size": ["small"]}
    assert [entry["score"] for entry in entries] == pytest.approx([0.6, SURE])


@pytest.mark.parametrize(
    ("left", "right", "is_asked_again", "regions"),
    [
        ("red", "forbidden", True, {}),
        ("broken", "forbidden", True, {}),
        ("red", "broken", False, {"l": ["red"]}),
        ("broken", "broken", False, {}),
    ],
)
def test_a_task_is_asked_again_if_a_picture_cannot_be_read_now_and_not_if_never(
    client: FlaskClient, left: str, right: str, is_asked_again: bool, regions: dict[str, Any]
) -> None:
    data = {"left": f"http://p.test/{left}.png", "right": f"http://p.test/{right}.png"}
    [entry] = results(client, {"id": 1, "data": data}, label_config=requests.TWO_PICTURES)
    assert (entry == []) == is_asked_again
    assert is_asked_again or choices(entry) == regions


def test_rows_name_the_adapters_of_the_live_version_by_control_tag(
    client: FlaskClient, services: Services, model_server: FakeModelServer
) -> None:
    client.post("/setup", json=requests.setup())
    add_version(services, 2)
    results(client, picture(1, "red"), label_config=requests.TWO_TAGS)
    assert [row.adapter for row in model_server.rows] == ["p1.v2/label", None]


def test_the_score_is_calibrated_for_the_live_version_and_not_for_the_base_models(
    client: FlaskClient, services: Services
) -> None:
    client.post("/setup", json=requests.setup())
    [raw] = results(client, picture(1, "red"))
    add_version(services, 2)
    with services.store.write() as session:
        versions.get(session, 1, 2).metrics = {"calibration": {"label": {"temperature": 2.0}, "other": None}}
    [calibrated] = results(client, picture(2, "red"))
    assert (choices(calibrated), raw["score"]) == (choices(raw), SURE)
    assert calibrated["score"] == pytest.approx(0.75), "the square roots of 0.9 and 0.1 have the ratio 3 to 1"


def test_a_label_config_without_a_served_control_tag_gets_no_predictions(
    client: FlaskClient, model_server: FakeModelServer, metric: Any
) -> None:
    assert results(client, {"id": 1, "data": {"text": "x"}}, label_config=requests.UNSERVED) == [[]]
    assert model_server.requests == []
    assert metric("lorabel_unserved_tasks_total") == 1


def test_relative_addresses_go_to_label_studio_with_its_token(
    client: FlaskClient, model_server: FakeModelServer
) -> None:
    client.post("/setup", json=requests.setup(hostname="http://labels.example.com"))
    results(client, requests.task(1, "/data/upload/1/red.png"), requests.task(2, "http://other.test/red.png"))
    upload, other = (row.input["contents"][0]["media"] for row in model_server.rows)
    assert upload["url"] == "http://labels.example.com/data/upload/1/red.png"
    assert (upload["authorization"], upload["is_trusted"]) == ("Token legacy", False)
    assert other["url"] == "http://other.test/red.png"
    assert (other["authorization"], other["is_trusted"], other["is_label_studio"]) == (None, False, False)


def test_a_region_against_the_label_config_is_dropped_logged_and_counted(
    client: FlaskClient, metric: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(from_name: str, to_name: str, values: list[str]) -> dict[str, Any]:
        return {"from_name": from_name, "to_name": to_name, "type": "choices", "value": {"choices": ["purple"]}}

    monkeypatch.setattr("lorabel.labeling.regions.choices", wrong)
    [entry] = results(client, picture(1, "red"))
    assert entry["result"] == []
    assert metric("lorabel_dropped_regions_total") == 1
    assert "a region is dropped" in caplog.text
    assert "purple" in caplog.text


@pytest.mark.parametrize(
    "output",
    [
        {"probabilities": [math.nan, math.nan]},
        {"probabilities": [math.inf, 0.0]},
        {"probabilities": []},
        {"probabilities": "high"},
        {"probabilities": [0.1, 0.2, 0.7]},
        {},
    ],
)
def test_an_invalid_output_of_the_model_server_never_reaches_label_studio(
    client: FlaskClient, model_server: FakeModelServer, output: Any
) -> None:
    model_server.outputs = {"nonsense": output}
    answer = client.post("/predict", json=requests.predict(picture(1, "nonsense"), picture(2, "blue")))
    assert b"NaN" not in answer.data
    entries = answer.json["results"]
    assert entries[0] == []
    assert choices(entries[1]) == {"label": ["blue"]}


def test_a_busy_model_server_is_503_with_its_retry_after(
    client: FlaskClient, model_server: FakeModelServer
) -> None:
    model_server.status = 503
    answer = client.post("/predict", json=requests.predict(picture(1, "red")))
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "7")
    assert "results" not in answer.json


def test_a_failing_model_server_is_502_and_no_task_is_noted_as_unreadable(
    client: FlaskClient, model_server: FakeModelServer
) -> None:
    model_server.status = 500
    answer = client.post("/predict", json=requests.predict(picture(1, "red"), {"id": 2, "data": {}}))
    assert answer.status_code == 502
    assert "model server answered 500" in answer.json["error"]
    assert client.get("/api/v1/projects/1").json["unread"] == []


def test_a_model_server_that_is_down_is_502_while_health_and_setup_answer(settings: Settings) -> None:
    app = create_app(settings.model_copy(update={"model_server_url": "http://127.0.0.1:9"}))
    client = app.test_client()
    assert client.get("/health").status_code == 200
    assert client.post("/setup", json=requests.setup()).status_code == 200
    answer = client.post("/predict", json=requests.predict(picture(1, "red")))
    app.extensions[EXTENSION].close()
    assert answer.status_code == 502
    assert "MODEL_SERVER_URL" in answer.json["error"]


def test_a_thousand_tasks_in_one_request_get_a_thousand_entries(
    client: FlaskClient, model_server: FakeModelServer
) -> None:
    names = ["red", "blue", "forbidden", "broken"]
    entries = results(client, *(picture(i, names[i % 4]) for i in range(1004)))
    assert len(entries) == 1004
    assert all(choices(entry) == {"label": ["blue"]} for entry in entries[1::4])
    assert all(entry == [] for entry in entries[2::4])
    assert max(len(request.rows) for request in model_server.requests) <= 256
    assert len(client.get("/api/v1/projects/1").json["unread"]) == 502


def test_after_a_failure_half_way_the_remaining_tasks_are_asked_again(
    client: FlaskClient, model_server: FakeModelServer
) -> None:
    model_server.status, model_server.fails_from = 500, 1
    entries = results(client, *(picture(i, "blue") for i in range(300)))
    assert all(choices(entry) == {"label": ["blue"]} for entry in entries[:256])
    assert entries[256:] == [[]] * 44


@pytest.mark.slow
def test_tasks_that_are_not_ready_at_the_deadline_are_asked_again(
    settings: Settings, model_server: FakeModelServer
) -> None:
    app = create_app(settings.model_copy(update={"predict_timeout_s": 3.5}))
    model_server.wait_s = 3.0
    entries = results(app.test_client(), *(picture(i, "blue") for i in range(300)))
    app.extensions[EXTENSION].close()
    assert all(choices(entry) == {"label": ["blue"]} for entry in entries[:256])
    assert entries[256:] == [[]] * 44


def test_a_smart_tool_without_setup_gets_a_normal_prediction(client: FlaskClient) -> None:
    [entry] = results(client, picture(1, "blue"), context={"result": [{"id": "a", "origin": "manual"}]})
    assert choices(entry) == {"label": ["blue"]}


def test_a_smart_tool_always_gets_an_object_since_its_answer_is_not_saved(client: FlaskClient) -> None:
    empty = {"result": [], "score": 0.0, "model_version": "p1.v0"}
    assert results(client, picture(1, "forbidden"), context={"result": []}) == [empty]
    assert results(client, picture(1, "x"), label_config=requests.UNSERVED, context={}) == [empty]


def test_predictions_leave_threads_for_health_and_setup(
    app: Flask, services: Services, settings: Settings
) -> None:
    slots = settings.threads - 4
    for _ in range(slots):
        assert services.prediction_slots.acquire(blocking=False)
    client = app.test_client()
    answer = client.post("/predict", json=requests.predict(picture(1, "red")))
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")
    assert client.get("/health").status_code == 200
    assert client.post("/setup", json=requests.setup()).status_code == 200
    services.prediction_slots.release()
    assert len(results(client, picture(1, "red"))) == 1
    assert len(results(client, picture(1, "red"))) == 1


def test_requests_are_answered_at_the_same_time(app: Flask, model_server: FakeModelServer) -> None:
    model_server.wait_s = 0.5
    answers: dict[int, Any] = {}

    def ask(number: int, name: str) -> None:
        answers[number] = choices(results(app.test_client(), picture(number, name))[0])

    names = ["red", "blue"] * 4
    threads = [threading.Thread(target=ask, args=(i, name)) for i, name in enumerate(names)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=3)
    assert answers == {i: {"label": [name]} for i, name in enumerate(names)}


@pytest.mark.parametrize(
    "changes",
    [
        {"tasks": None},
        {"tasks": {}},
        {"tasks": [{"data": {}}]},
        {"tasks": [{"id": "1", "data": {}}]},
        {"tasks": [{"id": 1}]},
        {"label_config": None},
        {"project": None},
    ],
)
def test_a_malformed_predict_is_refused_with_the_name_of_the_field(
    client: FlaskClient, changes: dict[str, Any]
) -> None:
    answer = client.post("/predict", json=requests.predict(picture(1, "red")) | changes)
    assert answer.status_code == 400
    assert next(iter(changes)) in answer.json["error"]


def test_a_refused_token_is_logged_and_the_media_are_fetched_without_it(
    client: FlaskClient,
    services: Services,
    model_server: FakeModelServer,
    metric: Any,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(_: Any) -> None:
        raise LabelStudioError("the token was refused")

    monkeypatch.setattr(services.authorizations, "find", refuse)
    client.post("/setup", json=requests.setup())
    results(client, requests.task(1, "/data/upload/1/red.png"))
    assert model_server.rows[0].input["contents"][0]["media"]["authorization"] is None
    assert metric("lorabel_refused_tokens_total") == 1
    assert "fetched without a token: the token was refused" in caplog.text
