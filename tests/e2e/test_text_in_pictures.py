"""Text in pictures in the real Label Studio and its editor: receipts are read, and their lines get labels."""

import time
from base64 import b64encode
from pathlib import Path
from typing import Any

import pytest
from selenium.webdriver import Chrome
from selenium.webdriver.support.ui import WebDriverWait

from lorabel.commands.connect import connect
from lorabel.demo.predicting_and_training import Json, predict
from lorabel.evaluation.box_matching import match_boxes
from lorabel.evaluation.metrics import Metrics
from lorabel.evaluation.text_metrics import ReadLine, text_lines
from lorabel.label_studio.client import LabelStudio
from lorabel.labeling.regions import Region
from lorabel.labeling.results import is_same_result
from lorabel.problems.binding import bind
from lorabel.problems.text_in_pictures import TextInPictures
from lorabel.space_contracts import TextLine
from tests.e2e.label_studio_server import Server
from tests.e2e.lorabel_processes import Lorabel
from tests.e2e.test_browser import LabelingStream
from tests.receipts import LABELS, Receipt, draw_receipt

pytestmark = pytest.mark.e2e

LABEL_TAGS = "".join(f'<Label value="{label}"/>' for label in LABELS)
TEXT = (
    '<TextArea name="transcription" toName="image" editable="true" perRegion="true" required="true" '
    'maxSubmissions="1" rows="5" placeholder="Recognized Text" displayMode="region-list"/>'
)
# Label Studio's template, with other labels.
TEMPLATE = (
    f'<View><Image name="image" value="$ocr"/><Labels name="label" toName="image">{LABEL_TAGS}</Labels>'
    '<Rectangle name="bbox" toName="image" strokeWidth="3"/><Polygon name="poly" toName="image" strokeWidth="3"/>'
    f"{TEXT}</View>"
)
RECTANGLE_LABELS = (
    f'<View><Image name="image" value="$ocr"/><RectangleLabels name="bbox" toName="image">{LABEL_TAGS}'
    f"</RectangleLabels>{TEXT}</View>"
)
CONFIGS = {"template": TEMPLATE, "rectangle-labels": RECTANGLE_LABELS}
ANNOTATED, UNSEEN = 8, 4
WAIT_S = 20.0
TIMEOUT_S = 120.0
SHOWN_LINES = """
return window.Htx.annotationStore.selected.regions.map(region => ({
    id: region.cleanId, type: region.type, x: region.x, y: region.y, width: region.width, height: region.height,
    labels: region.labels, text: region.results.filter(r => r.type === 'textarea').map(r => r.value.text.join())[0]
}))
"""
LISTED = "return [...document.querySelectorAll('textarea')].map(field => field.value).filter(text => text.trim())"


def connected(lorabel: Lorabel, label_studio: Server, client: LabelStudio, config: str, count: int) -> int:
    project = {"title": "Receipts", "label_config": config, "show_collab_predictions": True}
    project_id = int(client.call("POST", "/api/projects", json=project)["id"])
    data = [{"data": {"ocr": as_url(draw_receipt(number))}} for number in range(count)]
    client.call("POST", f"/api/projects/{project_id}/import", json=data, timeout_s=60.0)
    connect(lorabel.settings, label_studio.url, label_studio.token, project_id)
    return project_id


def as_url(receipt: Receipt) -> str:
    return f"data:image/png;base64,{b64encode(receipt.png).decode()}"


def binding_of(config: str) -> TextInPictures:
    (binding,) = bind(config).bindings
    assert isinstance(binding, TextInPictures)
    return binding


def annotated(binding: TextInPictures, receipt: Receipt) -> list[Region]:
    """The result of an annotator who draws, writes and labels all lines."""
    return [
        region
        for number, line in enumerate(receipt.lines)
        for region in binding.tags.regions(
            "image", TextLine(corners=line.corners, text=line.text), line.label, (360, 480), f"line{number}"
        )
    ]


def wait_for_labels(client: LabelStudio, project_id: int, receipts: dict[int, Receipt]) -> None:
    """Until each task has as many labels as its receipt: heads of the first annotations know only some."""
    expected = {task_id: labeled_lines(receipt) for task_id, receipt in receipts.items()}
    deadline, found = time.monotonic() + TIMEOUT_S, {}
    while found != expected and time.monotonic() < deadline:
        time.sleep(1.0)
        results = {task_id: answer["result"] for task_id, answer in predict(client, project_id, receipts).items()}
        found = {task_id: [part["type"] for part in results[task_id]].count("labels") for task_id in results}
    assert found == expected, f"labels by task after {TIMEOUT_S:.0f} s"


def labeled_lines(receipt: Receipt) -> int:
    return sum(line.label is not None for line in receipt.lines)


def figures(binding: TextInPictures, predictions: dict[int, Json], numbers: dict[int, int]) -> Metrics:
    truth, guess = [], []
    for task_id, prediction in predictions.items():
        lines = draw_receipt(numbers[task_id]).lines
        truth.append([ReadLine(line.corners, line.text, _index(line.label)) for line in lines])
        guess.append([ReadLine(*line) for line in binding.target(prediction["result"], {}).lines])
    return text_lines(truth, guess, LABELS)


