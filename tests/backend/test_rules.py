"""Rules over REST, and what /predict answers then: in every process, counted, and stored by task."""

import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
from flask.testing import FlaskClient

from backend.label_studio_routes import answer_prediction
from backend.services import Services
from lorabel.database import projects, rule_effects, rules
from lorabel.database.store import Store
from lorabel.settings import Settings
from tests.backend import requests
from tests.backend.fake_model_server import FakeModelServer
from workers.collect import apply_pending

P1 = "/api/v1/projects/1/rules"
CONFIG = (
    '<View><Image name="image" value="$image"/>'
    '<RectangleLabels name="box" toName="image"><Label value="Car"/><Label value="Dog"/></RectangleLabels>'
    '<Choices name="label" toName="image"><Choice value="red"/><Choice value="blue"/></Choices>'
    '<Choices name="why" toName="image" visibleWhen="choice-selected" whenTagName="label" whenChoiceValue="red">'
    '<Choice value="red"/><Choice value="blue"/></Choices></View>'
)
# The fake model server finds a box of 100 pixels of 400 in every picture, with 0.9.
SMALL = '[[minimum_size]]\nname = "no specks"\ntag = "box"\nwidth_px = 101\n'
BIG = '[[minimum_size]]\nname = "no specks"\ntag = "box"\nwidth_px = 99\n'
NO_RED = (
    '[[field]]\nname = "no red there"\nfield = "country"\nis = "DE"\n'
    'forbidden = [{tag = "label", label = "red"}]\n'
)


@pytest.fixture(autouse=True)
def project(services: Services) -> None:
    projects.upsert(services.store, 1, label_config=CONFIG)


@pytest.fixture
def other_process(settings: Settings) -> Iterator[Store]:
    store = Store.open(settings)
    yield store
    store.close()


def put(client: FlaskClient, file: str) -> Any:
    answer = client.put(P1, json={"file": file})
    assert answer.status_code == 200, answer.json
    return answer.json


def predict(client: FlaskClient, *task_ids: int, **data: Any) -> list[dict[str, Any]]:
    tasks = [requests.task(task_id, "http://pictures.test/red.png", **data) for task_id in task_ids]
    # What was removed is stored when the answer is closed, as servers do once it is sent.
    with client.post("/predict", json=requests.predict(*tasks, label_config=CONFIG)) as answer:
        assert answer.status_code == 200, answer.json
        return list(answer.json["results"])


def tags(entry: dict[str, Any]) -> list[str]:
    return [region["from_name"] for region in entry["result"]]


def test_a_rule_takes_effect_at_the_next_prediction_in_every_process(
    client: FlaskClient, other_process: Store
) -> None:
    (entry,) = predict(client, 1)
    assert (tags(entry), entry["model_version"]) == (["box", "label", "why"], "p1.v0")
    rules.set_file(other_process, 1, SMALL)
    (entry,) = predict(client, 1)
    assert (tags(entry), entry["model_version"]) == (["label", "why"], "p1.v0.r1")
    assert client.post("/setup", json=requests.setup(schema=CONFIG)).json["model_version"] == "p1.v0.r1"
    rules.set_file(other_process, 1, BIG)
    (entry,) = predict(client, 1)
    assert (tags(entry), entry["model_version"]) == (["box", "label", "why"], "p1.v0.r2")
    rules.remove(other_process, 1)
    (entry,) = predict(client, 1)
    assert (tags(entry), entry["model_version"]) == (["box", "label", "why"], "p1.v0")
    assert rules.set_file(other_process, 1, BIG).served_version == "p1.v0.r4", "a number is used again"


def test_what_is_removed_is_counted_logged_and_stored_by_task(
    client: FlaskClient, metric: Any, caplog: pytest.LogCaptureFixture
) -> None:
    put(client, SMALL + NO_RED)
    with caplog.at_level(logging.INFO, "lorabel"):
        predict(client, 1, 2, country="FR")
        (entry,) = predict(client, 3, country="DE")
    # What is shown only if red is chosen goes with red.
    assert tags(entry) == []
    answer = client.get(P1).json
    counts = {row["rule"]: (row["kind"], row["tasks"], row["removals"]) for row in answer["rules"]}
    assert counts == {"no specks": ("minimum_size", 3, 3), "no red there": ("field", 1, 1)}
    assert metric("lorabel_rule_removals_total", project="1", rule="no specks") == 3
    assert metric("lorabel_rule_removals_total", project="1", rule="no red there") == 1
    assert "project 1, task 3: rule 'no red there' removes 1: 'red' of 'label'" in caplog.messages
    assert len(client.get(f"{P1}?task=3&limit=1").json["tasks"]) == 1
    of_task = {row["rule"]: row for row in client.get(f"{P1}?task=3").json["tasks"]}
    assert len(of_task) == 2
    removed = of_task["no red there"]
    assert (removed["task_id"], removed["version"]) == (3, "p1.v0.r1")
    assert removed["removals"] == [
        {"from_name": "label", "what": "red", "is_text": False, "why": "country is 'DE'"}
    ]
    predict(client, 3, country="FR")
    assert {row["rule"] for row in client.get(f"{P1}?task=3").json["tasks"]} == {"no specks"}
    put(client, BIG)
    assert client.get(P1).json["tasks"] == [], "what earlier rules have removed is still shown"


