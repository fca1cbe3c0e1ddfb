"""What a model that writes is told: set by hand, or kept where people submit the answers unchanged."""

from typing import Any

import pytest
from flask.testing import FlaskClient
from sqlalchemy import text

from backend.services import Services
from lorabel.database import instructions
from lorabel.database.instructions import KEPT_AFTER, note_typed
from lorabel.database.tables import Project, TypedInstruction
from lorabel.labeling.regions import textarea
from lorabel.text_contracts import TextInput, WrittenText
from tests.backend import requests
from tests.backend.fake_model_server import FakeModelServer
from workers.collect import apply_pending

P1 = "/api/v1/projects/1"
CONFIG = (
    '<View><Text name="text" value="$text"/><TextArea name="ask" toName="text" smart="true"/>'
    '<TextArea name="answer" toName="text" prompt="Sum up."/></View>'
)
DATA = {"text": "The pump leaks."}


@pytest.fixture(autouse=True)
def answer(model_server: FakeModelServer) -> None:
    model_server.outputs["pump"] = WrittenText(text="The pump.", probability=0.9).model_dump()


def task(task_id: int) -> dict[str, Any]:
    return {**requests.task(task_id), "data": DATA}


def predict(client: FlaskClient, task_id: int, context: Any = None) -> dict[str, Any]:
    body = requests.predict(task(task_id), label_config=CONFIG, context=context)
    answer = client.post("/predict", json=body)
    assert answer.status_code == 200, answer.json
    return dict(answer.json["results"][0])


def ask(client: FlaskClient, task_id: int, *typed: str) -> list[dict[str, Any]]:
    result: list[dict[str, Any]] = predict(client, task_id, {"result": [textarea("ask", "text", typed)]})["result"]
    return result


def told(model_server: FakeModelServer) -> str:
    """The instruction of the last question."""
    return TextInput.model_validate(model_server.rows[-1].input).instruction


def send(client: FlaskClient, task_id: int, result: list[dict[str, Any]], number: int = 0) -> None:
    annotation = {
        "id": 100 * task_id + number,
        "task": task_id,
        "result": result,
        "was_cancelled": False,
        "updated_at": f"2026-01-01T00:00:{number:02}Z",
    }
    event = {
        **requests.event("ANNOTATION_CREATED"),
        "annotation": annotation,
        "task": {"id": task_id, "data": DATA},
    }
    assert client.post("/webhook", json=event).status_code < 300


def submit(
    client: FlaskClient, services: Services, task_id: int, result: list[dict[str, Any]], number: int = 0
) -> None:
    send(client, task_id, result, number)
    apply_pending(services.store)


def typed_tasks(services: Services) -> list[int]:
    """The tasks on which something was typed that is remembered."""
    with services.store.read() as session:
        return [row.task_id for row in session.query(TypedInstruction).order_by(TypedInstruction.id)]


def test_what_is_typed_is_asked_in_place_of_the_label_configs_instruction(
    client: FlaskClient, model_server: FakeModelServer
) -> None:
    predict(client, 1)
    assert told(model_server) == "Sum up."
    (region,) = ask(client, 1, "What leaks?", " Where?  ")
    assert told(model_server) == "Where?", "the last one"
    assert region["from_name"] == "answer"
    predict(client, 1)
    assert told(model_server) == "Sum up."


@pytest.mark.parametrize("typed", [[], ["", "  "], None, 7, [None]])
def test_a_prompt_box_with_nothing_in_it_gets_no_region(
    client: FlaskClient, model_server: FakeModelServer, typed: Any
) -> None:
    region = {"from_name": "ask", "to_name": "text", "type": "textarea", "value": {"text": typed}}
    assert predict(client, 1, {"result": [region]})["result"] == []
    assert model_server.rows == []


def test_an_instruction_is_kept_after_its_answers_were_submitted_unchanged_on_enough_tasks(
    client: FlaskClient, services: Services, model_server: FakeModelServer
) -> None:
    for task_id in range(1, KEPT_AFTER + 1):
        predict(client, task_id)
        assert told(model_server) == "Sum up."
        answer = ask(client, task_id, "What leaks?")
        submit(client, services, task_id, [textarea("ask", "text", ["What leaks?"]), *answer])
        submit(client, services, task_id, [textarea("ask", "text", ["What leaks?"]), *answer], number=1)
    assert client.get(f"{P1}/instructions").json == {"by_hand": {}, "kept": {"answer": "What leaks?"}}
    predict(client, 9)
    assert told(model_server) == "What leaks?"


def test_an_instruction_whose_answers_are_corrected_is_not_kept(
    client: FlaskClient, services: Services, model_server: FakeModelServer
) -> None:
    for task_id in (1, 2, 3):
        (answer,) = ask(client, task_id, "What leaks?")
        submit(client, services, task_id, [textarea("answer", "text", ["The valve."])])
    submit(client, services, 4, [answer])  # on which nothing was typed
    (answer,) = ask(client, 5, "What leaks?")
    submit(client, services, 5, [answer])
    (answer,) = ask(client, 6, "Who?")
    submit(client, services, 6, [answer])
    assert client.get(f"{P1}/instructions").json["kept"] == {}


