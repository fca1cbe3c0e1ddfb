"""Clicks and boxes of smart tools. The real editor sent the contexts, in tests/data/recordings/image-smart."""

import json
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient

from lorabel.mask_contracts import MOST_POINTS, MasksInput, Point, Prompt
from tests.backend import requests
from tests.backend.fake_answers import SURE
from tests.backend.fake_model_server import FakeModelServer

RECORDINGS = Path(__file__).parents[1] / "data/recordings/image-smart"
LABELS = '<Label value="Thing"/><Label value="Other"/>'
TOOLS = (
    f'<KeyPointLabels name="point" toName="image" smart="true">{LABELS}</KeyPointLabels>'
    f'<RectangleLabels name="box" toName="image" smart="true">{LABELS}</RectangleLabels>'
)
BRUSH = (
    f'<View><Image name="image" value="$image"/>{TOOLS}'
    f'<BrushLabels name="mask" toName="image">{LABELS}</BrushLabels></View>'
)
POLYGON = BRUSH.replace("BrushLabels", "PolygonLabels")


def context(recording: str) -> dict[str, Any]:
    body = json.loads((RECORDINGS / f"{recording}.json").read_text())["body"]
    return dict(body["params"]["context"])


def ask(client: FlaskClient, context: Any, label_config: str = BRUSH, name: str = "a") -> dict[str, Any]:
    task = requests.task(1, f"http://pictures.test/{name}.png")
    answer = client.post("/predict", json=requests.predict(task, label_config=label_config, context=context))
    assert answer.status_code == 200, answer.json
    [entry] = answer.json["results"]
    return dict(entry)


def prompts(model_server: FakeModelServer) -> tuple[Prompt, ...]:
    [row] = (row for row in model_server.rows if row.kind == MasksInput.kind)
    return MasksInput.model_validate(row.input).prompts


def test_a_click_is_answered_with_a_mask_of_its_label(client: FlaskClient, model_server: FakeModelServer) -> None:
    entry = ask(client, context("03-click-predict"))
    [prompt] = prompts(model_server)
    assert prompt == Prompt(label=0, points=(Point(x=0.42917847025495746, y=0.3994334277620396),))
    [region] = entry["result"]
    assert (region["from_name"], region["to_name"], region["type"]) == ("mask", "image", "brushlabels")
    assert (region["original_width"], region["original_height"]) == (4, 2)
    assert region["value"]["brushlabels"] == ["Thing"]
    assert region["value"]["format"] == "rle"
    assert entry["score"] == SURE


def test_a_second_click_comes_with_the_first_and_with_its_sign(
    client: FlaskClient, model_server: FakeModelServer
) -> None:
    ask(client, context("04-alt-click-predict"))
    [prompt] = prompts(model_server)
    assert [point.is_positive for point in prompt.points] == [True, False]


def test_an_empty_context_gets_nothing_since_nothing_was_drawn(
    client: FlaskClient, model_server: FakeModelServer
) -> None:
    """Whatever the editor gets it adds to the annotation."""
    tracks = (
        '<View><Video name="video" value="$image"/><VideoRectangle name="box" toName="video" smart="true"/>'
        f'<Labels name="label" toName="video">{LABELS}</Labels></View>'
    )
    for label_config in (tracks, requests.CONFIG, BRUSH):
        assert ask(client, {"result": []}, label_config)["result"] == []
    assert model_server.rows == []


def test_of_several_boxes_the_last_is_the_prompt(client: FlaskClient, model_server: FakeModelServer) -> None:
    ask(client, context("05-rectangle-predict"))
    [prompt] = prompts(model_server)
    assert prompt.points == ()
    assert prompt.corners == pytest.approx((0.21458923, 0.19971671, 0.75106232, 0.69971671))


def test_a_polygon_is_answered_where_the_label_config_has_polygons(client: FlaskClient) -> None:
    [region] = ask(client, context("03-click-predict"), POLYGON)["result"]
    assert region["type"] == "polygonlabels"
    assert sorted(region["value"]["points"]) == [[0, 0], [0, 50], [50, 0], [50, 50]]
    assert region["value"]["closed"] is True


