"""Explanations over REST and on the page of a task; the fake model server says what carried an answer."""

import io
import re
import socket
from typing import Any

import pytest
from flask.testing import FlaskClient
from PIL import Image

from backend.services import Services, explanation_slot
from lorabel.database import projects
from lorabel.inference.messages import Priority
from tests.backend import page_history
from tests.backend.fake_model_server import FakeModelServer
from tests.backend.test_page_tasks import TASKS, annotate, picture_url
from tests.backend.test_pages import get, text_of
from tests.lorabel.fake_label_studio import FakeLabelStudio

TASK = "/api/v1/projects/1/tasks/{}/explanation"
BOTH = """<View><Image name="image" value="$image"/><Text name="text" value="$text"/>
<Choices name="label" toName="image"><Choice value="red"/><Choice value="blue"/></Choices>
<Rating name="stars" toName="image"/>
<RectangleLabels name="box" toName="image"><Label value="red"/><Label value="blue"/></RectangleLabels>
<Text name="note" value="$note"/><Labels name="span" toName="note"><Label value="pump"/></Labels></View>"""


@pytest.fixture
def both(services: Services) -> dict[str, Any]:
    """A task with a picture and a text, and the data that it has."""
    projects.upsert(services.store, 1, label_config=BOTH, hostname=page_history.ADDRESS)
    data = {"image": picture_url(800, 400), "text": "a blue <b>pump</b>", "note": "a pump"}
    annotate(services, 1, 5, "blue", task_data=data)
    return data


def by_tag(answer: Any) -> dict[str, Any]:
    return {tag["control_tag"]: tag for tag in answer["control_tags"]}


def test_each_control_tag_is_explained_or_has_a_reason(client: FlaskClient, both: dict[str, Any]) -> None:
    response = client.get(TASK.format(5))
    assert response.status_code == 200
    tags = by_tag(response.json)
    label = tags["label"]
    assert (label["label"], label["labels"], label["reason"]) == ("red", ["red", "blue"], None)
    picture, text = label["contents"]
    assert (picture["modality"], picture["share"], picture["fit"]) == ("image", 0.25, "middle")
    assert picture["url"] == (both["image"] if len(both["image"]) <= 2000 else None)
    assert picture["heat"] == [[-0.5, 1.0], [0.0, 0.0]]
    assert (text["text"], text["share"]) == (both["text"], 0.75)
    assert {"start": 2, "end": 6, "word": "blue", "weight": 1.0} in text["words"]
    assert tags["span"]["reason"] == "answers of named_entities are not explained"
    assert (tags["stars"]["label"], tags["stars"]["score"], tags["stars"]["labels"]) == (None, 4.0, [])


def test_boxes_say_how_near_each_label_is(client: FlaskClient, both: dict[str, Any]) -> None:
    box = by_tag(client.get(TASK.format(5)).json)["box"]
    assert (box["label"], box["labels"], box["reason"]) == (None, [], None)
    assert box["url"] == (both["image"] if len(both["image"]) <= 2000 else None)
    (region,) = box["regions"]
    assert [region[side] for side in ("x", "y", "width", "height")] == [25.0, 25.0, 25.0, 50.0]
    assert (region["label"], region["score"]) == ("red", 0.9)
    assert [near["label"] for near in region["labels"]] == ["red", "blue"]
    assert [near["nearness"] for near in region["labels"]] == pytest.approx([2.197, 0.197], abs=1e-3)
    assert region["margin"] == pytest.approx(2.0)
    assert {(near["of_text"], near["is_taught"]) for near in region["labels"]} == {(None, None)}


