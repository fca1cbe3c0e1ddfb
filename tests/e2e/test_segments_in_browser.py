"""An annotator in Chromium sees segments of a video and of a sound where they belong, moves and submits them."""

import base64
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from selenium.webdriver import ActionChains, Chrome
from selenium.webdriver.support.ui import WebDriverWait

from lorabel.commands.connect import connect
from lorabel.demo.predicting_and_training import predict
from lorabel.demo.project import upload_project
from lorabel.label_studio.client import LabelStudio
from tests.e2e import courses
from tests.e2e.label_studio_server import Server
from tests.e2e.lorabel_processes import Lorabel
from tests.e2e.test_browser import WAIT_S, LabelingStream
from tests.e2e.test_every_problem_learns import NEVER
from tests.video_scenes import NAMES, SHADES

pytestmark = [pytest.mark.e2e, pytest.mark.long]

# The first tasks of a course are annotated, the next is looked at.
ANNOTATED = 6
TIMEOUT_S = 60.0
FRAMES = 144
REGIONS = "const regions = window.Htx?.annotationStore?.selected?.regionStore?.regions ?? []; "
TIMELINE = (
    REGIONS
    + "if (window.Htx?.annotationStore?.selected?.names.get('video').length !== arguments[0]) return [];"
    + "return regions.map(region => [region.ranges[0].start, region.ranges[0].end, region.labels[0]])"
)
# Region by region: first and last frame, and where it begins and ends on the page.
PLACES = """
document.querySelector('[data-start][data-end]').scrollIntoView({block: 'center'});
return [...document.querySelectorAll('[data-start][data-end]')].map(row => {
  const span = row.querySelector('[class*=lifespan]').getBoundingClientRect();
  return [+row.dataset.start, +row.dataset.end, span.left, span.right, span.top + span.height / 2];
})
"""
# Shows a frame, and returns its pixels once it is there.
PIXELS = """
const [frame, done] = arguments, video = document.querySelector('video');
const tag = window.Htx.annotationStore.selected.names.get('video');
const read = () => {
  const canvas = document.createElement('canvas');
  [canvas.width, canvas.height] = [video.videoWidth, video.videoHeight];
  const context = canvas.getContext('2d');
  context.drawImage(video, 0, 0);
  done([...context.getImageData(0, 0, canvas.width, canvas.height).data]);
};
tag.setFrame(1);
setTimeout(() => { tag.setFrame(frame); setTimeout(read, 300); }, 100);
"""
SOUND = (
    REGIONS
    + "if (!regions.length || !regions.every(region => region._ws_region)) return [];"
    + "return regions.map(region => [region.start, region.end, region.labels[0]])"
)
# Region by region: start and end in seconds, and where it begins and ends on the page.
HEARD = (
    REGIONS
    + "return regions.map(({start, end, _ws_region: shown}) => {"
    + "const box = shown.visualizer.container.getBoundingClientRect();"
    + "return [start, end, box.left + shown.xStart, box.left + shown.xEnd, box.top + shown.yEnd / 2, box.left,"
    + "box.right]})"
)


@pytest.fixture(scope="module")
def lorabel(start_lorabel: Callable[..., Lorabel], tmp_path_factory: pytest.TempPathFactory) -> Lorabel:
    variables = {"TRAIN_AFTER_ANNOTATIONS": NEVER, "TRAIN_MIN_ANNOTATIONS": NEVER, "FAMILIES": ""}
    for name in ("timelines", "sound_segments"):
        variables |= courses.load(name).variables(tmp_path_factory.mktemp(name))
    return start_lorabel(variables)