def test_a_box_is_answered_where_the_label_config_has_only_boxes(
    client: FlaskClient, model_server: FakeModelServer
) -> None:
    recorded = json.loads((RECORDINGS / "03-click-predict.json").read_text())["body"]["label_config"]
    [region] = ask(client, context("03-click-predict"), recorded)["result"]
    assert (region["from_name"], region["type"]) == ("box", "rectanglelabels")
    place = {"x": 0, "y": 0, "width": 50, "height": 50, "rotation": 0, "rectanglelabels": ["Thing"]}
    assert region["value"] == place


def test_a_click_with_a_label_that_masks_do_not_have_is_answered_empty_and_says_why(
    client: FlaskClient, model_server: FakeModelServer, metric: Any, caplog: pytest.LogCaptureFixture
) -> None:
    recorded = json.loads((RECORDINGS / "03-click-predict.json").read_text())["body"]["label_config"]
    clicked = context("03-click-predict")
    clicked["result"][-1]["value"]["keypointlabels"] = ["Other"]
    assert ask(client, clicked, recorded)["result"] == []
    assert model_server.rows == []
    assert metric("lorabel_smart_tool_calls_total", outcome="unreadable") == 1
    assert "task 1: a smart tool gets no region" in caplog.text
    assert "'box' has none of the labels ['Other']" in caplog.text


def test_answered_and_unanswered_clicks_are_counted(
    client: FlaskClient, model_server: FakeModelServer, metric: Any, caplog: pytest.LogCaptureFixture
) -> None:
    model_server.outputs = {
        "nothing": {"masks": [{"label": 0, "runs": [8]}], "width": 4, "height": 2},
    }
    for name in ("a", "b", "nothing", "broken"):
        ask(client, context("03-click-predict"), name=name)
    outcomes = ("answered", "empty", "unreadable")
    counts = [metric("lorabel_smart_tool_calls_total", outcome=outcome) for outcome in outcomes]
    assert counts == [2, 1, 1]
    assert "a smart tool gets no region: the model finds nothing" in caplog.text
    assert "a smart tool gets no region: http://pictures.test/broken.png: no picture" in caplog.text


def test_a_failing_model_server_is_counted(
    client: FlaskClient, model_server: FakeModelServer, metric: Any
) -> None:
    model_server.status = 500
    body = requests.predict(requests.task(1), label_config=BRUSH, context=context("03-click-predict"))
    assert client.post("/predict", json=body).status_code >= 500
    assert metric("lorabel_smart_tool_calls_total", outcome="failed") == 1


ODD = [
    [{"from_name": "point", "type": "keypointlabels"}],
    [{"from_name": "point", "type": "keypointlabels", "value": {"keypointlabels": ["Thing"]}}],
    [{"from_name": "point", "type": "keypointlabels", "value": {"x": "1", "y": 2, "keypointlabels": ["Thing"]}}],
    [{"from_name": "point", "type": "keypointlabels", "value": {"x": 101, "y": 2, "keypointlabels": ["Thing"]}}],
    [{"from_name": "point", "type": "keypointlabels", "value": {"x": 1, "y": 2, "keypointlabels": [7]}}],
    [
        {
            "from_name": "point",
            "type": "keypointlabels",
            "is_positive": False,
            "value": {"x": 1, "y": 2, "keypointlabels": ["Thing"]},
        }
    ],
    [
        {
            "from_name": "box",
            "type": "rectanglelabels",
            "value": {"x": 1, "y": 2, "width": 0, "height": 3, "rectanglelabels": ["Thing"]},
        }
    ],
]


@pytest.mark.parametrize("odd", ODD)
def test_an_odd_context_is_answered_empty(
    client: FlaskClient, model_server: FakeModelServer, metric: Any, odd: Any
) -> None:
    assert ask(client, {"result": odd})["result"] == []
    assert model_server.rows == []
    assert metric("lorabel_smart_tool_calls_total", outcome="unreadable") == 1


NAMELESS = [[{}], [{"from_name": ["point"]}], [{"from_name": {}}], [{"from_name": "another"}]]


@pytest.mark.parametrize(
    "odd", [{}, {"result": []}, {"result": None}, {"result": [1]}, *({"result": each} for each in NAMELESS)]
)
def test_a_context_that_names_no_smart_tool_gets_a_normal_prediction(client: FlaskClient, odd: Any) -> None:
    assert ask(client, odd)["result"] == []