@pytest.mark.usefixtures("both")
def test_the_page_draws_boxes_on_the_picture_and_lists_the_nearest_labels(client: FlaskClient) -> None:
    html = get(client, f"{TASKS}/5")
    # The picture is 800 x 400, shown at 640 x 320.
    assert '<rect x="160.0" y="80.0" width="160.0" height="160.0"/>' in html
    figure = html[html.index('<figure class="boxed">') : html.index("</ol>")]
    assert f'<image href="{TASKS}/5/pictures/0"' in figure
    rows = re.findall(r'<tr><th scope="row">(\w+)</th>.*?width="([\d.]+)" height="8"/><line', figure)
    assert [(label, float(width) > 50) for label, width in rows] == [("red", True), ("blue", True)]
    assert float(rows[0][1]) > float(rows[1][1])
    assert "+2.2" in text_of(figure) and "+0.2" in text_of(figure)
    assert "style=" not in html


def test_another_label_is_explained(client: FlaskClient, both: dict[str, Any]) -> None:
    assert by_tag(client.get(f"{TASK.format(5)}?label=blue").json)["label"]["label"] == "blue"
    assert by_tag(client.get(f"{TASK.format(5)}?label=green").json)["label"]["label"] == "red"


def test_predictions_go_between_the_pieces_of_an_explanation(
    client: FlaskClient, both: dict[str, Any], model_server: FakeModelServer
) -> None:
    client.get(TASK.format(5))
    asked = [request for request in model_server.requests if request.rows[0].kind == "explanation"]
    assert asked and all(request.priority == Priority.BULK for request in asked)
    pieces = [(len(row.input["contents"]), row.input["piece"]) for request in asked for row in request.rows]
    # Eight for each content: the rating's picture, and the picture and the text of the label.
    assert sorted(pieces) == [(count, piece) for count in (1, 2) for piece in range(8 * count)]


def test_all_pieces_explain_the_label_that_the_first_has_found(
    client: FlaskClient, both: dict[str, Any], model_server: FakeModelServer
) -> None:
    """The likeliest label may change between two pieces."""
    client.get(TASK.format(5))
    asked = [row for request in model_server.requests for row in request.rows if row.kind == "explanation"]
    labels = [row.input["label"] for row in asked if row.input["labels"]]
    assert labels == [None] + [0] * 15


@pytest.mark.parametrize(("count", "is_explained"), [(16, True), (17, False)])
def test_a_task_of_many_contents_has_a_reason_and_of_several_few_pieces(
    client: FlaskClient, services: Services, model_server: FakeModelServer, count: int, is_explained: bool
) -> None:
    config = BOTH.replace('value="$image"', 'valueList="$image"')
    projects.upsert(services.store, 1, label_config=config, hostname=page_history.ADDRESS)
    pictures = [picture_url(8 + number, 8) for number in range(count - 1)]
    annotate(services, 1, 5, "blue", task_data={"image": pictures, "text": "a blue pump"})
    reason = by_tag(client.get(TASK.format(5)).json)["label"]["reason"]
    assert (reason is None) == is_explained
    asked = [row.input for request in model_server.requests for row in request.rows if row.kind == "explanation"]
    assert len([question for question in asked if question["labels"]]) == (32 if is_explained else 0)
    assert reason is None or "more than 16 contents" in reason


def test_the_nearest_annotated_tasks_are_beside_it(
    client: FlaskClient, services: Services, label_studio: FakeLabelStudio
) -> None:
    for annotation_id, task_id, label in ((1, 1, "blue"), (2, 3, "blue"), (3, 3, "red")):
        annotate(services, annotation_id, task_id, label)
    answer = client.get(TASK.format(2)).json
    assert [(near["task_id"], near["labels"]) for near in answer["nearest"]] == [
        (1, {"label": ["blue"]}),
        (3, {"label": ["red"]}),
    ]
    assert answer["nearest"][0]["url"] == f"{label_studio.url}/projects/1/data?task=1"
    assert answer["nearest_reason"] is None


def test_a_task_is_explained_although_nothing_is_like_it(client: FlaskClient, both: dict[str, Any]) -> None:
    answer = client.get(TASK.format(5)).json
    assert answer["nearest"] == [] and answer["nearest_reason"]


