from base64 import b64encode
from collections.abc import Iterator

import pytest
from flask import Flask
from flask.testing import FlaskClient
from pydantic import SecretStr
from sqlalchemy import func, select, text

from backend.app import STATUS_CODES, create_app
from backend.services import EXTENSION, Services
from lorabel import errors
from lorabel.database.tables import Event
from lorabel.settings import Settings
from tests.backend import requests
from tests.backend.fake_model_server import FakeModelServer

RIGHT = ("ann", "s3cret ü:x")
PATHS = [
    "/health",
    "/versions",
    "/metrics",
    "/api/v1/projects",
    "/api/v1/openapi.json",
    "/no-such-page",
    "/livez2",
]


@pytest.fixture
def guarded(settings: Settings) -> Iterator[FlaskClient]:
    user, password = RIGHT
    login = {"basic_auth_user": user, "basic_auth_pass": SecretStr(password)}
    app = create_app(settings.model_copy(update=login))
    yield app.test_client()
    app.extensions[EXTENSION].close()


def basic(user: str, password: str) -> dict[str, str]:
    return {"Authorization": "Basic " + b64encode(f"{user}:{password}".encode()).decode()}


@pytest.mark.parametrize("path", PATHS)
def test_every_path_needs_the_password(guarded: FlaskClient, path: str) -> None:
    answer = guarded.get(path)
    assert answer.status_code == 401
    assert answer.headers["WWW-Authenticate"].startswith("Basic ")
    assert "BASIC_AUTH_USER" in answer.json["error"]


def test_setup_predict_and_webhook_need_the_password_too(guarded: FlaskClient) -> None:
    for path in ("/setup", "/predict", "/webhook"):
        assert guarded.post(path, json={}).status_code == 401
        assert guarded.post(path, json={}, headers=basic("ann", "wrong")).status_code == 401
        assert guarded.post(path, json={}, headers=basic(*RIGHT)).status_code == 400


def test_a_prediction_that_could_be_answered_needs_the_password_and_no_page_of_another_site(
    guarded: FlaskClient, model_server: FakeModelServer
) -> None:
    """/predict is answered past Flask, whose hooks check both."""
    assert guarded.post("/setup", json=requests.setup(), headers=basic(*RIGHT)).status_code == 200
    body = requests.predict(requests.task(1))
    for headers in ({}, basic("ann", "wrong"), basic("ann", "")):
        assert guarded.post("/predict", json=body, headers=headers).status_code == 401
    of_another_site = {**basic(*RIGHT), "Sec-Fetch-Site": "cross-site"}
    assert guarded.post("/predict", json=body, headers=of_another_site).status_code == 403
    assert model_server.rows == []
    assert guarded.post("/predict", json=body, headers=basic(*RIGHT)).status_code == 200
    assert len(model_server.rows) == 1


def test_the_right_password_is_accepted(guarded: FlaskClient) -> None:
    assert guarded.get("/health", headers=basic(*RIGHT)).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        basic("ann", "wrong"),
        basic("bob", RIGHT[1]),
        basic("ann", ""),
        basic("", ""),
        {"Authorization": "Basic !!!"},
        {"Authorization": "Basic \xe9"},
        {"Authorization": "Bearer " + RIGHT[1]},
        {"Authorization": "Token x"},
    ],
)
def test_a_wrong_password_is_refused(guarded: FlaskClient, headers: dict[str, str]) -> None:
    assert guarded.get("/health", headers=headers).status_code == 401


def test_livez_needs_no_password(guarded: FlaskClient) -> None:
    answer = guarded.get("/livez")
    assert (answer.status_code, answer.json) == (200, {"status": "UP"})


def test_no_password_is_needed_if_none_is_set(client: FlaskClient) -> None:
    assert client.get("/health").status_code == 200


@pytest.mark.parametrize("path", ["/setup", "/predict", "/webhook", "/api/v1/projects/1/promote"])
def test_a_request_over_the_limit_is_refused_with_the_name_of_the_setting(settings: Settings, path: str) -> None:
    app = create_app(settings.model_copy(update={"max_request_mb": 1}))
    answer = app.test_client().post(path, data=b'{"x": "' + b"y" * 2**20 + b'"}')
    services: Services = app.extensions[EXTENSION]
    with services.store.read() as session:
        assert session.scalar(select(func.count(Event.id))) == 0
    services.close()
    assert answer.status_code == 413
    assert "MAX_REQUEST_MB" in answer.json["error"]


def test_an_unknown_path_and_a_wrong_method_are_answered_with_json(client: FlaskClient) -> None:
    assert client.get("/train").status_code == 404
    answer = client.get("/predict")
    assert answer.status_code == 405
    assert answer.json["error"]


def test_every_exception_class_of_lorabel_has_a_status_code() -> None:
    classes = [value for value in vars(errors).values() if isinstance(value, type)]
    for class_ in classes:
        assert any(parent in STATUS_CODES for parent in class_.__mro__[:-2])


def test_an_unexpected_error_is_answered_without_its_message(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    app = create_app(settings)
    app.add_url_rule("/fault", view_func=lambda: 1 / 0)
    answer = app.test_client().get("/fault")
    app.extensions[EXTENSION].close()
    assert answer.status_code == 500
    assert answer.json["error"] == "our fault: ZeroDivisionError; the log has more"
    assert "division by zero" in caplog.text


@pytest.mark.changes_schema
@pytest.mark.parametrize("change", ["DROP TABLE event", "ALTER TABLE event DROP COLUMN error"])
def test_a_database_that_is_not_migrated_is_answered_with_what_to_do(
    app: Flask, services: Services, change: str
) -> None:
    """As when an older copy of the database is restored under the running backend."""
    with services.store.write() as session:
        session.execute(text(change))
    answer = app.test_client().get("/api/v1/events")
    assert answer.status_code == 500
    assert "`lorabel migrate`" in answer.json["error"]


def test_two_apps_share_nothing(settings: Settings, client: FlaskClient) -> None:
    other = create_app(settings)
    client.get("/health")
    assert b'endpoint="/health"' in client.get("/metrics").data
    assert b'endpoint="/health"' not in other.test_client().get("/metrics").data
    other.extensions[EXTENSION].close()


def test_tokens_never_reach_the_log(client: FlaskClient, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    client.post("/setup", json=requests.setup(access_token="hush-hush"))
    client.post("/setup", json=requests.setup(access_token=["hush-hush"]))
    client.get("/health?token=hush-hush")
    assert "hush-hush" not in caplog.text