def test_a_task_that_is_opened_asks_for_no_mask_but_names_the_picture(
    client: FlaskClient, model_server: FakeModelServer
) -> None:
    """So that the model server can compute what the first click will need."""
    assert ask(client, None)["result"] == []
    assert prompts(model_server) == ()


def test_a_click_is_answered_where_another_control_tag_cannot_be(client: FlaskClient) -> None:
    other = '<Text name="text" value="$missing"/><Choices name="c" toName="text"><Choice value="x"/></Choices>'
    config = BRUSH.replace("<View>", f"<View>{other}")
    [region] = ask(client, context("03-click-predict"), config)["result"]
    assert region["from_name"] == "mask"


def test_a_click_that_cannot_be_answered_says_nothing_about_the_task(client: FlaskClient) -> None:
    clicked = context("03-click-predict")
    clicked["result"][-1]["is_positive"] = False
    assert ask(client, clicked)["result"] == []
    assert client.get("/api/v1/projects/1").json["unread"] == []


def test_more_clicks_than_a_model_can_bear_are_refused(client: FlaskClient, model_server: FakeModelServer) -> None:
    """The decoder of masks compares each click with each other: 100 000 would take all of its memory."""
    clicked = context("03-click-predict")["result"] * (MOST_POINTS + 1)
    assert ask(client, {"result": clicked})["result"] == []
    assert model_server.rows == []
    assert ask(client, {"result": clicked[:MOST_POINTS]})["result"] != []


def test_the_drawn_box_is_suggested_again_beside_those_like_it(client: FlaskClient) -> None:
    """To accept all suggestions deletes what was drawn with the smart tool."""
    config = f'<View><Image name="image" value="$image"/>{TOOLS[TOOLS.index("<Rectangle") :]}</View>'
    value = {"x": 60, "y": 60, "width": 20, "height": 20, "rotation": 0, "rectanglelabels": ["Thing"]}
    drawn = {"id": "mine", "from_name": "box", "to_name": "image", "type": "rectanglelabels", "value": value}
    first, other = ask(client, {"result": [{**drawn, "original_width": 400, "original_height": 200}]}, config)[
        "result"
    ]
    assert (first["id"], first["value"]) == ("mine", value)
    assert other.get("id") != "mine" and other["value"]["x"] == 25


GRADES = (
    f'<View><Image name="image" value="$image"/>{TOOLS[TOOLS.index("<Rectangle") :]}'
    '<Choices name="grade" toName="image" perRegion="true"><Choice value="new"/><Choice value="used"/></Choices>'
    '<Rating name="stars" toName="image" perRegion="true"/></View>'
)
DRAWN = {
    "id": "mine",
    "from_name": "box",
    "to_name": "image",
    "type": "rectanglelabels",
    "original_width": 400,
    "original_height": 200,
    "value": {"x": 60, "y": 60, "width": 20, "height": 20, "rotation": 0, "rectanglelabels": ["Thing"]},
}


def test_the_others_like_a_drawn_box_come_with_what_is_asked_about_each(
    client: FlaskClient, model_server: FakeModelServer
) -> None:
    """All questions about all regions that were found are one request."""
    mine, box, grade = ask(client, {"result": [DRAWN]}, GRADES)["result"]
    assert (mine["id"], mine["value"]) == ("mine", DRAWN["value"])
    assert [region["from_name"] for region in (box, grade)] == ["box", "grade"]
    assert box["id"] == grade["id"] != "mine"
    assert grade["value"]["x"] == box["value"]["x"] and grade["value"]["choices"] == ["new"]
    assert [row.kind for row in model_server.rows] == ["boxes", "each_labels", "each_rating"]
    assert len(model_server.requests) == 2


def test_what_cannot_be_answered_about_a_found_box_does_not_take_it_away(
    client: FlaskClient, model_server: FakeModelServer
) -> None:
    model_server.status, model_server.fails_from = 500, 1
    mine, box = ask(client, {"result": [DRAWN]}, GRADES)["result"]
    assert (mine["id"], box["from_name"]) == ("mine", "box")
