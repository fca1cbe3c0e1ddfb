"""EXPLAIN_IN: what /predict answers for control tags that are for explanations."""

import threading
from dataclasses import replace
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from backend import editor_explanations
from backend.services import EXTENSION, Services
from lorabel.contracts import LabelScores
from lorabel.explanations import editor
from lorabel.explanations.explanation import TagExplanation
from lorabel.explanations.label_nearness import ExplainedRegion, NearLabel
from lorabel.inference.messages import Priority
from lorabel.settings import Settings
from tests.backend import requests
from tests.backend.fake_model_server import FakeModelServer
from tests.backend.test_page_tasks import annotate
from tests.lorabel.fake_label_studio import FakeLabelStudio

TEXT = """<View><Text name="text" value="$text"/>
<Choices name="label" toName="text"><Choice value="red"/><Choice value="blue"/></Choices>
<TextArea name="lorabel_why" toName="text"/>
<Labels name="lorabel_why_words" toName="text"><Label value="says so"/><Label value="denies it"/></Labels>
</View>"""
PICTURE = """<View><Image name="image" value="$image"/>
<Choices name="label" toName="image"><Choice value="red"/><Choice value="blue"/></Choices>
<TextArea name="lorabel_why" toName="image"/>
<RectangleLabels name="lorabel_why_places" toName="image"><Label value="here"/></RectangleLabels></View>"""
BOXES = """<View><Image name="image" value="$image"/>
<RectangleLabels name="box" toName="image"><Label value="red"/><Label value="blue"/></RectangleLabels>
<TextArea name="lorabel_why" toName="image"/></View>"""
OPENED = "a blue pump and a blue door"


def text_task(task_id: int, text: str = OPENED) -> dict[str, Any]:
    return {"id": task_id, "data": {"text": text}, "project": 1, "annotations": [], "predictions": []}


def regions(client: FlaskClient, label_config: str, *tasks: dict[str, Any], context: Any = None) -> list[Any]:
    """By task the regions of the prediction, by control tag."""
    body = requests.predict(*tasks, label_config=label_config, context=context)
    answer = client.post("/predict", json=body)
    assert answer.status_code == 200, answer.json
    by_task = []
    for entry in answer.json["results"]:
        by_tag: dict[str, list[Any]] = {}
        for region in entry["result"]:
            by_tag.setdefault(region["from_name"], []).append(region)
        by_task.append(by_tag)
    return by_task


@pytest.fixture
def explain_in(app: Flask, settings: Settings) -> Any:
    """Sets EXPLAIN_IN and other settings, as if the backend had started with them. Returns the services."""
    opened: list[Services] = []

    def start(kinds: str, **more: Any) -> Services:
        changed = Settings(**{**settings.model_dump(exclude_unset=True), "explain_in": kinds, **more})
        opened.append(Services.open(changed))
        app.extensions[EXTENSION] = opened[-1]
        return opened[-1]

    first = app.extensions[EXTENSION]
    yield start
    app.extensions[EXTENSION] = first
    for services in opened:
        services.close()


def explanation_rows(model_server: FakeModelServer) -> list[Any]:
    return [row for request in model_server.requests for row in request.rows if row.kind == "explanation"]


def test_by_default_nothing_is_explained(client: FlaskClient, model_server: FakeModelServer) -> None:
    (by_tag,) = regions(client, TEXT, text_task(5))
    assert [*by_tag] == ["label"]
    assert not explanation_rows(model_server)


def test_a_textarea_says_which_words_carried_the_answer(client: FlaskClient, explain_in: Any) -> None:
    explain_in("textarea")
    (by_tag,) = regions(client, TEXT, text_task(5))
    assert [*by_tag] == ["label", "lorabel_why"]
    (region,) = by_tag["lorabel_why"]
    assert (region["type"], region["to_name"]) == ("textarea", "text")
    assert region["value"]["text"] == ['label: blue. For it: "blue" +1.0, "blue" +1.0.']
    assert by_tag["label"][0]["value"]["choices"] == ["blue"]