def test_a_failing_model_server_is_the_reason(
    client: FlaskClient, both: dict[str, Any], model_server: FakeModelServer
) -> None:
    model_server.status = 500
    response = client.get(TASK.format(5))
    assert response.status_code == 200
    assert all(tag["reason"] for tag in response.json["control_tags"])
    assert "Not explained" in text_of(get(client, f"{TASKS}/5"))


@pytest.mark.parametrize("output", [{"label": 7, "score": 0.5, "contents": []}, {"label": 0}, None])
def test_an_answer_that_makes_no_sense_is_a_reason(
    client: FlaskClient, both: dict[str, Any], model_server: FakeModelServer, output: Any
) -> None:
    model_server.outputs["data:"] = output
    response = client.get(TASK.format(5))
    assert response.status_code == 200
    assert "makes no sense" in by_tag(response.json)["label"]["reason"]


@pytest.mark.usefixtures("both")
def test_an_unknown_task_or_project_is_404(client: FlaskClient) -> None:
    assert client.get(TASK.format(77)).status_code == 404
    assert client.get(TASK.format(5).replace("projects/1", "projects/9")).status_code == 404
    assert client.get(f"{TASKS}/77").status_code == 404
    assert client.get(f"{TASKS}/5/pictures/1").status_code == 404


@pytest.mark.usefixtures("both")
def test_threads_for_predictions_that_are_all_taken_are_503(client: FlaskClient, services: Services) -> None:
    while services.prediction_slots.acquire(blocking=False):
        """Every thread for predictions is taken."""
    assert client.get(TASK.format(5)).status_code == 503


@pytest.mark.usefixtures("both")
def test_few_explanations_are_computed_at_once(client: FlaskClient, services: Services) -> None:
    with explanation_slot(services), explanation_slot(services):
        refused, page = client.get(TASK.format(5)), client.get(f"{TASKS}/5")
    assert (refused.status_code, page.status_code) == (503, 503)
    assert int(refused.headers["Retry-After"]) > 0 and "Retry-After" in page.headers
    assert "other explanations are being computed" in text_of(page.text)
    assert client.get(TASK.format(5)).status_code == 200


@pytest.mark.usefixtures("both")
@pytest.mark.parametrize("path", [TASK.format(5), f"{TASKS}/5"])
def test_an_explanation_is_given_up_when_the_reader_leaves(
    client: FlaskClient, model_server: FakeModelServer, path: str
) -> None:
    ours, theirs = socket.socketpair()
    theirs.close()
    model_server.wait_s = 0.5
    with ours:
        answer = client.get(path, environ_overrides={"gunicorn.socket": ours})
    assert "cannot be reached" in answer.text


@pytest.mark.usefixtures("both")
def test_the_page_draws_over_the_picture_and_marks_the_words(client: FlaskClient) -> None:
    html = get(client, f"{TASKS}/5")
    # The picture is 800 x 400, shown at 640 x 320; the model sees the square in its middle, in 2 x 2 cells.
    assert '<svg viewBox="0 0 640 320"' in html
    rects = re.findall(r'<rect class="(\w+)" x="([\d.]+)" y="([\d.]+)" width="([\d.]+)"', html)
    assert rects == [("against", "160.0", "0.0", "160.0"), ("for", "320.0", "0.0", "160.0")]
    assert f'<image href="{TASKS}/5/pictures/0"' in html
    assert "speaks most for the answer is at the" in html
    assert '<mark class="for strength4">blue</mark>' in html
    assert "&lt;b&gt;" in html and "<b>pump" not in html
    assert "style=" not in html
    assert f'href="{TASKS}/5?label=blue"' in html
    shown = client.get(f"{TASKS}/5/pictures/0")
    assert Image.open(io.BytesIO(shown.data)).size == (640, 320)
    assert 'aria-current="true">blue' in get(client, f"{TASKS}/5?label=blue")


def test_the_list_of_tasks_leads_to_the_page(client: FlaskClient, label_studio: FakeLabelStudio) -> None:
    assert f'href="{TASKS}/2"' in get(client, f"{TASKS}?q=a+red+star")
    assert "why" in text_of(get(client, f"{TASKS}/2"))
