import json
from typing import Any

import pytest
from flask.testing import FlaskClient
from sqlalchemy import text

from backend.services import Services
from lorabel.database.tables import Annotation, Event, EventState, Project, now
from tests.backend import requests
from tests.backend.fake_model_server import FakeModelServer
from tests.backend.test_label_studio_routes import add_version

P1 = "/api/v1/projects/1"


@pytest.fixture
def project(client: FlaskClient) -> None:
    client.post("/setup", json=requests.setup())


def annotate(services: Services, annotation_id: int, **columns: Any) -> None:
    with services.store.write() as session:
        session.add(Annotation(id=annotation_id, project_id=1, task_id=annotation_id, **columns))


def test_a_project_names_its_bindings_and_unserved_control_tags(client: FlaskClient) -> None:
    config = requests.CONFIG.replace("</View>", '<Brush name="stars" toName="image"/></View>')
    client.post("/setup", json=requests.setup(schema=config))
    project_record = client.get(P1).json
    assert project_record["live_version"] == "p1.v0"
    assert project_record["label_config"] == config
    served = {"from_name": "label", "to_name": "image", "problem": "ImageClassification"}
    assert project_record["bindings"] == [served]
    assert project_record["unclaimed"] == [
        {"name": "stars", "tag": "Brush", "reason": "no problem serves Brush on Image"}
    ]
    assert project_record["label_config_error"] is None


def test_tokens_are_not_shown(client: FlaskClient, services: Services) -> None:
    client.post("/setup", json=requests.setup(access_token="hush-hush"))
    with services.store.write() as session:
        session.get_one(Project, 1).api_key = "hush-hush"
    client.post("/webhook", json=requests.event("PROJECT_UPDATED", token="hush-hush"))
    for path in (P1, "/api/v1/projects", "/api/v1/events"):
        assert b"hush-hush" not in client.get(path).data


def test_new_annotations_are_those_that_a_run_may_take(
    client: FlaskClient, services: Services, project: None
) -> None:
    annotate(services, 1)
    annotate(services, 2, was_cancelled=True)
    annotate(services, 3, is_deleted=True)
    annotate(services, 4, run_id=1)
    annotate(services, 5, ground_truth=True)
    assert client.get(P1).json["new_annotations"] == 2
    assert client.get("/api/v1/projects").json["projects"][0]["new_annotations"] == 2


def test_a_project_known_only_from_an_event_has_no_label_config_yet(client: FlaskClient) -> None:
    client.post("/webhook", json=requests.event("PROJECT_UPDATED"))
    project_record = client.get(P1).json
    assert (project_record["label_config"], project_record["bindings"]) == (None, [])


def test_versions_are_listed_newest_first_with_the_base_models_at_the_end(
    client: FlaskClient, services: Services, project: None
) -> None:
    add_version(services, 1)
    add_version(services, 2, is_live=False)
    versions = client.get(f"{P1}/versions").json
    assert versions["live_version"] == "p1.v1"
    states = [(version["version"], version["state"], version["parent"]) for version in versions["versions"]]
    assert states == [("p1.v2", "rejected", "p1.v1"), ("p1.v1", "live", "p1.v0"), ("p1.v0", "retired", None)]
    expected = {"version", "state", "metrics", "created_at", "trained_on", "base_models", "adapters"}
    assert all(expected <= version.keys() for version in versions["versions"])


@pytest.mark.parametrize("name", ["1", "v1", "p1.v1"])
def test_a_version_is_shown_by_any_of_its_names(
    client: FlaskClient, services: Services, project: None, name: str
) -> None:
    add_version(services, 1)
    assert client.get(f"{P1}/versions/{name}").json["adapters"] == {"label": "p1.v1/label"}


def test_the_base_models_are_version_0_and_are_live_at_first(client: FlaskClient, project: None) -> None:
    assert client.get(f"{P1}/versions/v0").json["state"] == "live"