def open_next(
    name: str, lorabel: Lorabel, label_studio: Server, client: LabelStudio, browser: Chrome
) -> tuple[LabelingStream, int, int]:
    """Teach a course's first tasks, and open the labeling stream with the next.

    Returns:
        The stream, the project, and the task on the screen.
    """
    course = courses.load(name)
    # All of the timeline is in sight, from top to bottom.
    config = course.label_config.replace("<Video ", '<Video height="200" timelineHeight="160" ')
    # The editor opens no sound that is in its own address.
    files = [_file(data, number) for number, (data, _) in enumerate(course.tasks[: ANNOTATED + 1])]
    project_id = upload_project(client, name, config, files)
    connect(lorabel.settings, label_studio.url, label_studio.token, project_id)
    *annotated, last = [task.task_id for task in client.tasks(project_id)]
    for task_id, (_, result) in zip(annotated, course.tasks, strict=False):
        client.call("POST", f"/api/tasks/{task_id}/annotations/", json={"result": result})
    deadline = time.monotonic() + TIMEOUT_S
    while True:
        predicted = predict(client, project_id, [last])[last]
        if ".h" in predicted["model_version"] and _is_about(predicted["result"], course.tasks[ANNOTATED][1]):
            break
        assert time.monotonic() < deadline, f"no head answers after {TIMEOUT_S:.0f} s"
        time.sleep(1.0)
    stream = LabelingStream(browser, label_studio.url, project_id)
    stream.log_in()
    browser.get(f"{label_studio.url}/projects/{project_id}/data?labeling=1")
    return stream, project_id, last


def _file(data: Mapping[str, str], number: int) -> tuple[str, bytes, str]:
    """Name, bytes and media type of the file in a course's task."""
    ((media_type, encoded),) = [url.removeprefix("data:").split(";base64,") for url in data.values()]
    return f"{number:02}.{media_type.split('/')[1]}", base64.b64decode(encoded), media_type


def shown_prediction(client: LabelStudio, task_id: int) -> list[dict[str, Any]]:
    """The newest prediction that Label Studio has stored of a task: the one that its editor shows."""
    stored = client.call("GET", "/api/predictions/", params={"task": task_id})
    return list(max(stored, key=lambda prediction: int(prediction["id"]))["result"])


def _is_about(predicted: list[dict[str, Any]], truth: list[dict[str, Any]]) -> bool:
    """Whether as many regions were predicted as there are."""
    return len(predicted) == len(truth)