def test_words_are_marked_where_they_stand(client: FlaskClient, explain_in: Any) -> None:
    explain_in("regions")
    (by_tag,) = regions(client, TEXT, text_task(5))
    assert [*by_tag] == ["label", "lorabel_why_words"]
    marked = [region["value"] for region in by_tag["lorabel_why_words"]]
    assert [OPENED[value["start"] : value["end"]] for value in marked] == ["blue", "blue"]
    assert [value["start"] for value in marked] == [2, 18]
    assert {value["text"] for value in marked} == {"blue"}
    assert [value["labels"] for value in marked] == [["says so"]] * 2


def test_words_of_another_text_that_begins_alike_are_not_marked(client: FlaskClient, explain_in: Any) -> None:
    """The title is asked about, and explanations are shown in the body, which begins with it."""
    explain_in("regions")
    title_and_body = """<View><Text name="title" value="$title"/><Text name="text" value="$text"/>
<Choices name="label" toName="title"><Choice value="red"/><Choice value="blue"/></Choices>
<Labels name="lorabel_why_words" toName="text"><Label value="says so"/></Labels></View>"""
    task = text_task(5)
    task["data"]["title"] = "a blue pump"
    (by_tag,) = regions(client, title_and_body, task)
    assert [*by_tag] == ["label"]


@pytest.mark.parametrize("has_leaves_only", [True, False])
def test_the_model_server_knows_whether_a_taxonomys_path_must_end_at_a_leaf(
    client: FlaskClient, explain_in: Any, model_server: FakeModelServer, has_leaves_only: bool
) -> None:
    explain_in("textarea")
    leaves_only = ' leafsOnly="true"' if has_leaves_only else ""
    config = f"""<View><Text name="text" value="$text"/><TextArea name="lorabel_why" toName="text"/>
<Taxonomy name="kind" toName="text"{leaves_only}><Choice value="blue"><Choice value="door"/></Choice>
<Choice value="red"/></Taxonomy></View>"""
    regions(client, config, text_task(5))
    rows = explanation_rows(model_server)
    assert rows and {row.input["has_leaves_only"] for row in rows} == {has_leaves_only}