@pytest.mark.parametrize(
    "path",
    [
        "/api/v1/projects/9",
        "/api/v1/projects/9/versions",
        "/api/v1/projects/9/versions/1",
        "/api/v1/projects/9/runs",
        "/api/v1/projects/9/annotations",
        "/api/v1/projects/99999999999",
        f"{P1}/versions/7",
        f"{P1}/versions/p2.v0",
        f"{P1}/versions/newest",
    ],
)
def test_an_unknown_project_or_version_is_404(client: FlaskClient, project: None, path: str) -> None:
    answer = client.get(path)
    assert answer.status_code == 404
    assert answer.json["error"]


@pytest.mark.parametrize("action", ["train", "promote", "rollback"])
def test_actions_on_an_unknown_project_are_404(client: FlaskClient, action: str) -> None:
    assert client.post(f"/api/v1/projects/9/{action}", json={"version": "v0"}).status_code == 404


def test_train_twice_queues_one_run_and_answers_with_it(client: FlaskClient, project: None) -> None:
    answer = client.post(f"{P1}/train")
    assert answer.status_code == 202
    assert (answer.json["state"], answer.json["version"]) == ("queued", None)
    assert client.post(f"{P1}/train").json["id"] == answer.json["id"]
    assert [run["id"] for run in client.get(f"{P1}/runs").json["runs"]] == [answer.json["id"]]


def test_promote_preloads_the_adapters_and_the_next_prediction_uses_them(
    client: FlaskClient, services: Services, project: None, model_server: FakeModelServer
) -> None:
    add_version(services, 1, is_live=False)
    assert client.post(f"{P1}/promote", json={"version": "p1.v1"}).json == {"live_version": "p1.v1"}
    assert model_server.preloaded == ["p1.v1/label"]
    predicted = client.post("/predict", json=requests.predict(requests.task(1))).json["results"][0]
    assert predicted["model_version"] == "p1.v1"
    assert model_server.rows[0].adapter == "p1.v1/label"
    assert client.get(f"{P1}/versions/1").json["state"] == "live"


def test_the_next_prediction_after_a_rollback_uses_the_parent(
    client: FlaskClient, services: Services, project: None, model_server: FakeModelServer
) -> None:
    add_version(services, 1)
    assert client.post(f"{P1}/rollback").json == {"live_version": "p1.v0"}
    assert client.post("/setup", json=requests.setup()).json == {"model_version": "p1.v0"}
    client.post("/predict", json=requests.predict(requests.task(1)))
    assert model_server.rows[0].adapter is None
    answer = client.post(f"{P1}/rollback")
    assert answer.status_code == 409
    assert "nothing to go back to" in answer.json["error"]


@pytest.mark.parametrize("body", [{}, {"version": None}, [], {"version": {}}])
def test_a_malformed_promote_is_refused(client: FlaskClient, project: None, body: Any) -> None:
    assert client.post(f"{P1}/promote", json=body).status_code == 400


def test_annotations_are_listed_in_pages(client: FlaskClient, services: Services, project: None) -> None:
    for number in range(1, 6):
        annotate(services, number, result=[{"from_name": "label"}], updated_at=now())
    page = client.get(f"{P1}/annotations?limit=2&offset=3").json
    assert (page["total"], [annotation["id"] for annotation in page["annotations"]]) == (5, [4, 5])
    assert page["annotations"][0]["result"] == [{"from_name": "label"}]
    assert len(client.get(f"{P1}/annotations").json["annotations"]) == 5


def test_an_annotation_is_listed_with_its_annotator_and_what_was_shown(
    client: FlaskClient, services: Services, project: None
) -> None:
    shown = {
        "completed_by": 3,
        "lead_time_s": 2.5,
        "prediction_id": 5,
        "prediction_version": "p1.v0",
        "prediction_score": 0.75,
        "prediction_result": [{"from_name": "label"}],
        "is_accepted": True,
    }
    annotate(services, 1, result=[{"from_name": "label", "id": "x"}], updated_at=now(), **shown)
    annotate(services, 2, result=[], updated_at=now())
    first, second = client.get(f"{P1}/annotations").json["annotations"]
    assert {name: first[name] for name in shown} == shown
    assert {second[name] for name in shown} == {None}


