"""An annotator clicks on things in Label Studio's own editor, and gets their masks."""

import io
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from selenium.webdriver import ActionChains, Chrome, Keys
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait

from lorabel.commands.connect import Outcome, connect
from lorabel.database.project_keys import LabelStudioId
from lorabel.demo.mask_scenes import MaskScene, mask_scenes
from lorabel.label_studio.client import LabelStudio
from lorabel.labeling.bit_masks import decode, inner_point
from tests.e2e.label_studio_server import Server
from tests.e2e.lorabel_processes import Lorabel
from tests.e2e.test_browser import LabelingStream

pytestmark = pytest.mark.e2e

SEED, SIDE_PX = 2026, 320
WAIT_S = 60
# The detector knows nothing of this name, so nothing is predicted without a click.
LABEL_CONFIG = """<View>
  <Image name="image" value="$image"/>
  <BrushLabels name="mask" toName="image"><Label value="Part 17" background="#e0218a"/></BrushLabels>
  <KeyPointLabels name="click" toName="image" smart="true">
    <Label value="Part 17" background="#1b7f3b" showInline="true"/>
  </KeyPointLabels>
  <RectangleLabels name="box" toName="image" smart="true">
    <Label value="Part 17" background="#0d47a1"/>
  </RectangleLabels>
</View>"""
ANNOTATION = "const annotation = window.Htx.annotationStore.selected; "


class Editor:
    """Label Studio's editor with the switch "Auto-Annotation" on."""

    def __init__(self, browser: Chrome) -> None:
        self._browser = browser

    def open(self, url: str, project_id: int) -> None:
        self._browser.get(f"{url}/projects/{project_id}/data?labeling=1")
        self._wait_for(ANNOTATION + "return annotation.names.get('image').imageIsLoaded")
        switch = self._browser.find_element(By.XPATH, "//*[contains(text(), 'Auto-Annotation')]")
        # The browser remembers it.
        if not self._browser.execute_script("return window.Htx.autoAnnotation"):
            switch.click()
        self._wait_for("return window.Htx.autoAnnotation")

    def choose_tool(self, tool: str, name: str) -> None:
        """Choose a smart tool, and the first label of its control tag.

        Args:
            tool: its name in the editor, e.g. `KeyPointTool`. Its smart twin ends with `-dynamic`.
        """
        self._browser.execute_script(
            ANNOTATION
            + "annotation.unselectAll(); const tools = annotation.names.get('image').getToolsManager();"
            + "tools.selectTool(tools.allTools().find(tool => tool.fullName === arguments[0] + '-dynamic'), true);"
            + "const label = annotation.names.get(arguments[1]).children[0];"
            + "if (!label.selected) label.toggleSelected()",
            tool,
            name,
        )
        self._wait_for(ANNOTATION + "return annotation.names.get(arguments[0]).isSelected", name)

    def click(self, place: tuple[float, float], is_positive: bool = True) -> None:
        """Click at a place, given as fractions of the picture; with Alt if it is negative."""
        picture, x, y = self.offset(place)
        actions = ActionChains(self._browser)
        if not is_positive:
            actions.key_down(Keys.ALT)
        actions.move_to_element_with_offset(picture, x, y).click()
        if not is_positive:
            actions.key_up(Keys.ALT)
        actions.perform()

    def wait_for_suggestion(self, other_than: Any = None) -> list[int]:
        """The RLE of the mask that is suggested."""

        def suggested(browser: Chrome) -> Any:
            rles = browser.execute_script(
                ANNOTATION
                + "return Array.from(annotation.suggestions.values()).filter(region => region.rle)"
                + ".map(region => Array.from(region.rle))"
            )
            return rles[-1] if rles and rles[-1] != other_than else None

        found: list[int] = WebDriverWait(self._browser, WAIT_S).until(suggested)
        return found

    def accept(self) -> None:
        self._browser.execute_script(ANNOTATION + "annotation.acceptAllSuggestions()")
        self._wait_for(ANNOTATION + "return annotation.suggestions.size === 0")

    def submit(self) -> None:
        self._browser.find_element(By.CSS_SELECTOR, "[aria-label='Submit current annotation']").click()

    def take_picture(self, path: Path) -> None:
        self._browser.save_screenshot(str(path))

    def offset(self, place: tuple[float, float]) -> tuple[WebElement, int, int]:
        """The element of the picture, and where a place is in it, from its middle, in pixels of the screen."""
        picture = self._browser.find_element(By.CSS_SELECTOR, ".konvajs-content")
        width, height = self._browser.execute_script(
            ANNOTATION
            + "const image = annotation.names.get('image'); return [image.stageWidth, image.stageHeight]"
        )
        size = picture.size
        x, y = place[0] * width - size["width"] / 2, place[1] * height - size["height"] / 2
        return picture, round(x), round(y)

    def _wait_for(self, script: str, *arguments: Any) -> None:
        def holds(browser: Chrome) -> bool:
            return bool(browser.execute_script("try {" + script + "} catch (error) { return false }", *arguments))

        WebDriverWait(self._browser, WAIT_S).until(holds)