def _index(label: str | None) -> int | None:
    return None if label is None else LABELS.index(label)


@pytest.mark.long
@pytest.mark.parametrize("name", CONFIGS)
def test_a_head_labels_the_lines_of_receipts_that_nobody_annotated(
    name: str, label_studio: Server, lorabel_up: Lorabel, client: LabelStudio, capsys: pytest.CaptureFixture[str]
) -> None:
    config = CONFIGS[name]
    binding = binding_of(config)
    project_id = connected(lorabel_up, label_studio, client, config, ANNOTATED + UNSEEN)
    tasks = [task.task_id for task in client.tasks(project_id)]
    numbers = {task_id: number for number, task_id in enumerate(tasks)}
    unseen = tasks[ANNOTATED:]
    first = predict(client, project_id, unseen)
    assert {answer["model_version"] for answer in first.values()} == {f"p{project_id}.v0"}
    before = figures(binding, first, numbers).values
    for task_id in tasks[:ANNOTATED]:
        result = annotated(binding, draw_receipt(numbers[task_id]))
        client.call("POST", f"/api/tasks/{task_id}/annotations/", json={"result": result})
    deadline = time.monotonic() + TIMEOUT_S
    after: dict[str, Any] = before
    while after["label_accuracy"] < 0.9 and time.monotonic() < deadline:
        time.sleep(1.0)
        after = figures(binding, predict(client, project_id, unseen), numbers).values
    with capsys.disabled():
        for figure in ("f1", "end_to_end_f1", "detection_f1", "label_accuracy", "character_error_rate"):
            print(f"\n  {figure}: {before[figure]:.3f} -> {after[figure]:.3f}", end="")  # noqa: T201
    assert before["end_to_end_f1"] > 0.9, "the text is right before anybody has annotated"
    assert before["label_accuracy"] < 0.6 < 0.9 <= after["label_accuracy"]
    assert after["f1"] > before["f1"] and after["end_to_end_f1"] >= before["end_to_end_f1"] - 0.02


@pytest.mark.long
@pytest.mark.parametrize(("name", "annotated_tasks"), [("template", 4), ("rectangle-labels", 0)])
def test_lines_stand_in_the_editor_where_they_are_in_the_picture_and_are_submitted_as_they_are(
    name: str,
    annotated_tasks: int,
    label_studio: Server,
    lorabel_up: Lorabel,
    client: LabelStudio,
    browser: Chrome,
    artifacts: Path,
) -> None:
    """With labels, once a head has learned them from `annotated_tasks`; without, before anybody has annotated."""
    project_id = connected(lorabel_up, label_studio, client, CONFIGS[name], annotated_tasks + 2)
    task_ids = [task.task_id for task in client.tasks(project_id)]
    for number, task_id in enumerate(task_ids[:annotated_tasks]):
        result = annotated(binding_of(CONFIGS[name]), draw_receipt(number))
        client.call("POST", f"/api/tasks/{task_id}/annotations/", json={"result": result})
    if annotated_tasks:
        unseen = {task_ids[number]: draw_receipt(number) for number in range(annotated_tasks, len(task_ids))}
        wait_for_labels(client, project_id, unseen)
    stream = LabelingStream(browser, label_studio.url, project_id, "img[alt=image]")
    stream.log_in()
    task_id = stream.open()
    receipt = draw_receipt(task_ids.index(task_id))
    labeled = labeled_lines(receipt) if annotated_tasks else 0
    # The editor adds a region's label after its place and text.
    shown = WebDriverWait(browser, WAIT_S).until(
        lambda browser: (
            len(lines := browser.execute_script(SHOWN_LINES)) == len(receipt.lines)
            and sum(bool(line["labels"]) for line in lines) == labeled
            and lines
        )
    )
    stream.take_picture(artifacts / f"text-in-pictures-{name}.png")
    boxes = [
        (line["x"] / 100, line["y"] / 100, (line["x"] + line["width"]) / 100, (line["y"] + line["height"]) / 100)
        for line in shown
    ]
    pairs = match_boxes([line.corners for line in receipt.lines], boxes)
    assert len(pairs) == len(receipt.lines), "each line has its box"
    assert [shown[j]["text"] for _, j in pairs] == [receipt.lines[i].text for i, _ in pairs]
    labels = [[receipt.lines[i].label] if receipt.lines[i].label and annotated_tasks else [] for i, _ in pairs]
    assert [shown[j]["labels"] for _, j in pairs] == labels
    # The list of regions has fields for those that fit on the screen.
    listed = WebDriverWait(browser, WAIT_S).until(lambda browser: browser.execute_script(LISTED))
    assert len(listed) > 2 and set(listed) <= {line.text for line in receipt.lines}
    predicted = client.call("GET", "/api/predictions/", params={"project": project_id, "task": task_id})[-1]
    stream.submit()
    stream.wait_for_task(other_than=task_id)
    (task,) = [task for task in client.tasks(project_id) if task.task_id == task_id]
    (annotation,) = task.annotations
    assert is_same_result(annotation["result"], predicted["result"])