def test_what_is_set_by_hand_goes_first_and_null_removes_both(
    client: FlaskClient, services: Services, model_server: FakeModelServer
) -> None:
    for task_id in (1, 2):
        submit(client, services, task_id, ask(client, task_id, "What leaks?"))
    body = {"instructions": {"answer": "Translate."}}
    expected = {"by_hand": {"answer": "Translate."}, "kept": {"answer": "What leaks?"}}
    assert client.put(f"{P1}/instructions", json=body).json == expected
    predict(client, 3)
    assert told(model_server) == "Translate."
    extra_params = '{"instruction": {"answer": "Count."}}'
    client.post("/setup", json=requests.setup(schema=CONFIG, extra_params=extra_params))
    predict(client, 3)
    assert told(model_server) == "Count.", "extra params go before all"
    client.post("/setup", json=requests.setup(schema=CONFIG))
    cleared = client.put(f"{P1}/instructions", json={"instructions": {"answer": None}})
    assert cleared.json == {"by_hand": {}, "kept": {}}
    predict(client, 3)
    assert told(model_server) == "Sum up."
    answer = ask(client, 3, "What leaks?")
    submit(client, services, 3, answer)
    assert client.get(f"{P1}/instructions").json["kept"] == {}, "what was accepted before counts no more"


@pytest.mark.parametrize(
    "body", [{}, {"instructions": []}, {"instructions": {"answer": 7}}, {"instructions": None}]
)
def test_other_bodies_are_refused(client: FlaskClient, body: Any) -> None:
    client.post("/setup", json=requests.setup(schema=CONFIG))
    assert client.put(f"{P1}/instructions", json=body).status_code == 400
    assert client.put(f"{P1.replace('1', '9')}/instructions", json={"instructions": {}}).status_code == 404


def test_only_the_newest_typed_instructions_are_remembered_and_no_answer_is(
    client: FlaskClient, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(instructions, "MOST_TYPED", 4)
    client.post("/setup", json=requests.setup(schema=CONFIG))
    for number in range(4 + 3):
        note_typed(services.store, 1, number, "answer", "What?", [textarea("answer", "text", ["secret words"])])
    with services.store.read() as session:
        rows = session.query(TypedInstruction).order_by(TypedInstruction.id).all()
        assert [row.task_id for row in rows] == list(range(3, 4 + 3))
        assert all("secret" not in row.answer_digest for row in rows)
        assert session.get_one(Project, 1).instructions is None


def test_annotations_of_one_task_that_arrive_together_count_as_if_they_came_one_by_one(
    client: FlaskClient, services: Services
) -> None:
    corrected = [textarea("answer", "text", ["The valve."])]
    for task_id in (1, 2):
        answer = ask(client, task_id, "What leaks?")
        send(client, task_id, answer)
        send(client, task_id, corrected, number=1)
        apply_pending(services.store)
        assert ("answer" in client.get(f"{P1}/instructions").json["kept"]) is (task_id == 2), "a task counts once"


@pytest.mark.changes_schema
def test_the_answer_reaches_the_annotator_also_where_it_cannot_be_remembered(
    client: FlaskClient, services: Services, caplog: pytest.LogCaptureFixture
) -> None:
    predict(client, 1)
    with services.store.write() as session:
        session.execute(text("ALTER TABLE typed_instruction RENAME TO gone"))
    (region,) = ask(client, 1, "What leaks?")
    assert region["value"]["text"] == ["The pump."]
    assert "task 1: an instruction cannot be remembered" in caplog.text
    with services.store.write() as session:
        session.execute(text("ALTER TABLE gone RENAME TO typed_instruction"))
    ask(client, 1, "What leaks?")
    assert typed_tasks(services) == [1]


def test_what_was_typed_goes_with_its_task_and_with_the_project(client: FlaskClient, services: Services) -> None:
    for task_id in (1, 2, 3):
        ask(client, task_id, "What leaks?")
    note_typed(services.store, 2, 1, "answer", "What?", [textarea("answer", "text", ["of another project"])])
    client.post("/webhook", json={**requests.event("TASKS_DELETED"), "tasks": [{"id": 1}, {"id": 3}]})
    apply_pending(services.store)
    assert typed_tasks(services) == [2, 1]
    client.post("/webhook", json=requests.event("PROJECT_DELETED"))
    apply_pending(services.store)
    with services.store.read() as session:
        assert [row.project_id for row in session.query(TypedInstruction)] == [2]


def test_a_prompt_box_in_a_task_without_an_id_is_refused_and_nothing_is_remembered(
    client: FlaskClient, services: Services, model_server: FakeModelServer
) -> None:
    """Label Studio always sends the id. Without it nobody could tell on which task an answer was accepted."""
    body = requests.predict(task(1), label_config=CONFIG, context={"result": [textarea("ask", "text", ["Who?"])]})
    body["tasks"][0]["id"] = None
    answer = client.post("/predict", json=body)
    assert answer.status_code == 400 and "tasks.0.id" in answer.json["error"]
    assert model_server.rows == [] == typed_tasks(services)