def drag(browser: Chrome, place: tuple[float, float], right_px: int) -> None:
    """Press the mouse at a place of the page, and release it so many pixels to the right."""
    actions = ActionChains(browser)
    actions.w3c_actions.pointer_action.move_to_location(round(place[0]), round(place[1]))
    actions.click_and_hold().move_by_offset(right_px // 2, 0).move_by_offset(right_px - right_px // 2, 0)
    actions.release().perform()


def submitted(client: LabelStudio, project_id: int) -> list[dict[str, Any]]:
    """The result of the annotation that was submitted last."""
    annotations = [annotation for task in client.tasks(project_id) for annotation in task.annotations]
    return list(annotations[-1]["result"]) if len(annotations) > ANNOTATED else []


def test_segments_of_a_video_stand_on_their_frames_and_are_moved_and_submitted(
    lorabel: Lorabel, label_studio: Server, client: LabelStudio, browser: Chrome, artifacts: Path
) -> None:
    stream, project_id, task_id = open_next("timelines", lorabel, label_studio, client, browser)
    shown = WebDriverWait(browser, WAIT_S).until(lambda _: browser.execute_script(TIMELINE, FRAMES))
    predicted = shown_prediction(client, task_id)
    of_prediction = [(*one["value"]["ranges"][0].values(), *one["value"]["timelinelabels"]) for one in predicted]
    assert sorted(map(tuple, shown)) == sorted(of_prediction)

    places = browser.execute_script(PLACES)
    assert sorted(place[:2] for place in places) == sorted([start, end] for start, end, _ in shown)
    _check_scale(places)
    browser.save_screenshot(str(artifacts / "timeline-labels.png"))

    start, end, _, right, middle = min(places, key=lambda place: place[3])
    drag(browser, (right, middle), 60)
    moved = WebDriverWait(browser, WAIT_S).until(
        lambda _: {tuple(one[:2]) for one in browser.execute_script(TIMELINE, FRAMES)} - {(start, end)}
    )
    browser.save_screenshot(str(artifacts / "timeline-labels-moved.png"))
    ((_, later),) = [span for span in moved if span[0] == start and span not in {tuple(one[:2]) for one in shown}]
    assert later > end
    stream.submit()
    result = WebDriverWait(browser, WAIT_S).until(lambda _: submitted(client, project_id))
    assert len(result) == len(predicted)
    assert {"start": start, "end": later} in [one["value"]["ranges"][0] for one in result]


def test_the_editor_shows_in_the_frames_of_a_segment_what_was_marked_and_not_in_those_beside_it(
    lorabel: Lorabel, label_studio: Server, client: LabelStudio, browser: Chrome
) -> None:
    """The marked frames are computed from seconds; the editor turns frames into moments of the video."""
    open_next("timelines", lorabel, label_studio, client, browser)
    WebDriverWait(browser, WAIT_S).until(lambda _: browser.execute_script(TIMELINE, FRAMES))
    for region in courses.load("timelines").tasks[ANNOTATED][1]:
        (frames,), (label,) = region["value"]["ranges"], region["value"]["timelinelabels"]
        at = {
            frame: _shows(browser, frame, NAMES.index(label))
            for frame in (frames["start"] - 1, frames["start"], frames["end"], frames["end"] + 1)
            if 1 <= frame <= FRAMES
        }
        expected = {frame: frames["start"] <= frame <= frames["end"] for frame in at}
        assert at == expected, label


def test_segments_of_a_sound_stand_on_their_moments_and_are_moved_and_submitted(
    lorabel: Lorabel, label_studio: Server, client: LabelStudio, browser: Chrome, artifacts: Path
) -> None:
    stream, project_id, task_id = open_next("sound_segments", lorabel, label_studio, client, browser)
    shown = WebDriverWait(browser, WAIT_S).until(lambda _: browser.execute_script(SOUND))
    predicted = shown_prediction(client, task_id)
    values = [one["value"] for one in predicted]
    assert sorted(one[2] for one in shown) == sorted(value["labels"][0] for value in values)
    np.testing.assert_allclose(
        sorted(one[:2] for one in shown), sorted([value["start"], value["end"]] for value in values), atol=0.01
    )

    places = browser.execute_script(HEARD)
    for start, end, left, right, _, first_px, last_px in places:
        length_px = last_px - first_px
        assert (left - first_px) / length_px == pytest.approx(start / 6.0, abs=0.01)
        assert (right - first_px) / length_px == pytest.approx(end / 6.0, abs=0.01)
    browser.save_screenshot(str(artifacts / "sound-segments.png"))

    start, end, left, right, middle, first_px, last_px = places[0]
    drag(browser, ((left + right) / 2, middle), 40)
    expected = start + 40 / (last_px - first_px) * 6.0
    WebDriverWait(browser, WAIT_S).until(
        lambda _: any(abs(one[0] - expected) < 0.05 for one in browser.execute_script(SOUND))
    )
    browser.save_screenshot(str(artifacts / "sound-segments-moved.png"))
    stream.submit()
    result = WebDriverWait(browser, WAIT_S).until(lambda _: submitted(client, project_id))
    assert len(result) == len(predicted)
    assert any(
        abs(one["value"]["start"] - expected) < 0.05 and abs(one["value"]["end"] - end - expected + start) < 0.05
        for one in result
    )


def _check_scale(places: list[list[float]]) -> None:
    """All regions are on one scale: the same width for each frame, from the same first frame on."""
    ends = np.array(
        [(frame, px) for start, end, left, right, _ in places for frame, px in ((start, left), (end, right))]
    )
    slope, offset = np.polyfit(ends[:, 0], ends[:, 1], 1)
    assert slope > 1
    np.testing.assert_allclose(slope * ends[:, 0] + offset, ends[:, 1], atol=1.5)


def _shows(browser: Chrome, frame: int, label: int) -> bool:
    """Whether the editor's frame has enough pixels of the label's colour."""
    pixels = np.array(browser.execute_async_script(PIXELS, frame)).reshape(-1, 4)[:, :3]
    return int((np.abs(pixels - np.array(SHADES[label])).max(axis=1) < 50).sum()) > 50