def iou(rle: Any, mask: NDArray[np.bool_]) -> float:
    found = decode(rle, SIDE_PX, SIDE_PX)
    return float((found & mask).sum() / (found | mask).sum())


def test_clicks_become_masks_and_are_submitted(
    label_studio: Server,
    lorabel_up: Lorabel,
    client: LabelStudio,
    browser: Chrome,
    artifacts: Path,
) -> None:
    scene = next(scene for scene in mask_scenes(SEED, SIDE_PX) if len(scene.masks) >= 3)
    project_id = create_project(client, scene)
    connection = connect(lorabel_up.settings, label_studio.url, label_studio.token, project_id)
    assert connection.is_complete, connection.steps
    (backend,) = client.backends(project_id)
    assert backend.is_interactive
    again = connect(lorabel_up.settings, label_studio.url, label_studio.token, project_id)
    assert all(step.outcome in (Outcome.OK, Outcome.UNCHANGED) for step in again.steps), again.steps

    LabelingStream(browser, label_studio.url, project_id).log_in()
    editor = Editor(browser)
    editor.open(label_studio.url, project_id)
    editor.choose_tool("KeyPointTool", "click")
    things = [inner_point(mask) for mask in scene.masks]
    editor.click(things[0])
    first = editor.wait_for_suggestion()
    editor.take_picture(artifacts / "click.png")
    ious = [iou(first, mask) for mask in scene.masks]
    assert np.argmax(ious) == 0, ious
    assert ious[0] > 0.6, ious  # how good the model is, tests/lorabel/demo/test_segmenter.py says

    editor.choose_tool("KeyPointTool", "click")  # the editor gives each region the label anew
    editor.click(things[1], is_positive=False)
    second = editor.wait_for_suggestion(other_than=first)
    editor.take_picture(artifacts / "click-negative.png")
    assert np.argmax([iou(second, mask) for mask in scene.masks]) == 0
    editor.accept()

    editor.choose_tool("KeyPointTool", "click")
    editor.click(things[2])
    other = editor.wait_for_suggestion()
    assert np.argmax([iou(other, mask) for mask in scene.masks]) == 2
    editor.accept()
    editor.take_picture(artifacts / "click-accepted.png")
    editor.submit()
    annotation = submitted(client, project_id)
    assert [region["type"] for region in annotation["result"]] == ["brushlabels"] * 2, "no click is left"
    for region, suggested in zip(annotation["result"], (second, other), strict=True):
        assert region["value"]["brushlabels"] == ["Part 17"]
        assert (region["from_name"], region["original_width"]) == ("mask", SIDE_PX)
        assert np.array_equal(
            decode(region["value"]["rle"], SIDE_PX, SIDE_PX), decode(suggested, SIDE_PX, SIDE_PX)
        )


def create_project(client: LabelStudio, scene: MaskScene) -> LabelStudioId:
    project = {"title": "Clicks", "label_config": LABEL_CONFIG, "show_collab_predictions": True}
    project_id = LabelStudioId(client.call("POST", "/api/projects/", json=project)["id"])
    for name in ("scene-0.png", "scene-1.png"):
        file = io.BytesIO()
        Image.fromarray(scene.pixels).save(file, "PNG")
        files = {"file": (name, file.getvalue(), "image/png")}
        client.call("POST", f"/api/projects/{project_id}/import", files=files, timeout_s=120.0)
    return project_id


def submitted(client: LabelStudio, project_id: LabelStudioId) -> dict[str, Any]:
    deadline = time.monotonic() + WAIT_S
    while time.monotonic() < deadline:
        for task in client.tasks(project_id):
            for annotation in task.annotations:
                return dict(annotation)
        time.sleep(0.2)
    raise TimeoutError("no annotation was submitted")