def test_rules_that_are_wrong_are_refused_and_those_before_stay(client: FlaskClient) -> None:
    put(client, SMALL)
    for file, reason in (
        ("[[", "no TOML"),
        ('[[needs]]\nname = "n"\nlabel = "Cat"\nneeds = "Dog"', "no label 'Cat'; it has 'Car', 'Dog'"),
        ("x" * 100_001, "file: String should have at most 100000 characters"),
    ):
        answer = client.put(P1, json={"file": file})
        assert (answer.status_code, reason in answer.json["error"]) == (400, True), answer.json
    assert client.put(P1, json={"file": "a\x00"}).status_code == 400
    assert client.put(P1, data=b'{"file": "\\ud800"}').status_code == 400
    assert client.put("/api/v1/projects/9/rules", json={"file": SMALL}).status_code == 404
    assert client.get("/api/v1/projects/9/rules").status_code == 404
    assert (client.get(P1).json["file"], client.get(P1).json["number"]) == (SMALL, 1)
    assert client.delete(P1).json == {"file": None, "number": 2, "rules": [], "faults": [], "tasks": []}
    assert client.delete(P1).json["number"] == 2, "nothing was there to be removed"


def test_a_rule_that_the_label_config_has_left_behind_is_not_applied_and_shown(
    client: FlaskClient, services: Services, caplog: pytest.LogCaptureFixture
) -> None:
    put(client, SMALL + NO_RED)
    changed = CONFIG.replace('"red"', '"crimson"')
    projects.upsert(services.store, 1, label_config=changed)
    answer = client.post("/predict", json=requests.predict(requests.task(1, country="DE"), label_config=changed))
    assert "box" not in tags(answer.json["results"][0]), "the other rule is not applied either"
    (fault,) = client.get(P1).json["faults"]
    assert fault.startswith("[[field]] ('no red there'): control tag 'label' has no label 'red'; it has 'crimson'")
    assert f"project 1: a rule is not applied: {fault}" in caplog.messages


def test_a_smart_tool_is_answered_as_people_draw(client: FlaskClient, services: Services) -> None:
    """And the answer says nothing about what was removed from the task's prediction."""
    put(client, SMALL)
    predict(client, 1)
    region = {"from_name": "box", "type": "rectanglelabels", "value": {"x": 1, "y": 1, "width": 1, "height": 1}}
    body = requests.predict(requests.task(1), label_config=CONFIG, context={"result": [region]})
    with client.post("/predict", json=body) as answer:
        assert answer.status_code == 200
    assert [row["task_id"] for row in client.get(P1).json["tasks"]] == [1]


def test_what_was_removed_is_forgotten_with_the_task_and_the_project(
    client: FlaskClient, services: Services
) -> None:
    put(client, SMALL)
    predict(client, 1, 2)
    assert client.post("/webhook", json=requests.event("TASKS_DELETED", tasks=[{"id": 1}])).status_code < 300
    apply_pending(services.store)
    assert [row["task_id"] for row in client.get(P1).json["tasks"]] == [2]
    assert client.post("/webhook", json=requests.event("PROJECT_DELETED")).status_code < 300
    apply_pending(services.store)
    with services.store.read() as session:
        assert rule_effects.newest(session, 1, 10) == []


@pytest.mark.changes_schema
def test_a_prediction_is_answered_although_nothing_can_be_stored(
    client: FlaskClient, services: Services, caplog: pytest.LogCaptureFixture
) -> None:
    put(client, SMALL)
    with services.store.write() as session:
        session.connection().exec_driver_sql("DROP TABLE rule_effect")
    (entry,) = predict(client, 1)
    assert tags(entry) == ["label", "why"]
    assert "project 1: what its rules have removed cannot be stored" in caplog.messages


def test_an_answer_does_not_wait_for_others_who_write(client: FlaskClient, services: Services) -> None:
    put(client, SMALL)
    body = json.dumps(requests.predict(requests.task(1), label_config=CONFIG)).encode()
    with services.store.write():
        answer = answer_prediction(services, body, {})
    assert json.loads(answer.body)["results"]
    assert client.get(P1).json["tasks"] == []
    assert answer.on_sent is not None
    answer.on_sent()
    assert [row["task_id"] for row in client.get(P1).json["tasks"]] == [1]


def test_the_model_is_asked_as_without_rules(client: FlaskClient, model_server: FakeModelServer) -> None:
    predict(client, 1)
    asked = [row.model_dump() for row in model_server.rows]
    model_server.rows.clear()
    put(client, SMALL)
    predict(client, 1)
    assert [row.model_dump() for row in model_server.rows] == asked