@pytest.mark.parametrize("query", ["limit=x", "limit=1001", "limit=-1", "offset=1.5", "offset=", "limit=²"])
def test_an_invalid_limit_or_offset_is_refused(client: FlaskClient, project: None, query: str) -> None:
    assert client.get(f"{P1}/annotations?{query}").status_code == 400


def test_events_are_listed_by_their_state(client: FlaskClient, services: Services) -> None:
    with services.store.write() as session:
        session.add(Event(action="A", payload="{}", state=EventState.FAILED, error="why"))
        session.add(Event(action="B", payload="{}", state=EventState.APPLIED))
    events = client.get("/api/v1/events?state=failed").json["events"]
    assert [(event["action"], event["error"]) for event in events] == [("A", "why")]
    assert client.get("/api/v1/events").json["total"] == 2
    answer = client.get("/api/v1/events?state=lost")
    assert answer.status_code == 400
    assert "pending" in answer.json["error"]


@pytest.mark.parametrize("digits", ["²", "٣", "9" * 10, "9" * 20, "9" * 5000, "1" + "0" * 5000, "-1", "1e3"])
def test_a_version_of_odd_digits_is_not_found(client: FlaskClient, project: None, digits: str) -> None:
    for name in (digits, f"v{digits}", f"p1.v{digits}"):
        assert client.get(f"{P1}/versions/{name}").status_code == 404
        assert client.post(f"{P1}/promote", json={"version": name}).status_code in (400, 404)


@pytest.mark.parametrize("version", ["true", "1.5", "-1", "9" * 20, "9" * 5000, "null", "[]"])
def test_a_version_that_is_no_number_of_a_version_is_refused(
    client: FlaskClient, project: None, version: str
) -> None:
    answer = client.post(f"{P1}/promote", data=f'{{"version": {version}}}')
    assert answer.status_code == 400, answer.text
    assert len(answer.text) < 1000


@pytest.mark.parametrize("digits", ["²", "9" * 20, "9" * 5000])
def test_odd_digits_in_a_url_are_refused(client: FlaskClient, project: None, digits: str) -> None:
    for query in ("annotations?limit=", "annotations?offset=", "search?task="):
        assert client.get(f"{P1}/{query}{digits}").status_code == 400
    for path in (f"/api/v1/projects/{digits}", f"{P1}/preannotations/{digits}"):
        assert client.get(path).status_code == 404


@pytest.mark.parametrize("column", ["task_id", "completed_by"])
def test_an_annotation_with_a_bad_value_of_an_older_version_is_shown(
    client: FlaskClient, services: Services, project: None, column: str
) -> None:
    if not services.store.is_sqlite:
        pytest.skip("PostgreSQL stores no text in a column of numbers")
    annotate(services, 1, completed_by=5)
    annotate(services, 2, completed_by=6)
    with services.store.write() as session:
        session.execute(text(f"UPDATE annotation SET {column} = 'x' WHERE id = 1"))
    answer = client.get(f"{P1}/annotations")
    assert answer.status_code == 200
    bad, good = answer.json["annotations"]
    assert bad[column] is None
    assert (good["task_id"], good["completed_by"]) == (2, 6)


def test_an_infinite_number_of_an_older_version_is_shown_as_null(
    client: FlaskClient, services: Services, project: None
) -> None:
    if not services.store.is_sqlite:
        pytest.skip("PostgreSQL stores no infinite number in JSON")
    annotate(services, 1, result=[{"value": {"number": float("inf")}}])
    answer = client.get(f"{P1}/annotations")
    shown = json.loads(answer.data, parse_constant=pytest.fail)
    assert shown["annotations"][0]["result"] == [{"value": {"number": None}}]
