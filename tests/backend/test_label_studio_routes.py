"""/health, /setup, /versions and /validate. See tests/data/recordings/CLIENT_CONTRACT.md for the facts."""

import json

import pytest
from flask.testing import FlaskClient

from backend.services import Services
from lorabel.database.tables import ModelVersion, Project, VersionState
from tests.backend import requests
from tests.backend.fake_model_server import FakeModelServer


def stored(services: Services, project_id: int = 1) -> Project:
    with services.store.read() as session:
        return session.get_one(Project, project_id)


def add_version(services: Services, number: int, is_live: bool = True) -> None:
    with services.store.write() as session:
        project = session.get_one(Project, 1)
        state = VersionState.LIVE if is_live else VersionState.REJECTED
        session.add(
            ModelVersion(
                project_id=1,
                number=number,
                parent=project.live_number,
                state=state,
                base_models={},
                adapters={"label": f"p1.v{number}/label"},
                metrics={},
                trained_on=[],
            )
        )
        if is_live:
            project.live_number = number


def test_health_answers_without_database_and_model_server(
    client: FlaskClient, services: Services, model_server: FakeModelServer
) -> None:
    services.store.close()
    model_server.status = 500
    answer = client.get("/health")
    assert answer.json == {"status": "UP", "model_class": "Lorabel"}
    assert model_server.requests == []


def test_setup_names_the_live_version_as_a_string(client: FlaskClient, services: Services) -> None:
    assert client.post("/setup", json=requests.setup()).json == {"model_version": "p1.v0"}
    add_version(services, 3)
    assert client.post("/setup", json=requests.setup()).json == {"model_version": "p1.v3"}


def test_setup_and_predict_name_the_same_version(client: FlaskClient, services: Services) -> None:
    client.post("/setup", json=requests.setup())
    add_version(services, 2)
    named = client.post("/setup", json=requests.setup()).json["model_version"]
    answer = client.post("/predict", json=requests.predict(requests.task(1)))
    assert answer.json["results"][0]["model_version"] == named == "p1.v2"


def test_setup_remembers_what_label_studio_says(client: FlaskClient, services: Services) -> None:
    client.post("/setup", json=requests.setup(extra_params={"train_after_annotations": 2}))
    project = stored(services)
    assert project.label_config == requests.CONFIG
    assert project.hostname == "http://localhost:8080"
    assert services.store.keyring.open(project.setup_token or "") == "legacy"
    assert project.extra_params == {"train_after_annotations": 2}


def test_setup_writes_only_what_changed(client: FlaskClient, services: Services) -> None:
    client.post("/setup", json=requests.setup())
    first = stored(services).updated_at
    client.post("/setup", json=requests.setup())
    assert stored(services).updated_at == first
    client.post("/setup", json=requests.setup(hostname="http://labels.example.com"))
    assert stored(services).updated_at > first


def test_extra_params_from_the_form_of_label_studio_are_a_text_and_are_read(
    client: FlaskClient, services: Services
) -> None:
    typed = '{\n  "train_after_annotations": 2\n}'
    client.post("/setup", json=requests.setup(extra_params=typed))
    assert stored(services).extra_params == {"train_after_annotations": 2}


@pytest.mark.parametrize(
    "extra", [None, [], "fast", 3, True, "", "[2]", '{"a": NaN}', '{"a": ', "[" * 100_000, '"{}"']
)
def test_extra_params_may_be_any_json_and_only_an_object_is_stored(
    client: FlaskClient, services: Services, extra: object
) -> None:
    assert client.post("/setup", json=requests.setup(extra_params=extra)).status_code == 200
    assert stored(services).extra_params is None


def test_setup_logs_unserved_control_tags_once(client: FlaskClient, caplog: pytest.LogCaptureFixture) -> None:
    client.post("/setup", json=requests.setup(schema=requests.UNSERVED))
    assert "control tag 'stars' is left to people: no problem serves DateTime on Text" in caplog.text
    caplog.clear()
    client.post("/setup", json=requests.setup(schema=requests.UNSERVED))
    assert "stars" not in caplog.text


