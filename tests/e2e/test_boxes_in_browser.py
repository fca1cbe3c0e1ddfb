"""An annotator in Chromium sees boxes on the things, moves one, and submits."""

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from selenium.webdriver import ActionChains, Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from lorabel.commands.connect import connect
from lorabel.demo.scenes import Scene, png, random_scenes
from lorabel.evaluation.box_matching import match_boxes
from lorabel.label_studio.client import LabelStudio
from lorabel.labeling.image_regions import corners_of
from lorabel.space_contracts import Corners
from tests.e2e.courses import data_url
from tests.e2e.label_studio_server import Server
from tests.e2e.lorabel_processes import Lorabel
from tests.e2e.test_browser import WAIT_S, LabelingStream

pytestmark = pytest.mark.e2e

NAMES = ("blue square", "red cross", "green star")
PAIRS = (("blue", "square"), ("red", "cross"), ("green", "star"))
LABELS = "".join(f'<Label value="{name}" background="{name.split()[0]}"/>' for name in NAMES)
IMAGE = '<Image name="image" value="$image"/>'
CONFIGS = {
    "rectanglelabels": f'<View>{IMAGE}<RectangleLabels name="box" toName="image">{LABELS}</RectangleLabels>'
    "</View>",
    "group": f'<View>{IMAGE}<Rectangle name="shape" toName="image"/><Labels name="box" toName="image">{LABELS}'
    "</Labels></View>",
}
SIZE = (480, 300)
# What the editor has drawn; and where, in pixels of the page.
DRAWN = """
const annotation = window.Htx.annotationStore.selected;
return annotation.regionStore.regions.map(region => ({
  labels: region.labels, isReady: !!region.object.stageWidth,
}))
"""
ON_PAGE = """
const region = window.Htx.annotationStore.selected.regionStore.regions.find(
  region => region.labels.includes(arguments[0]));
const stage = region.object.stageRef, canvas = stage.content.getBoundingClientRect();
const node = stage.findOne('#' + region.id) || stage.findOne('.' + region.id);
const box = node.getClientRect({skipStroke: true});
return [canvas.left + box.x, canvas.top + box.y, box.width, box.height,
        canvas.left, canvas.top, canvas.width, canvas.height]
"""


def scene_of_all_names() -> Scene:
    """A scene with one thing of each name, in which the tiny model is sure of all three."""
    return next(
        scene
        for scene in itertools.islice(random_scenes(12, SIZE, pairs=PAIRS), 150, None)
        if {(thing.colour, thing.shape) for thing in scene.things} == set(PAIRS) and len(scene.things) == 3
    )


def drawn_boxes(result: list[dict[str, Any]]) -> list[tuple[str, Corners]]:
    """Label and place of each box in an annotation's result."""
    return [
        (region["value"].get("rectanglelabels", region["value"].get("labels"))[0], corners_of(region))
        for region in result
        if region["from_name"] == "box"
    ]


@pytest.mark.parametrize("kind", ["rectanglelabels", pytest.param("group", marks=pytest.mark.long)])
def test_boxes_stand_on_the_things_and_a_moved_one_is_submitted(
    kind: str, lorabel_up: Lorabel, label_studio: Server, client: LabelStudio, browser: Chrome, artifacts: Path
) -> None:
    scene = scene_of_all_names()
    project_id = client.call("POST", "/api/projects/", json={"title": kind, "label_config": CONFIGS[kind]})["id"]
    client.call("POST", f"/api/projects/{project_id}/import", json=[{"image": data_url(png(scene), "image/png")}])
    connect(lorabel_up.settings, label_studio.url, label_studio.token, project_id)
    things = {f"{thing.colour} {thing.shape}": thing.corners for thing in scene.things}
    look_move_and_submit(
        browser, label_studio, client, project_id, things, NAMES[1], artifacts / f"boxes-{kind}.png"
    )


def look_move_and_submit(
    browser: Chrome,
    label_studio: Server,
    client: LabelStudio,
    project_id: int,
    things: Mapping[str, Corners],
    moved: str,
    screenshot: Path,
) -> None:
    """Check the boxes of the task that the labeling stream shows, move one, and submit.

    Args:
        things: label -> the place of the only thing that has it. There are no others.
        moved: label of the box that is moved.
        screenshot: of the boxes as they are predicted; another one shows them after the move.
    """
    stream = LabelingStream(browser, label_studio.url, project_id)
    stream.log_in()
    browser.get(f"{label_studio.url}/projects/{project_id}/data?labeling=1")
    regions = WebDriverWait(browser, WAIT_S).until(_ready_regions)
    browser.save_screenshot(str(screenshot))

    assert sorted(label for region in regions for label in region["labels"]) == sorted(things)
    for label, corners in things.items():
        place = _fractions(browser, label)
        assert match_boxes([corners], [place]), f"{label} is not at {place}"

    before = _fractions(browser, moved)
    _drag(browser, moved, (40, 25))
    WebDriverWait(browser, WAIT_S).until(lambda _: _fractions(browser, moved)[0] > before[0] + 0.02)
    after = _fractions(browser, moved)
    browser.save_screenshot(str(screenshot.with_stem(f"{screenshot.stem}-moved")))
    task_id = int(browser.execute_script("return window.Htx.task.id"))
    stream.submit()
    submitted = WebDriverWait(browser, WAIT_S).until(lambda _: _submitted(client, project_id, task_id))
    assert sorted(label for label, _ in submitted) == sorted(things)
    assert dict(submitted)[moved] == pytest.approx(after, abs=0.01)


def _ready_regions(browser: Chrome) -> list[dict[str, Any]] | None:
    is_loaded = browser.execute_script("return !!(window.Htx && window.Htx.annotationStore?.selected)")
    regions = browser.execute_script(DRAWN) if is_loaded else []
    is_shown = browser.find_elements(By.CSS_SELECTOR, "canvas")
    return regions if regions and is_shown and all(region["isReady"] for region in regions) else None


def _fractions(browser: Chrome, label: str) -> Corners:
    """Where the box of a label is drawn, as fractions of the picture on the page."""
    x, y, width, height, left, top, of_width, of_height = browser.execute_script(ON_PAGE, label)
    return (
        (x - left) / of_width,
        (y - top) / of_height,
        (x + width - left) / of_width,
        (y + height - top) / of_height,
    )


def _drag(browser: Chrome, label: str, by_px: tuple[int, int]) -> None:
    """Choose the tool that moves regions, and drag the box of a label."""
    x, y, width, height, *_ = browser.execute_script(ON_PAGE, label)
    ActionChains(browser).send_keys("v").perform()
    actions = ActionChains(browser)
    actions.w3c_actions.pointer_action.move_to_location(int(x + width / 2), int(y + height / 2))
    actions.w3c_actions.pointer_action.click().pause(0.3)
    actions.w3c_actions.pointer_action.pointer_down().pause(0.2)
    for share in (0.3, 0.6, 1.0):
        actions.w3c_actions.pointer_action.move_to_location(
            int(x + width / 2 + share * by_px[0]), int(y + height / 2 + share * by_px[1])
        )
        actions.w3c_actions.pointer_action.pause(0.1)
    actions.w3c_actions.pointer_action.pointer_up()
    actions.w3c_actions.perform()


def _submitted(client: LabelStudio, project_id: int, task_id: int) -> list[tuple[str, Corners]]:
    """The boxes of the task's annotation; none until it is there."""
    (task,) = [task for task in client.tasks(project_id) if task.task_id == task_id]
    return drawn_boxes(task.annotations[0]["result"]) if task.annotations else []
