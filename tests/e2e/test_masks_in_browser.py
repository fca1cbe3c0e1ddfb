"""An annotator in Chromium sees masks on the things that the labels name, without a click, and submits them."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from selenium.webdriver import Chrome
from selenium.webdriver.support.ui import WebDriverWait

from lorabel.commands.connect import connect
from lorabel.demo.scenes import Scene, png
from lorabel.label_studio.client import LabelStudio
from lorabel.labeling.bit_masks import BitMask, decode, fill_polygon
from tests.e2e.courses import data_url
from tests.e2e.label_studio_server import Server
from tests.e2e.lorabel_processes import Lorabel
from tests.e2e.test_boxes_in_browser import NAMES, SIZE, scene_of_all_names
from tests.e2e.test_browser import WAIT_S, LabelingStream

pytestmark = [pytest.mark.e2e, pytest.mark.long]

LABELS = "".join(f'<Label value="{name}" background="#ff00ff"/>' for name in NAMES)
CONFIG = (
    '<View><Image name="image" value="$image"/><{tag} name="mask" toName="image">' + LABELS + "</{tag}></View>"
)
LEAST_IOU = 0.6
DRAWN = """
const annotation = window.Htx?.annotationStore?.selected;
if (!annotation || !annotation.names.get('image').imageIsLoaded) return [];
return annotation.regionStore.regions.map(region => region.labels[0])
"""
# Where the picture is, in pixels of the page.
PLACE = """
const stage = window.Htx.annotationStore.selected.names.get('image');
const canvas = document.querySelector('.konvajs-content').getBoundingClientRect();
return [canvas.left, canvas.top, stage.stageWidth, stage.stageHeight]
"""
HIDE = "window.Htx.annotationStore.selected.regionStore.regions.forEach(region => region.toggleHidden())"


def mask_of_result(region: dict[str, Any]) -> BitMask:
    """The mask that Label Studio has stored."""
    value = region["value"]
    if "rle" in value:
        return decode(value["rle"], *SIZE)
    return fill_polygon([(x / 100 * SIZE[0], y / 100 * SIZE[1]) for x, y in value["points"]], *SIZE)


def iou(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> float:
    return float((first & second).sum() / (first | second).sum())


@pytest.mark.parametrize("tag", ["BrushLabels", "PolygonLabels"])
def test_masks_stand_on_the_things_with_their_labels_and_are_submitted(
    tag: str, lorabel_up: Lorabel, label_studio: Server, client: LabelStudio, browser: Chrome, artifacts: Path
) -> None:
    scene = scene_of_all_names()
    project = {"title": tag, "label_config": CONFIG.format(tag=tag)}
    project_id = client.call("POST", "/api/projects/", json=project)["id"]
    client.call("POST", f"/api/projects/{project_id}/import", json=[{"image": data_url(png(scene), "image/png")}])
    connect(lorabel_up.settings, label_studio.url, label_studio.token, project_id)
    stream = LabelingStream(browser, label_studio.url, project_id)
    stream.log_in()
    browser.get(f"{label_studio.url}/projects/{project_id}/data?labeling=1")
    labels = WebDriverWait(browser, WAIT_S).until(lambda _: browser.execute_script(DRAWN))
    assert sorted(labels) == sorted(NAMES)

    things = np.any([scene.mask(thing) for thing in scene.things], axis=0)
    WebDriverWait(browser, WAIT_S).until(lambda _: iou(painted(browser), things) > LEAST_IOU)
    browser.save_screenshot(str(artifacts / f"masks-{tag}.png"))

    stream.submit()
    (annotation,) = WebDriverWait(browser, WAIT_S).until(lambda _: submitted(client, project_id))
    assert len(annotation["result"]) == len(NAMES)
    for region in annotation["result"]:
        (label,) = region["value"][tag.lower()]
        assert iou(mask_of_result(region), mask_of_thing(scene, label)) > LEAST_IOU, label


def painted(browser: Chrome) -> BitMask:
    """The pixels of the picture that look different while the regions are hidden."""
    shown = page(browser)
    browser.execute_script(HIDE)
    hidden = page(browser)
    browser.execute_script(HIDE)
    left, top, width, height = browser.execute_script(PLACE)
    differs = np.abs(shown - hidden).max(axis=2) > 20
    cut = differs[int(top) : int(top + height), int(left) : int(left + width)]
    found: BitMask = np.asarray(Image.fromarray(cut).resize(SIZE, Image.Resampling.NEAREST))
    return found


def page(browser: Chrome) -> NDArray[np.int16]:
    """(height, width, 3): what is on the screen."""
    return np.asarray(Image.open(io.BytesIO(browser.get_screenshot_as_png())).convert("RGB")).astype(np.int16)


def mask_of_thing(scene: Scene, name: str) -> BitMask:
    (thing,) = (thing for thing in scene.things if f"{thing.colour} {thing.shape}" == name)
    return scene.mask(thing)


def submitted(client: LabelStudio, project_id: int) -> list[dict[str, Any]]:
    return [annotation for task in client.tasks(project_id) for annotation in task.annotations]
