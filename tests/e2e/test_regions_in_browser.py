"""What is in each region: grades are learned from a few pictures, and stand beside boxes in Chromium."""

import time
from pathlib import Path
from typing import Any

import pytest
from selenium.webdriver import ActionChains, Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from lorabel.commands.connect import connect
from lorabel.demo.evaluate_detector import png
from lorabel.demo.scenes import Scene
from lorabel.evaluation.box_matching import match_boxes
from lorabel.label_studio.client import LabelStudio
from lorabel.labeling.image_regions import corners_of
from lorabel.space_contracts import Corners
from tests.e2e.courses import data_url, regions
from tests.e2e.label_studio_server import Server
from tests.e2e.lorabel_processes import Lorabel
from tests.e2e.test_browser import WAIT_S, LabelingStream

pytestmark = [pytest.mark.e2e, pytest.mark.long]

LEARNED, UNSEEN = 14, 10
TIMEOUT_S = 90.0
# The middle of each region in pixels of the page, with its label, once the picture is drawn.
MIDDLES = """
const annotation = window.Htx && window.Htx.annotationStore && window.Htx.annotationStore.selected;
const regions = annotation ? annotation.regionStore.regions : [];
if (!regions.length || !regions.every(region => region.object.stageRef)) return [];
return regions.map(region => {
  const stage = region.object.stageRef, canvas = stage.content.getBoundingClientRect();
  const node = stage.findOne('#' + region.id) || stage.findOne('.' + region.id);
  const box = node.getClientRect({skipStroke: true});
  return {x: canvas.left + box.x + box.width / 2, y: canvas.top + box.y + box.height / 2,
          corners: [box.x / canvas.width, box.y / canvas.height,
                    (box.x + box.width) / canvas.width, (box.y + box.height) / canvas.height]}
})
"""


def truth_of(scene: Scene) -> list[tuple[Corners, str]]:
    return [(thing.corners, regions.grade_of(thing)) for thing in scene.things]


def answered(result: list[dict[str, Any]]) -> list[tuple[Corners, str]]:
    """The place and the grade of each box that has one; box and grade share their id."""
    grades = {each["id"]: each["value"]["choices"][0] for each in result if each["from_name"] == "grade"}
    boxes = {each["id"]: corners_of(each) for each in result if each["from_name"] == "box"}
    assert grades.keys() <= boxes.keys()
    return [(corners, grades[id_]) for id_, corners in boxes.items() if id_ in grades]


def right(scene: Scene, result: list[dict[str, Any]]) -> int:
    """How many things of a scene have a box with the right grade."""
    truth, given = truth_of(scene), answered(result)
    pairs = match_boxes([corners for corners, _ in truth], [corners for corners, _ in given])
    return sum(truth[thing][1] == given[box][1] for thing, box in pairs)


def predicted(client: LabelStudio, task_id: int) -> tuple[str, list[dict[str, Any]]]:
    """Version and result of the newest prediction that opening the task shows."""
    task = client.call("GET", f"/api/tasks/{task_id}", timeout_s=110.0)
    newest = max(task["predictions"], key=lambda prediction: prediction["id"])
    return newest["model_version"], newest["result"]


