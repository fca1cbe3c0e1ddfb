"""Every recorded request of the real Label Studio gets an answer that Label Studio can use."""

import json
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient
from sqlalchemy import select

from backend.services import Services
from lorabel.database.tables import Event, EventState
from lorabel.labeling.label_config import parse
from lorabel.problems.binding import bind
from lorabel.problems.interactive_segmentation import InteractiveSegmentation
from lorabel.problems.named_entities import NamedEntities

RECORDINGS = Path(__file__).parents[1] / "data" / "recordings"
FILES = sorted(RECORDINGS.glob("*/*.json"))


def read(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text()))


def send(client: FlaskClient, recorded: dict[str, Any]) -> Any:
    headers = {name: value for name, value in recorded["headers"].items() if name != "Authorization"}
    return client.open(recorded["path"], method=recorded["method"], headers=headers, json=recorded["body"])


def test_there_are_recordings() -> None:
    assert len(FILES) > 90


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_recorded_request_gets_an_answer_that_label_studio_can_use(
    path: Path, client: FlaskClient, services: Services
) -> None:
    recorded = read(path)
    if recorded["body"] and recorded["body"].get("action") == "START_TRAINING":
        # Label Studio has called /setup long before.
        send(client, read(next(path.parent.glob("*-setup.json"))))
    answer = send(client, recorded)
    assert answer.status_code == 200
    assert isinstance(answer.json, dict)
    check = {
        "/health": check_health,
        "/setup": check_setup,
        "/predict": check_predict,
        "/webhook": check_webhook,
        "/versions": check_versions,
    }[recorded["path"]]
    check(recorded["body"], answer.json, services)


def check_health(_: Any, answer: dict[str, Any], __: Services) -> None:
    assert answer["status"] == "UP"


def check_setup(body: dict[str, Any], answer: dict[str, Any], _: Services) -> None:
    project_id = body["project"].split(".")[0]
    assert answer["model_version"] == f"p{project_id}.v0"


def check_versions(_: Any, answer: dict[str, Any], __: Services) -> None:
    assert answer == {"versions": []}


def check_webhook(body: dict[str, Any], answer: dict[str, Any], services: Services) -> None:
    assert answer["status"] == "ok"
    with services.store.read() as session:
        event = session.scalars(select(Event)).one()
    assert event.action == body["action"]
    assert event.project_id == body["project"]["id"]
    assert json.loads(event.payload) == body
    is_training = body["action"] == "START_TRAINING"
    assert event.state == (EventState.APPLIED if is_training else EventState.PENDING)
    assert ("job" in answer) == is_training


def is_click(body: dict[str, Any]) -> bool:
    regions = (body["params"]["context"] or {}).get("result", [])
    return bool(regions) and regions[-1]["type"] == "keypointlabels"


def check_predict(body: dict[str, Any], answer: dict[str, Any], _: Services) -> None:
    results = answer["results"]
    assert len(results) == len(body["tasks"])
    bindings = bind(body["label_config"]).bindings
    is_served = bool(bindings)
    is_interactive = body["params"]["context"] is not None
    # A base model finds no spans before it is trained, and no masks without a click.
    has_empty_results = all(isinstance(binding, NamedEntities) for binding in bindings) or (
        all(isinstance(binding, InteractiveSegmentation) for binding in bindings) and not is_click(body)
    )
    for task, entry in zip(body["tasks"], results, strict=True):
        if not is_served:
            assert entry == [] or (is_interactive and entry["result"] == [])
            continue
        assert entry["model_version"] == f"p{body['project'].split('.')[0]}.v0"
        assert 0 < entry["score"] <= 1
        assert bool(entry["result"]) != has_empty_results, f"task {task['id']}"
        label_config = parse(body["label_config"])
        assert not [error for region in entry["result"] for error in label_config.find_region_errors(region)]


def test_every_event_of_a_recorded_session_is_stored_in_order(client: FlaskClient, services: Services) -> None:
    sent = [read(path) for path in FILES if path.parent.name == "image-choices"]
    for recorded in sent:
        assert send(client, recorded).status_code == 200
    with services.store.read() as session:
        stored = [json.loads(event.payload) for event in session.scalars(select(Event).order_by(Event.id))]
    assert stored == [recorded["body"] for recorded in sent if recorded["path"] == "/webhook"]
