"""In the real Label Studio: after one annotated scene, open tasks show boxes on the same kind of things.

Green stars are `part 17`, which no words say: before anything was annotated, nothing is found.
"""

import itertools
import time
from pathlib import Path
from typing import Any

import pytest
from selenium.webdriver import ActionChains, Chrome
from selenium.webdriver.support.ui import WebDriverWait

from lorabel.commands.connect import connect
from lorabel.demo.scenes import Scene, png, random_scenes
from lorabel.evaluation.box_matching import match_boxes
from lorabel.label_studio.client import LabelStudio
from lorabel.labeling.image_regions import corners_of, image_region
from lorabel.space_contracts import Corners
from tests.e2e.courses import data_url
from tests.e2e.label_studio_server import Server
from tests.e2e.lorabel_processes import Lorabel
from tests.e2e.test_browser import WAIT_S, LabelingStream
from tests.e2e.test_clicks_in_browser import ANNOTATION, Editor

pytestmark = pytest.mark.e2e

PART = "part 17"
PAIRS = (("green", "star"), ("red", "cross"), ("yellow", "triangle"))
SIZE = (192, 144)
CONFIG = (
    '<View><Image name="image" value="$image"/><RectangleLabels name="box" toName="image" smart="true">'
    f'<Label value="{PART}" background="magenta"/></RectangleLabels></View>'
)
UNSEEN = 8
TIMEOUT_S = 20.0
SUGGESTED = (
    ANNOTATION
    + "return Array.from(annotation.suggestions.values()).map(region =>"
    + " [region.x / 100, region.y / 100, (region.x + region.width) / 100, (region.y + region.height) / 100])"
)


def stars(scene: Scene) -> list[Corners]:
    return [thing.corners for thing in scene.things if (thing.colour, thing.shape) == PAIRS[0]]


def scenes() -> list[Scene]:
    """First a scene with two stars or more, which is annotated; then others with a star."""
    drawn = list(itertools.islice(random_scenes(77, SIZE, is_unseen=None, pairs=PAIRS), 60))
    first = next(scene for scene in drawn if len(stars(scene)) >= 2)
    others = [scene for scene in drawn if scene is not first and stars(scene)]
    return [first, *others[:UNSEEN]]


def connected_project(
    lorabel: Lorabel, label_studio: Server, client: LabelStudio, drawn: list[Scene]
) -> tuple[int, list[int]]:
    """The project's id, and the ids of its tasks in the order of the scenes."""
    body = {"title": "Others like this one", "label_config": CONFIG, "show_collab_predictions": True}
    project_id = client.call("POST", "/api/projects/", json=body)["id"]
    data = [{"image": data_url(png(scene), "image/png"), "number": number} for number, scene in enumerate(drawn)]
    client.call("POST", f"/api/projects/{project_id}/import", json=data)
    connect(lorabel.settings, label_studio.url, label_studio.token, project_id)
    ids = {task.data["number"]: task.task_id for task in client.tasks(project_id)}
    return project_id, [ids[number] for number in range(len(drawn))]


def annotate(client: LabelStudio, task_id: int, scene: Scene) -> None:
    """Submit the right boxes."""
    result = [
        image_region("box", "image", "rectanglelabels", corners, scene.size, {"rectanglelabels": [PART]})
        for corners in stars(scene)
    ]
    path = f"/api/tasks/{task_id}/annotations/"
    client.call("POST", path, json={"result": result, "lead_time": 1.0})


def next_task(client: LabelStudio, project_id: int) -> tuple[int, str, list[Corners]]:
    """The task that the labeling stream shows, the version of its prediction, and the predicted boxes."""
    task = client.call("GET", f"/api/projects/{project_id}/next", timeout_s=110.0)
    newest = max(task["predictions"], key=lambda prediction: prediction["id"])
    return task["id"], newest["model_version"], [corners_of(region) for region in newest["result"]]


def wait_for_head(client: LabelStudio, project_id: int) -> tuple[int, list[Corners]]:
    """The task that the stream shows and its boxes, once a head answers."""
    deadline = time.monotonic() + TIMEOUT_S
    while time.monotonic() < deadline:
        task_id, version, found = next_task(client, project_id)
        if ".h" in version:
            return task_id, found
        time.sleep(0.1)
    raise AssertionError(f"no head answers after {TIMEOUT_S:.0f} s")


