"""An annotator in Chromium sees the prediction, corrects it, and later sees predictions of the new version."""

import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from lorabel.commands.connect import connect
from lorabel.database import versions
from lorabel.demo.project import create_project, picture_of, right_answer
from lorabel.label_studio.client import LabelStudio
from lorabel.label_studio.records import AnnotatedTask
from tests.e2e.label_studio_server import EMAIL, PASSWORD, Server
from tests.e2e.lorabel_processes import Lorabel

pytestmark = pytest.mark.e2e

PICTURES = 40
WAIT_S = 60
TRAINING_TIMEOUT_S = 180.0
GRADES = ("Grade A", "Grade B", "Grade C")


class LabelingStream:
    """The page at `/projects/N/data?labeling=1`, as an annotator uses it.

    Args:
        ready: selects what is on the screen once a task is.
    """

    def __init__(self, browser: Chrome, url: str, project_id: int, ready: str = ".lsf-choices input") -> None:
        self._ready = ready
        self._browser = browser
        self._url = f"{url}/projects/{project_id}/data?labeling=1"
        self._login = f"{url}/user/login/"

    def log_in(self) -> None:
        self._browser.get(self._login)
        self._browser.find_element(By.NAME, "email").send_keys(EMAIL)
        self._browser.find_element(By.NAME, "password").send_keys(PASSWORD)
        self._browser.find_element(By.CSS_SELECTOR, "form button[type=submit]").click()
        WebDriverWait(self._browser, WAIT_S).until(lambda browser: "/login" not in browser.current_url)

    def open(self) -> int:
        """Returns the id of the task on the screen."""
        self._browser.get(self._url)
        return self.wait_for_task(other_than=None)

    def wait_for_task(self, other_than: int | None) -> int:
        def shown(browser: Chrome) -> int | None:
            task = browser.execute_script("return window.Htx && window.Htx.task && window.Htx.task.id")
            is_ready = browser.find_elements(By.CSS_SELECTOR, self._ready)
            return int(task) if task and is_ready and int(task) != other_than else None

        task_id = WebDriverWait(self._browser, WAIT_S).until(shown)
        assert task_id is not None
        return task_id

    def wait_for_choice(self) -> list[str]:
        """Wait until a choice is ticked, and return the ticked choices."""

        def ticked(browser: Chrome) -> list[str]:
            boxes = browser.find_elements(By.CSS_SELECTOR, ".lsf-choices input")
            return [str(box.get_attribute("name")) for box in boxes if box.is_selected()]

        return WebDriverWait(self._browser, WAIT_S).until(ticked)

    def choose(self, value: str) -> None:
        self._browser.find_element(By.CSS_SELECTOR, f".lsf-choices input[name='{value}']").click()

    def submit(self) -> None:
        self._browser.find_element(By.CSS_SELECTOR, "[aria-label='Submit current annotation']").click()

    def take_picture(self, path: Path) -> None:
        # The editor may draw the choices before the picture.
        WebDriverWait(self._browser, WAIT_S).until(
            lambda browser: any(
                image.get_property("naturalWidth")
                for image in browser.find_elements(By.CSS_SELECTOR, "img[alt=image]")
            )
        )
        self._browser.save_screenshot(str(path))


def test_the_annotator_corrects_a_prediction_and_then_sees_the_new_versions(
    label_studio: Server, guarded_lorabel: Lorabel, client: LabelStudio, browser: Chrome, artifacts: Path
) -> None:
    project_id = create_project(client, PICTURES)
    connect(guarded_lorabel.settings, label_studio.url, label_studio.token, project_id)
    stream = LabelingStream(browser, label_studio.url, project_id)
    stream.log_in()
    task_id = stream.open()
    assert stream.wait_for_choice() == _predicted(client, task_id, f"p{project_id}.v0")
    stream.take_picture(artifacts / "label-studio-before.png")

    correction = next(grade for grade in GRADES if [grade] != stream.wait_for_choice())
    stream.choose(correction)
    assert stream.wait_for_choice() == [correction]
    stream.submit()
    stream.wait_for_task(other_than=task_id)
    (annotation,) = _task(client, project_id, task_id).annotations
    (region,) = annotation["result"]
    assert (region["value"]["choices"], region["origin"]) == ([correction], "prediction-changed")

    version = _annotate_until_new_version(client, guarded_lorabel, project_id)
    next_id = stream.open()
    assert stream.wait_for_choice() == _predicted(client, next_id, version)
    stream.take_picture(artifacts / "label-studio.png")


def _task(client: LabelStudio, project_id: int, task_id: int) -> AnnotatedTask:
    return next(task for task in client.tasks(project_id) if task.task_id == task_id)


def _predicted(client: LabelStudio, task_id: int, version: str) -> list[str]:
    """The choices of the newest prediction of this version, with whatever heads, that Label Studio has stored."""
    predictions: list[dict[str, Any]] = client.call("GET", "/api/predictions/", params={"task": task_id})
    of_version = [one for one in predictions if versions.without_heads(one["model_version"]) == version]
    newest = max(of_version, key=lambda prediction: int(prediction["id"]))
    return list(newest["result"][0]["value"]["choices"])


def _annotate_until_new_version(client: LabelStudio, lorabel: Lorabel, project_id: int) -> str:
    """Annotate the other tasks by API, in rounds until a run is promoted (a worse candidate is rejected)."""
    per_run = lorabel.settings.train_after_annotations
    tasks = list(client.tasks(project_id))
    for number, last in enumerate(range(per_run, PICTURES, per_run), start=1):
        for task in tasks[:last]:
            if not task.annotations:
                _annotate(client, task)
        tasks = list(client.tasks(project_id))
        version = _wait_for_runs(lorabel, project_id, number)
        if version != f"p{project_id}.v0":
            return version
    raise AssertionError(f"no run of project {project_id} gave a better version; see GET /api/v1/projects/P/runs")


def _annotate(client: LabelStudio, task: AnnotatedTask) -> None:
    answer = {"choices": [right_answer(picture_of(task.data, PICTURES))]}
    region = {"from_name": "grade", "to_name": "image", "type": "choices", "value": answer}
    client.call("POST", f"/api/tasks/{task.task_id}/annotations/", json={"result": [region]})


def _wait_for_runs(lorabel: Lorabel, project_id: int, count: int) -> str:
    """Wait until `count` runs have finished, by the REST API; returns the live version."""
    base = f"{lorabel.url}/api/v1/projects/{project_id}"
    deadline = time.monotonic() + TRAINING_TIMEOUT_S
    with httpx.Client(auth=lorabel.settings.basic_auth, trust_env=False) as client:
        while time.monotonic() < deadline:
            runs = client.get(f"{base}/runs").json()["runs"]
            if sum(run["state"] == "finished" for run in runs) >= count:
                return str(client.get(f"{base}/versions").json()["live_version"])
            time.sleep(0.5)
    raise AssertionError(f"run {count} of project {project_id} did not end in {TRAINING_TIMEOUT_S:.0f} s: {runs}")
