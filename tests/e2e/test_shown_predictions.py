"""What an annotator was shown in the real editor, and whether it was submitted unchanged, is what we store."""

import io
import time
from typing import Any

import httpx
import pytest
from PIL import Image
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from lorabel.commands.connect import connect
from lorabel.demo.project import create_project
from lorabel.label_studio.client import LabelStudio
from lorabel.label_studio.records import AnnotatedTask, NewPrediction
from lorabel.labeling.provenance import is_accepted, shown_prediction
from lorabel.labeling.regions import RELATION
from lorabel.problems.base import Sample
from lorabel.problems.binding import problem_types
from tests.e2e.courses import data_url
from tests.e2e.label_studio_server import Server
from tests.e2e.lorabel_processes import Lorabel
from tests.e2e.test_browser import GRADES, WAIT_S, LabelingStream

pytestmark = pytest.mark.e2e

TIMEOUT_S = 60.0
PLACES_OF_PICTURES = ("/data/upload/", "https://example.org/")
# Whether the editor has made regions of a prediction; the Submit button is there by then.
REGIONS = "const s = window.Htx && window.Htx.annotationStore.selected; return s ? s.results.length : 0"


def stored_annotations(lorabel: Lorabel, project_id: int, count: int) -> list[dict[str, Any]]:
    """Wait until the events of so many annotations were applied; returns them as REST shows them."""
    deadline = time.monotonic() + TIMEOUT_S
    while time.monotonic() < deadline:
        annotations = get(lorabel, project_id, "annotations")["annotations"]
        if len(annotations) >= count:
            return list(annotations)
        time.sleep(0.2)
    raise AssertionError(f"{annotations} after {TIMEOUT_S:.0f} s")


def get(lorabel: Lorabel, project_id: int, path: str) -> Any:
    return httpx.get(f"{lorabel.url}/api/v1/projects/{project_id}/{path}", trust_env=False).json()


def run_once(lorabel: Lorabel, project_id: int) -> None:
    """Do a training run, which compares with Label Studio first. Too few annotations for it to learn anything."""
    httpx.post(f"{lorabel.url}/api/v1/projects/{project_id}/train", trust_env=False).raise_for_status()
    deadline = time.monotonic() + TIMEOUT_S
    while time.monotonic() < deadline:
        (run,) = get(lorabel, project_id, "runs")["runs"]
        if run["finished_at"] is not None:
            return
        time.sleep(0.2)
    raise AssertionError(f"the run did not end: {run}")


def expected(client: LabelStudio, annotation_id: int) -> dict[str, Any]:
    """What Label Studio's API says of an annotation and of its prediction, in the words of our REST API."""
    annotation = client.call("GET", f"/api/annotations/{annotation_id}/")
    prediction = client.call("GET", f"/api/predictions/{annotation['parent_prediction']}/")
    return {
        "id": annotation_id,
        "completed_by": annotation["completed_by"],
        "lead_time_s": annotation["lead_time"],
        "prediction_id": annotation["parent_prediction"],
        "prediction_version": prediction["model_version"],
        "prediction_score": prediction["score"],
        "prediction_result": prediction["result"],
    }


def test_an_accepted_and_a_corrected_prediction_of_the_connected_backend(
    label_studio: Server, lorabel_up: Lorabel, client: LabelStudio, browser: Chrome
) -> None:
    """The events have only the id of the prediction; the comparison before a run learns the rest."""
    project_id = create_project(client, 4)
    connect(lorabel_up.settings, label_studio.url, label_studio.token, project_id)
    stream = LabelingStream(browser, label_studio.url, project_id)
    stream.log_in()
    first_id = stream.open()
    stream.wait_for_choice()
    stream.submit()
    second_id = stream.wait_for_task(other_than=first_id)
    shown = stream.wait_for_choice()
    stream.choose(next(grade for grade in GRADES if [grade] != shown))
    stream.submit()
    stream.wait_for_task(other_than=second_id)

    accepted, corrected = stored_annotations(lorabel_up, project_id, 2)
    for annotation in (accepted, corrected):
        truth = expected(client, annotation["id"])
        told_at_once = ("completed_by", "lead_time_s", "prediction_id")
        assert {name: annotation[name] for name in told_at_once} == {name: truth[name] for name in told_at_once}
        assert annotation["lead_time_s"] > 0 and annotation["completed_by"] > 0
    assert (accepted["task_id"], corrected["task_id"]) == (first_id, second_id)

    run_once(lorabel_up, project_id)
    accepted, corrected = stored_annotations(lorabel_up, project_id, 2)
    for annotation, is_unchanged in ((accepted, True), (corrected, False)):
        truth = expected(client, annotation["id"]) | {"is_accepted": is_unchanged}
        assert {name: annotation[name] for name in truth} == truth
        assert annotation["prediction_version"] == f"p{project_id}.v0"