def test_nothing_is_explained_for_who_has_left(
    client: FlaskClient, explain_in: Any, model_server: FakeModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    services = explain_in("textarea")
    explain: Any = editor_explanations.explain

    def explain_to_nobody(*args: Any) -> Any:
        *others, caller = args
        return explain(*others, replace(caller, is_gone=lambda: True))

    monkeypatch.setattr(editor_explanations, "explain", explain_to_nobody)
    (by_tag,) = regions(client, TEXT, text_task(5))
    assert [*by_tag] == ["label"]
    assert counted(services) == {"late": 1.0} and not explanation_rows(model_server)


def test_places_of_a_picture_are_marked_where_the_model_sees_them(client: FlaskClient, explain_in: Any) -> None:
    """The fake sees the square in the middle of 800 x 400, and its upper right quarter carries the answer."""
    explain_in("textarea, regions")
    (by_tag,) = regions(client, PICTURE, requests.task(5))
    assert [*by_tag] == ["label", "lorabel_why_places"]
    (region,) = by_tag["lorabel_why_places"]
    assert (region["original_width"], region["original_height"]) == (800, 400)
    place = [region["value"][side] for side in ("x", "y", "width", "height")]
    assert place == pytest.approx([50.0, 0.0, 25.0, 50.0])
    assert region["value"]["rectanglelabels"] == ["here"]


def test_a_picture_is_not_computed_a_hundred_times_for_a_textarea(
    client: FlaskClient, explain_in: Any, model_server: FakeModelServer
) -> None:
    explain_in("textarea")
    (by_tag,) = regions(client, PICTURE, requests.task(5))
    assert [*by_tag] == ["label"]
    assert not explanation_rows(model_server)


def test_a_textarea_says_what_boxes_were_nearly_taken_for(client: FlaskClient, explain_in: Any) -> None:
    explain_in("textarea")
    (by_tag,) = regions(client, BOXES, requests.task(5))
    assert [*by_tag] == ["box", "lorabel_why"]
    assert by_tag["lorabel_why"][0]["value"]["text"] == ["box: red (next: blue, 2.0 less near)."]


def test_a_textarea_names_the_nearest_annotated_tasks(
    client: FlaskClient, explain_in: Any, label_studio: FakeLabelStudio
) -> None:
    services = explain_in("textarea")
    client.get("/api/v1/projects/1/search?q=a+red+star")  # embeds the tasks, as `lorabel index` does
    for annotation_id, task_id, label in ((1, 1, "blue"), (2, 3, "red")):
        annotate(services, annotation_id, task_id, label)
    (by_tag,) = regions(client, PICTURE, requests.task(2, "http://pictures.test/red-star.png"))
    assert by_tag["lorabel_why"][0]["value"]["text"] == ["Like task 1 (label: blue), task 3 (label: red)."]


def test_explanations_wait_behind_predictions_of_others(
    client: FlaskClient, explain_in: Any, model_server: FakeModelServer
) -> None:
    explain_in("textarea")
    regions(client, TEXT, text_task(5))
    asked = [request for request in model_server.requests if request.rows[0].kind == "explanation"]
    assert asked and {request.priority for request in asked} == {Priority.BULK}


def test_a_prediction_whose_explanation_fails_comes_without_it_and_is_counted(
    client: FlaskClient, explain_in: Any, model_server: FakeModelServer, caplog: pytest.LogCaptureFixture
) -> None:
    services = explain_in("textarea,regions")
    model_server.status, model_server.fails_from = 500, 1  # the first request is the prediction
    (by_tag,) = regions(client, TEXT, text_task(5))
    assert [*by_tag] == ["label"]
    assert counted(services) == {"failed": 1.0}
    assert "project 1, task 5: not explained in the editor" in caplog.text


def test_an_error_of_ours_costs_no_prediction(
    client: FlaskClient, explain_in: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    services = explain_in("textarea")

    def fail(*_: Any) -> None:
        raise RuntimeError("a fault")

    monkeypatch.setattr("lorabel.explanations.editor.sentences", fail)
    (by_tag,) = regions(client, TEXT, text_task(5))
    assert [*by_tag] == ["label"]
    assert counted(services) == {"failed": 1.0}
    assert "RuntimeError: a fault" in caplog.text


@pytest.mark.parametrize(
    ("explain_max_s", "wait_s"),
    [(0.2, 0.25), (0.04, 0.0)],  # the second is too little to ask the model server at all
)
def test_an_explanation_that_takes_too_long_is_left_out(
    client: FlaskClient, explain_in: Any, model_server: FakeModelServer, explain_max_s: float, wait_s: float
) -> None:
    services = explain_in("textarea", explain_max_s=explain_max_s)
    model_server.wait_s = wait_s
    (by_tag,) = regions(client, TEXT, text_task(5))
    assert [*by_tag] == ["label"]
    assert counted(services) == {"late": 1.0}


def test_who_finds_others_explaining_gets_the_prediction_without(client: FlaskClient, explain_in: Any) -> None:
    services = explain_in("textarea", explain_max_s=2.0)
    slots = [services.explanation_slots.acquire(blocking=False) for _ in range(2)]
    assert slots == [True, True]
    (by_tag,) = regions(client, TEXT, text_task(5))
    assert [*by_tag] == ["label"]
    assert counted(services) == {"late": 1.0}
    for _ in slots:
        services.explanation_slots.release()
    assert "lorabel_why" in regions(client, TEXT, text_task(6))[0]


def test_each_of_several_tasks_is_explained(client: FlaskClient, explain_in: Any) -> None:
    services = explain_in("textarea")
    first, unreadable, last = regions(client, TEXT, text_task(5), text_task(6, ""), text_task(7, "a red door"))
    assert first["lorabel_why"][0]["value"]["text"] == ['label: blue. For it: "blue" +1.0, "blue" +1.0.']
    assert unreadable == {}
    assert last["lorabel_why"][0]["value"]["text"] == ['label: red. For it: "red" +1.0.']
    assert counted(services) == {"written": 2.0}


def test_a_label_that_a_rule_has_removed_is_not_explained(client: FlaskClient, explain_in: Any) -> None:
    explain_in("textarea")
    rule = f'[[field]]\nname = "no blue"\nfield = "text"\nis = ["{OPENED}"]\nforbidden = ["blue"]\n'
    regions(client, TEXT, text_task(5))
    assert client.put("/api/v1/projects/1/rules", json={"file": rule}).status_code == 200
    (by_tag,) = regions(client, TEXT, text_task(5))
    assert by_tag == {}


def test_a_box_that_a_rule_has_removed_is_not_told() -> None:
    """Before, all boxes were told if one of them had a label that is still predicted."""
    near = (NearLabel("red", 2.0), NearLabel("blue", 0.0))
    boxes = tuple(
        ExplainedRegion(corners, "red", 0.9, near) for corners in ((0.1, 0.1, 0.5, 0.5), (0.6, 0.6, 0.7, 0.7))
    )
    value = {"x": 10, "y": 10, "width": 40, "height": 40, "rotation": 0, "rectanglelabels": ["red"]}
    predicted = [{"from_name": "box", "to_name": "image", "type": "rectanglelabels", "value": value}]
    explained = TagExplanation("box", regions=boxes)
    left = editor._of_predicted(explained, predicted)
    assert left is not None and left.regions == boxes[:1]
    assert editor._of_predicted(explained, [{**predicted[0], "value": {**value, "x": 50}}]) is None


def test_what_the_model_says_meanwhile_of_another_label_is_not_written(
    client: FlaskClient, explain_in: Any, model_server: FakeModelServer
) -> None:
    """A head that is fitted between prediction and explanation may have changed the answer."""
    explain_in("textarea,regions")
    released = threading.Event()
    predict = model_server.answer

    def changed(row: Any) -> Any:
        result = predict(row)
        if row.kind == "labels" and not released.is_set():
            released.set()
            result = result.model_copy(update={"output": LabelScores(probabilities=(0.9, 0.1)).model_dump()})
        return result

    model_server.answer = changed  # type: ignore[method-assign]
    (by_tag,) = regions(client, TEXT, text_task(5))
    assert by_tag["label"][0]["value"]["choices"] == ["red"]
    assert [*by_tag] == ["label"]


def test_a_smart_tool_gets_no_explanation(client: FlaskClient, explain_in: Any) -> None:
    explain_in("textarea")
    box = requests_box()
    config = BOXES.replace('name="box"', 'name="box" smart="true"')
    (by_tag,) = regions(client, config, requests.task(5), context={"result": [box]})
    assert [*by_tag] == ["box"]


def test_a_control_tag_that_cannot_show_explanations_has_a_reason(client: FlaskClient, explain_in: Any) -> None:
    explain_in("textarea,regions")
    bad = TEXT.replace(
        '<TextArea name="lorabel_why" toName="text"/>',
        '<Choices name="lorabel_why" toName="text"><Choice value="a"/></Choices>',
    )
    unserved = client.post("/setup", json=requests.setup(schema=bad)).json["unserved"]
    assert "<Choices> on Text cannot show explanations; expected <TextArea>" in unserved["lorabel_why"]
    (by_tag,) = regions(client, bad, text_task(5))
    assert [*by_tag] == ["label", "lorabel_why_words"]


def counted(services: Services) -> dict[str, float]:
    read = services.metrics._registry.get_sample_value
    outcomes = ("written", "empty", "failed", "late")
    values = {name: read("lorabel_editor_explanations_total", {"outcome": name}) or 0.0 for name in outcomes}
    return {name: value for name, value in values.items() if value}


def requests_box() -> dict[str, Any]:
    value = {"x": 10, "y": 10, "width": 20, "height": 20, "rotation": 0, "rectanglelabels": ["red"]}
    return {
        "id": "drawn",
        "from_name": "box",
        "to_name": "image",
        "type": "rectanglelabels",
        "origin": "manual",
        "original_width": 400,
        "original_height": 200,
        "value": value,
    }
