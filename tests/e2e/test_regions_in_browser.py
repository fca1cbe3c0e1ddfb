"""What is in each region: grades are learned from a few pictures, and stand beside boxes in Chromium."""

import time
from collections.abc import Collection
from pathlib import Path
from typing import Any

import pytest
from selenium.webdriver import ActionChains, Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from lorabel.commands.connect import connect
from lorabel.demo.predicting_and_training import predict
from lorabel.demo.scenes import Scene, png
from lorabel.evaluation.box_matching import match_boxes
from lorabel.label_studio.client import LabelStudio
from lorabel.labeling.image_regions import corners_of
from lorabel.space_contracts import Corners
from tests.e2e.courses import data_url, regions
from tests.e2e.label_studio_server import Server
from tests.e2e.lorabel_processes import Lorabel
from tests.e2e.test_browser import WAIT_S, LabelingStream

pytestmark = [pytest.mark.e2e, pytest.mark.long]

Result = list[dict[str, Any]]
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


def answered(result: Result) -> list[tuple[Corners, str]]:
    """The place and the grade of each box that has one; box and grade share their id."""
    grades = {each["id"]: each["value"]["choices"][0] for each in result if each["from_name"] == "grade"}
    boxes = {each["id"]: corners_of(each) for each in result if each["from_name"] == "box"}
    assert grades.keys() <= boxes.keys()
    return [(corners, grades[id_]) for id_, corners in boxes.items() if id_ in grades]


def right(scene: Scene, result: Result) -> tuple[int, int]:
    """How many things of a scene have a box with the right grade, and how many have a box with a grade."""
    truth, given = truth_of(scene), answered(result)
    pairs = match_boxes([corners for corners, _ in truth], [corners for corners, _ in given])
    return sum(truth[thing][1] == given[box][1] for thing, box in pairs), len(pairs)


def predicted(client: LabelStudio, project_id: int, tasks: Collection[int]) -> dict[int, tuple[str, Result]]:
    """Task id -> version and result of a new prediction, by the Data Manager's "Retrieve Predictions"."""
    newest = predict(client, project_id, tasks)
    return {task_id: (newest[task_id]["model_version"], newest[task_id]["result"]) for task_id in tasks}


def test_grades_of_boxes_are_learned_and_shown_beside_the_boxes(
    lorabel_up: Lorabel,
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
    connect(lorabel_up.settings, label_studio.url, label_studio.token, project_id)
    tasks = sorted(task.task_id for task in client.tasks(project_id))
    unseen = dict(zip(tasks[LEARNED:], scenes[LEARNED:], strict=True))
    before = predicted(client, project_id, unseen)

    for task_id, scene in zip(tasks[:LEARNED], scenes, strict=False):
        body = {"result": regions.result_of(scene)}
        client.call("POST", f"/api/tasks/{task_id}/annotations/", json=body)
    after = _learned(client, project_id, unseen)
    right_before, found_before = _sums([right(scene, before[id_][1]) for id_, scene in unseen.items()])
    right_after, found = _sums([right(scene, after[id_]) for id_, scene in unseen.items()])
    with capsys.disabled():
        print(  # noqa: T201
            f"\n  things nobody annotated: {right_before} of {found_before} right, then {right_after} of {found}"
        )
    assert right_before < 0.7 * found_before and right_after > 0.85 * found > 10

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


def _learned(client: LabelStudio, project_id: int, tasks: Collection[int]) -> dict[int, Result]:
    """The results of the tasks once a head answers that does not change any more."""
    deadline, versions = time.monotonic() + TIMEOUT_S, [""]
    while time.monotonic() < deadline:
        answers = predicted(client, project_id, tasks)
        versions.append(max(version for version, _ in answers.values()))
        if "h" in versions[-1] and versions[-1] == versions[-2]:
            return {task_id: result for task_id, (_, result) in answers.items()}
        time.sleep(2)
    raise AssertionError(f"no head answers after {TIMEOUT_S:.0f} s: {versions}")


def _sums(pairs: list[tuple[int, int]]) -> tuple[int, int]:
    first, second = zip(*pairs, strict=True)
    return sum(first), sum(second)


def _variety(scene: Scene, result: Result) -> tuple[int, bool]:
    """Prefers a task with both grades whose things are all found, and no other boxes, which may lie on them."""
    given = answered(result)
    is_clear = right(scene, result) == (len(scene.things), len(scene.things)) == (len(given), len(given))
    return len({grade for _, grade in given}), is_clear


def _ticked_at(browser: Chrome, middle: dict[str, Any]) -> str:
    """Select the region, and read which choice is ticked beside it."""
    ActionChains(browser).send_keys("v").perform()
    actions = ActionChains(browser)
    actions.w3c_actions.pointer_action.move_to_location(int(middle["x"]), int(middle["y"]))
    actions.w3c_actions.pointer_action.click()
    actions.w3c_actions.perform()

    def ticked(browser: Chrome) -> list[str]:
        if not browser.find_element(By.CSS_SELECTOR, ".lsf-choices").is_displayed():
            return []
        inputs = browser.find_elements(By.CSS_SELECTOR, ".lsf-choices input")
        return [str(each.get_attribute("name")) for each in inputs if each.is_selected()]

    (name,) = WebDriverWait(browser, WAIT_S).until(ticked)
    return name


def _ticked_before(changed: str) -> str:
    return regions.HOLED if changed == regions.WHOLE else regions.WHOLE


def _annotation_of(client: LabelStudio, project_id: int, task_id: int) -> Result | None:
    task = next(task for task in client.tasks(project_id) if task.task_id == task_id)
    return list(task.annotations[0]["result"]) if task.annotations else None