def test_after_one_annotated_scene_the_next_tasks_show_the_same_kind_of_things(
    label_studio: Server, lorabel_up: Lorabel, client: LabelStudio
) -> None:
    drawn = scenes()
    project_id, task_ids = connected_project(lorabel_up, label_studio, client, drawn)
    first, version, found = next_task(client, project_id)
    assert (first, version) == (task_ids[0], f"p{project_id}.v0")
    assert not match_boxes(stars(drawn[0]), found), "words do not say what it is"

    annotate(client, first, drawn[0])
    opened, found = wait_for_head(client, project_id)
    assert opened == task_ids[1]
    assert len(match_boxes(stars(drawn[1]), found)) == len(stars(drawn[1]))
    client.call("POST", f"/api/dm/actions?id=retrieve_tasks_predictions&project={project_id}", timeout_s=110.0)
    hits, wanted, shown = 0, 0, 0
    for task_id, scene in zip(task_ids[1:], drawn[1:], strict=True):
        predictions = client.call("GET", f"/api/tasks/{task_id}")["predictions"]
        newest = max(predictions, key=lambda prediction: prediction["id"])
        places = [corners_of(region) for region in newest["result"]]
        hits += len(match_boxes(stars(scene), places))
        wanted, shown = wanted + len(stars(scene)), shown + len(places)
    assert hits >= 0.7 * wanted and hits >= 0.6 * shown, f"{hits} of {wanted} stars, {shown} boxes"


@pytest.mark.long
def test_the_editor_shows_the_others_in_this_picture_and_in_the_next_task(
    label_studio: Server, lorabel_up: Lorabel, client: LabelStudio, browser: Chrome, artifacts: Path
) -> None:
    drawn = scenes()
    project_id, task_ids = connected_project(lorabel_up, label_studio, client, drawn)
    LabelingStream(browser, label_studio.url, project_id).log_in()
    editor = Editor(browser)
    editor.open(label_studio.url, project_id)
    editor.choose_tool("RectangleTool", "box")
    example, *others = stars(drawn[0])
    drag(browser, editor, example)
    suggested = WebDriverWait(browser, WAIT_S).until(lambda _: browser.execute_script(SUGGESTED))
    editor.take_picture(artifacts / "others-in-this-picture.png")
    assert len(match_boxes([example, *others], suggested)) == len(suggested) == 1 + len(others), suggested

    editor.accept()
    kept = browser.execute_script(SUGGESTED.replace("suggestions", "areas"))
    assert len(match_boxes([example, *others], kept)) == len(kept) == 1 + len(others), (
        "the editor deletes what was drawn, unless it is suggested, too"
    )
    editor.submit()
    WebDriverWait(browser, WAIT_S).until(
        lambda _: browser.execute_script("return Number(window.Htx?.task?.id)") == task_ids[1]
    )
    wait_for_head(client, project_id)
    editor.open(label_studio.url, project_id)
    assert browser.execute_script("return Number(window.Htx.task.id)") == task_ids[1]
    regions: list[Any] = WebDriverWait(browser, WAIT_S).until(
        lambda _: browser.execute_script(SUGGESTED.replace("suggestions", "areas"))
    )
    editor.take_picture(artifacts / "others-in-the-next-task.png")
    assert len(match_boxes(stars(drawn[1]), regions)) == len(stars(drawn[1])), regions


def drag(browser: Chrome, editor: Editor, corners: Corners) -> None:
    """Draw a box with the tool that is chosen."""
    left, top, right, bottom = corners
    picture, x, y = editor.offset((left, top))
    _, to_x, to_y = editor.offset((right, bottom))
    actions = ActionChains(browser).move_to_element_with_offset(picture, x, y).click_and_hold()
    for share in (0.3, 0.6, 1.0):
        actions.move_to_element_with_offset(
            picture, round(x + share * (to_x - x)), round(y + share * (to_y - y))
        ).pause(0.1)
    actions.release().perform()