def test_grades_of_boxes_are_learned_and_shown_beside_the_boxes(
    lorabel_with_detector: Lorabel,
    label_studio: Server,
    client: LabelStudio,
    browser: Chrome,
    artifacts: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    scenes = regions.scenes(LEARNED + UNSEEN)
    config = {"title": "grades", "label_config": regions.LABEL_CONFIG, "show_collab_predictions": True}
    project_id = client.call("POST", "/api/projects/", json=config)["id"]
    data = [{"image": data_url(png(scene), "image/png")} for scene in scenes]
    client.call("POST", f"/api/projects/{project_id}/import", json=data)
    connect(lorabel_with_detector.settings, label_studio.url, label_studio.token, project_id)
    tasks = sorted(task.task_id for task in client.tasks(project_id))
    unseen = dict(zip(tasks[LEARNED:], scenes[LEARNED:], strict=True))
    before = {task_id: predicted(client, task_id) for task_id in unseen}

    for task_id, scene in zip(tasks[:LEARNED], scenes, strict=False):
        body = {"result": regions.result_of(scene)}
        client.call("POST", f"/api/tasks/{task_id}/annotations/", json=body)
    after = _learned(client, list(unseen), {task_id: version for task_id, (version, _) in before.items()})
    things = sum(len(scene.things) for scene in unseen.values())
    right_before, right_after = (
        sum(right(scene, results[task_id]) for task_id, scene in unseen.items())
        for results in ({task_id: result for task_id, (_, result) in before.items()}, after)
    )
    with capsys.disabled():
        print(f"\n  {things} things that nobody annotated: {right_before} right, then {right_after}")  # noqa: T201
    assert right_before < right_after >= 0.8 * things

    task_id = max(unseen, key=lambda task_id: _variety(unseen[task_id], after[task_id]))
    LabelingStream(browser, label_studio.url, project_id).log_in()
    browser.get(f"{label_studio.url}/projects/{project_id}/data?task={task_id}")
    middles = WebDriverWait(browser, WAIT_S).until(lambda browser: browser.execute_script(MIDDLES))
    expected = answered(after[task_id])
    assert len(middles) == len(expected)
    for middle in middles:
        ((_, index),) = match_boxes([tuple(middle["corners"])], [corners for corners, _ in expected])
        assert _ticked_at(browser, middle) == expected[index][1]
        browser.save_screenshot(str(artifacts / f"regions-{index}.png"))

    changed = {regions.WHOLE: regions.HOLED, regions.HOLED: regions.WHOLE}[_ticked_at(browser, middles[0])]
    browser.find_element(By.CSS_SELECTOR, f".lsf-choices input[name='{changed}']").click()
    browser.find_element(By.CSS_SELECTOR, "[aria-label='Submit current annotation']").click()
    submitted = WebDriverWait(browser, WAIT_S).until(lambda _: _annotation_of(client, project_id, task_id))
    stored = answered(submitted)
    assert len(stored) == len(expected)
    ((_, index),) = match_boxes([tuple(middles[0]["corners"])], [corners for corners, _ in stored])
    assert stored[index][1] == changed, "the answer that was changed is the one of that region"
    rest = [grade for number, (_, grade) in enumerate(stored) if number != index]
    assert sorted([*rest, _ticked_before(changed)]) == sorted(grade for _, grade in expected)


def _learned(
    client: LabelStudio, task_ids: list[int], versions: dict[int, str]
) -> dict[int, list[dict[str, Any]]]:
    """The results of the tasks once a head that has learned from all annotations answers."""
    deadline = time.monotonic() + TIMEOUT_S
    results: dict[int, list[dict[str, Any]]] = {}
    newest = ""
    while time.monotonic() < deadline:
        answers = {task_id: predicted(client, task_id) for task_id in task_ids}
        names = {version for version, _ in answers.values()}
        results = {task_id: result for task_id, (_, result) in answers.items()}
        (name,) = names if len(names) == 1 else ("",)
        if name and name == newest and name not in versions.values():
            return results
        newest = name
        time.sleep(2)
    raise AssertionError(f"no head answers after {TIMEOUT_S:.0f} s: {newest}")


def _variety(scene: Scene, result: list[dict[str, Any]]) -> tuple[int, bool]:
    """Prefers a task whose boxes are all found, with both grades."""
    grades = {grade for _, grade in answered(result)}
    return len(grades), right(scene, result) == len(scene.things) == len(answered(result)) <= 4


def _ticked_at(browser: Chrome, middle: dict[str, Any]) -> str:
    """Select the region, and read which choice is ticked beside it."""
    ActionChains(browser).send_keys("v").perform()
    actions = ActionChains(browser)
    actions.w3c_actions.pointer_action.move_to_location(int(middle["x"]), int(middle["y"]))
    actions.w3c_actions.pointer_action.click()
    actions.w3c_actions.perform()

    def ticked(browser: Chrome) -> list[str]:
        inputs = browser.find_elements(By.CSS_SELECTOR, ".lsf-choices input")
        return [str(each.get_attribute("name")) for each in inputs if each.is_displayed() and each.is_selected()]

    (name,) = WebDriverWait(browser, WAIT_S).until(ticked)
    return name


def _ticked_before(changed: str) -> str:
    return regions.HOLED if changed == regions.WHOLE else regions.WHOLE


def _annotation_of(client: LabelStudio, project_id: int, task_id: int) -> list[dict[str, Any]] | None:
    task = next(task for task in client.tasks(project_id) if task.task_id == task_id)
    return list(task.annotations[0]["result"]) if task.annotations else None