def test_a_prediction_of_the_version_that_the_project_shows_is_in_the_event(
    label_studio: Server, lorabel_up: Lorabel, client: LabelStudio, browser: Chrome
) -> None:
    project_id = create_project(client, 2)
    connect(lorabel_up.settings, label_studio.url, label_studio.token, project_id)
    region = {"from_name": "grade", "to_name": "image", "type": "choices", "value": {"choices": ["Grade C"]}}
    predictions = [NewPrediction(task.task_id, [region], 0.5, "theirs") for task in client.tasks(project_id)]
    client.add_predictions(project_id, predictions)
    client.update_project(project_id, model_version="theirs")
    stream = LabelingStream(browser, label_studio.url, project_id)
    stream.log_in()
    task_id = stream.open()
    assert stream.wait_for_choice() == ["Grade C"]
    stream.submit()
    stream.wait_for_task(other_than=task_id)
    (annotation,) = stored_annotations(lorabel_up, project_id, 1)
    truth = expected(client, annotation["id"]) | {"is_accepted": True, "prediction_version": "theirs"}
    assert {name: annotation[name] for name in truth} == truth


def shown_samples() -> list[tuple[str, Sample]]:
    """The samples of all problems, except sounds, videos and series, of which there are no files."""
    return [
        (problem.name, sample)
        for problem in problem_types()
        for sample in problem.SAMPLES
        # The open-source edition has no Chat.
        if not any(tag in sample.label_config for tag in ("<Audio", "<Video", "<TimeSeries ", "<Chat"))
    ]


@pytest.mark.long
def test_what_the_editor_submits_unchanged_is_accepted_for_every_problem(
    label_studio: Server, client: LabelStudio, browser: Chrome
) -> None:
    LabelingStream(browser, label_studio.url, 0).log_in()
    samples = shown_samples()
    assert len({name for name, _ in samples}) >= 6
    accepted = {}
    for number, (name, sample) in enumerate(samples):
        result, task = submit_unchanged(browser, label_studio, client, sample)
        (annotation,) = task.annotations
        assert annotation["result"] != result, "the editor writes it anew"
        shown = shown_prediction(annotation, task.predictions)
        assert shown is not None and shown.result == result, annotation
        opposite = is_accepted(sample.opposite, annotation["result"], was_cancelled=False)
        accepted[f"{name} {number}"] = (is_accepted(shown.result, annotation["result"], False), opposite)
    assert accepted == dict.fromkeys(accepted, (True, False))


def submit_unchanged(
    browser: Chrome, label_studio: Server, client: LabelStudio, sample: Sample
) -> tuple[list[dict[str, Any]], AnnotatedTask]:
    """Predict a sample's result in a project of its own, and submit it in the editor.

    Returns:
        The prediction's result with all lists of choices in another order, and the task with its annotation.
    """
    project = {"title": "Sample", "label_config": sample.label_config, "show_collab_predictions": True}
    project_id = client.call("POST", "/api/projects", json=project)["id"]
    data = with_pictures(sample.data, data_url(picture(size_in(sample)), "image/png"))
    client.call("POST", f"/api/projects/{project_id}/import", json=[{"data": data}])
    (task,) = client.tasks(project_id)
    result = [in_another_order(region) for region in reversed(sample.result)]
    client.add_predictions(project_id, [NewPrediction(task.task_id, result, 0.5, "theirs")])
    client.update_project(project_id, model_version="theirs")
    browser.get(f"{label_studio.url}/projects/{project_id}/data?labeling=1")
    wait = WebDriverWait(browser, WAIT_S)
    wait.until(lambda browser: browser.execute_script(REGIONS))
    wait.until(lambda browser: browser.find_element(By.CSS_SELECTOR, "[aria-label='Submit current annotation']"))
    time.sleep(0.5)  # the editor places spans after it has drawn the text
    browser.find_element(By.CSS_SELECTOR, "[aria-label='Submit current annotation']").click()
    wait.until(lambda _: next(iter(client.tasks(project_id))).annotations)
    return result, next(iter(client.tasks(project_id)))


def with_pictures(data: Any, picture_url: str) -> Any:
    """Task data whose addresses of pictures are that of a picture which the browser can load."""
    if isinstance(data, dict):
        return {name: with_pictures(value, picture_url) for name, value in data.items()}
    if isinstance(data, list):
        return [with_pictures(value, picture_url) for value in data]
    return picture_url if isinstance(data, str) and data.startswith(PLACES_OF_PICTURES) else data


def size_in(sample: Sample) -> tuple[int, int]:
    """Pixels of the sample's picture. The editor writes masks anew, in the size of the picture that it loaded."""
    sizes = ((region.get("original_width"), region.get("original_height")) for region in sample.result)
    return next(((width, height) for width, height in sizes if width and height), (48, 48))


def picture(size: tuple[int, int]) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, "white").save(file, "PNG")
    return file.getvalue()


def in_another_order(region: dict[str, Any]) -> dict[str, Any]:
    """A region with its choices and labels the other way around. A relation has no value and stays as it is."""
    if region["type"] == RELATION:
        return region
    has_no_order = ("choices", "taxonomy", "labels", "hypertextlabels", "paragraphlabels")
    value = {name: part[::-1] if name in has_no_order else part for name, part in region["value"].items()}
    return {**region, "value": value}