@pytest.mark.parametrize("config", ["<View><Choices", "", "no XML"])
def test_an_unreadable_label_config_is_logged_and_answered_with_200(
    client: FlaskClient, caplog: pytest.LogCaptureFixture, config: str
) -> None:
    answer = client.post("/setup", json=requests.setup(schema=config))
    assert (answer.status_code, answer.json["model_version"]) == (200, "p1.v0")
    assert "label config cannot be read" in answer.json["unserved"]["label config"]
    assert "label config cannot be read" in caplog.text
    assert "label config cannot be read" in client.get("/api/v1/projects/1").json["label_config_error"]
    predicted = client.post("/predict", json=requests.predict(requests.task(1), label_config=config))
    assert (predicted.status_code, predicted.json) == (200, {"results": [[]]})


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"project": 12}, "project: Input should be a valid string"),
        ({"project": "x.y"}, "project: Value error, 'x.y' is no project"),
        ({"project": "99999999999.1"}, "is no project"),
        ({"project": "²"}, "is no project"),
        ({"schema": None}, "schema: Input should be a valid string"),
        ({"schema": "<View>\x00</View>"}, "schema: Value error, the text has a NUL character"),
        ({"hostname": "http://["}, "hostname: Value error, expected an address such as"),
        ({"hostname": "http://x:99999"}, "hostname: Value error, expected an address such as"),
        ({"hostname": "http://x:y"}, "hostname: Value error, expected an address such as"),
        ({"hostname": "http://"}, "hostname: Value error, expected an address such as"),
        ({"hostname": "file:///etc"}, "hostname: Value error, expected an address such as"),
        ({"hostname": "http://x\x00"}, "hostname: Value error, the text has a NUL character"),
        ({"access_token": "x\x00"}, "access_token: Value error, the text has a NUL character"),
    ],
)
def test_a_malformed_setup_is_refused_with_the_reason(
    client: FlaskClient, changes: dict[str, object], reason: str
) -> None:
    answer = client.post("/setup", json=requests.setup(**changes))
    assert answer.status_code == 400
    assert reason in answer.json["error"]
    assert client.get("/api/v1/projects").json == {"projects": []}


@pytest.mark.parametrize("path", ["/setup", "/predict", "/webhook"])
@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b'"x"', b"\xff\xfe"])
def test_a_body_that_is_no_json_object_is_refused(client: FlaskClient, path: str, body: bytes) -> None:
    answer = client.post(path, data=body)
    assert answer.status_code == 400
    assert answer.json["error"]


def test_setup_of_a_deleted_project_restores_it(client: FlaskClient, services: Services) -> None:
    client.post("/setup", json=requests.setup())
    with services.store.write() as session:
        session.get_one(Project, 1).is_deleted = True
    client.post("/setup", json=requests.setup())
    assert not stored(services).is_deleted


def test_versions_lists_the_names_of_every_project(client: FlaskClient, services: Services) -> None:
    client.post("/setup", json=requests.setup())
    client.post("/setup", json=requests.setup(project="12.1"))
    add_version(services, 1)
    add_version(services, 2, is_live=False)
    assert client.get("/versions").json == {"versions": ["p1.v0", "p1.v1", "p1.v2", "p12.v0"]}


def test_setup_and_validate_tell_why_a_control_tag_is_not_served(client: FlaskClient) -> None:
    config = """<View><Image name="image" value="$image"/>
      <Choices name="label" toName="image"><Choice value="a"/><Choice value="b"/></Choices>
      <Choices name="part" toName="image" perRegion="true"><Choice value="c"/></Choices></View>"""
    reason = "perRegion: no control tag draws boxes, ellipses or polygons on 'image'"
    answer = client.post("/setup", json=requests.setup(schema=config))
    assert answer.json == {"model_version": "p1.v0", "unserved": {"part": reason}}
    answer = client.post("/validate", json={"label_config": config})
    assert answer.json == {
        "bindings": [{"from_name": "label", "to_name": "image", "problem": "ImageClassification"}],
        "unclaimed": [{"name": "part", "tag": "Choices", "reason": reason}],
    }
    answer = client.post("/validate", json={"label_config": "<View"})
    assert answer.status_code == 400 and "label config cannot be read" in answer.json["error"]


def test_a_reason_that_quotes_a_long_label_config_is_cut(client: FlaskClient) -> None:
    config = requests.setup()["schema"].replace("<Choices", f'<Choices choice="{"x" * 10_000}"', 1)
    answer = client.post("/validate", json={"label_config": config})
    assert answer.status_code == 400 and len(answer.json["error"]) == 403


@pytest.mark.parametrize("hostname", ["", None, "http://bücher.example/labels", "https://[::1]:8443"])
def test_setup_accepts_every_address_of_a_web_server(
    client: FlaskClient, services: Services, hostname: str | None
) -> None:
    assert client.post("/setup", json=requests.setup(hostname=hostname)).status_code == 200
    assert stored(services).hostname == hostname


def test_a_number_that_json_cannot_have_is_refused(client: FlaskClient) -> None:
    body = json.dumps(requests.setup(extra_params={"x": 0})).replace('{"x": 0}', '{"x": 1e400}')
    answer = client.post("/setup", data=body)
    assert answer.status_code == 400
    assert "extra_params: Value error, a number is too large" in answer.json["error"]


@pytest.mark.parametrize("hostname", ["http://[", "http://x:99999", "file:///etc"])
def test_a_broken_address_that_an_older_version_stored_stops_nothing(
    client: FlaskClient, services: Services, hostname: str
) -> None:
    client.post("/setup", json=requests.setup())
    with services.store.write() as session:
        session.get_one(Project, 1).hostname = hostname
    for task in (requests.task(1), requests.task(2, "/data/upload/1/red.png")):
        assert client.post("/predict", json=requests.predict(task)).status_code == 200
    for path in ("/api/v1/projects/1", "/api/v1/projects/1/search?q=red"):
        assert client.get(path).status_code == 200
