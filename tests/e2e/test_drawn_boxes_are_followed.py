"""MODEL_TRACKER in the real editor: boxes that an annotator draws in one frame are followed through the video.

The annotator draws a box around the thing in one frame of each of two videos, and submits. Their labels are words
that say nothing, so nothing is proposed before. The next prediction has the tracks, forwards and backwards; one of
the things leaves the picture, and the editor's timeline shows where. A bulk run proposes the same.
"""

import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from selenium.webdriver import Chrome
from selenium.webdriver.common.actions.action_builder import ActionBuilder
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from lorabel.demo import DETECTOR_FOLDER, TRACKER_FOLDER
from lorabel.evaluation.track_metrics import track_metrics
from lorabel.label_studio.client import LabelStudio
from lorabel.labeling.video_regions import keyframes_of
from lorabel.space_contracts import Corners
from lorabel.track_contracts import Track, TracksTarget
from tests.e2e.label_studio_server import Server
from tests.e2e.lorabel_processes import PROGRAM, Lorabel, bare_environment
from tests.e2e.test_browser import WAIT_S, LabelingStream
from tests.e2e.test_tracks_in_browser import (
    FRAMES,
    RATE,
    REGIONS,
    SIZE,
    VIDEO,
    connected_project,
    is_on,
    predicted,
)
from tests.moving_scenes import Mover, MovingScene

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.long, pytest.mark.timeout(900)]

LABELS = ("part 17", "part 23")
DRAWN_IN = 25
SCENES = (
    MovingScene((Mover("blue", "square", ((1, 0.2, 0.25), (FRAMES, 0.8, 0.3)), 0.15),), FRAMES, RATE),
    MovingScene(
        (Mover("green", "star", ((1, 0.75, 0.7), (25, 0.5, 0.6), (50, 1.2, 0.75), (FRAMES, 1.2, 0.75)), 0.17),),
        FRAMES,
        RATE,
    ),
)
TIMEOUT_S = 180.0
LOOKED_AT_EVERY = 4
"""Frames, with the default of five frames a second."""
MOST_KEYFRAMES = 12

# Places of corners in the window, in pixels: [[left, top], [right, bottom]]; null while no video is shown.
PLACES = (
    VIDEO
    + """
if (!video?.ref?.current) return null;
const stage = window.Konva.stages.find(stage => stage.findOne('Layer')?.scaleX() && stage.width() > 300);
if (!stage) return null;
const layer = stage.findOne('Layer'), screen = stage.content.getBoundingClientRect();
const [left, top, right, bottom] = arguments[0], [width, height] = arguments[1];
return [[left, top], [right, bottom]].map(([x, y]) => [
  screen.left + layer.x() + x * width * layer.scaleX(), screen.top + layer.y() + y * height * layer.scaleY()]);
"""
)
# For each track, from where to where it is seen in the map of the timeline, as fractions of its width.
SEEN_PARTS = """
const map = document.querySelector('.lsf-minimap');
if (!map) return null;
const whole = map.getBoundingClientRect();
return Array.from(map.querySelectorAll('.lsf-minimap__region')).map(region =>
  Array.from(region.querySelectorAll('.lsf-minimap__connection')).map(part => {
    const box = part.getBoundingClientRect();
    return [(box.left - whole.left) / whole.width, (Math.min(box.right, whole.right) - whole.left) / whole.width];
  }));
"""
SHOW_PREDICTION = """
const store = window.Htx?.annotationStore, prediction = store?.predictions?.at(-1);
if (!prediction) return false;
store.selectPrediction(prediction.id);
return store.selected?.id === prediction.id;
"""


@pytest.fixture(scope="module")
def following_lorabel(start_lorabel: Callable[..., Lorabel]) -> Lorabel:
    return start_lorabel(
        {
            "TRAIN_AFTER_ANNOTATIONS": "1000000",
            "TRAIN_MIN_ANNOTATIONS": "1000000",
            "MODEL_DETECTOR": f"local-dir:{DETECTOR_FOLDER}",
            "MODEL_TRACKER": f"local-dir:{TRACKER_FOLDER}",
        }
    )


def test_boxes_drawn_in_one_frame_are_followed_by_the_next_prediction_and_a_bulk_run(
    following_lorabel: Lorabel, label_studio: Server, client: LabelStudio, browser: Chrome, artifacts: Path
) -> None:
    project_id, task_ids = connected_project(following_lorabel, label_studio, client, LABELS, list(SCENES))
    stream = LabelingStream(browser, label_studio.url, project_id)
    stream.log_in()
    for task_id, label, scene in zip(task_ids, LABELS, SCENES, strict=True):
        browser.get(f"{label_studio.url}/projects/{project_id}/data?labeling=1")
        WebDriverWait(browser, WAIT_S).until(lambda _: browser.execute_script(VIDEO + "return video?.length > 1"))
        assert int(browser.execute_script("return window.Htx.task.id")) == task_id
        browser.execute_script(VIDEO + "video.setFrame(arguments[0])", DRAWN_IN)
        draw(browser, label, scene.movers[0].corners(DRAWN_IN))
        browser.save_screenshot(str(artifacts / f"followed-drawn-{label[-2:]}.png"))
        stream.submit()
        (annotation,) = WebDriverWait(browser, WAIT_S).until(
            lambda _, t=task_id: client.call("GET", f"/api/tasks/{t}")["annotations"]
        )
        assert [len(region["value"]["sequence"]) for region in annotation["result"]] == [1]

    for number, task_id in enumerate(task_ids):
        assert_on_the_thing(followed(lambda t=task_id: predicted(client, project_id, t), number), number)  # type: ignore[misc]

    for task_id in task_ids:
        for prediction in client.call("GET", f"/api/tasks/{task_id}")["predictions"]:
            client.delete_prediction(prediction["id"])
    environment = {**bare_environment(), **following_lorabel.environment}
    command = [str(PROGRAM), "preannotate", str(project_id), "--all"]
    subprocess.run(command, env=environment, check=True, timeout=TIMEOUT_S)
    for number, task_id in enumerate(task_ids):
        (prediction,) = client.call("GET", f"/api/tasks/{task_id}")["predictions"]
        assert_on_the_thing(prediction["result"], number)

    for number, frame in ((0, 50), (1, 35)):
        browser.get(f"{label_studio.url}/projects/{project_id}/data?task={task_ids[number]}")
        WebDriverWait(browser, WAIT_S).until(lambda _: browser.execute_script(SHOW_PREDICTION))
        WebDriverWait(browser, WAIT_S).until(lambda _: browser.execute_script(REGIONS))
        browser.execute_script(VIDEO + "video.setFrame(arguments[0])", frame)
        (mover,) = SCENES[number].movers
        WebDriverWait(browser, WAIT_S).until(
            lambda _, m=mover, f=frame, n=LABELS[number]: is_on(browser, m, f, n)  # type: ignore[misc]
        )
        assert_timeline_ends_where_it_leaves(browser.execute_script(SEEN_PARTS), mover)
        browser.execute_script("document.querySelector('.lsf-minimap').scrollIntoView({block: 'end'})")
        browser.save_screenshot(str(artifacts / f"followed-frame-{frame}.png"))


def assert_timeline_ends_where_it_leaves(tracks: list[list[list[float]]] | None, mover: Mover) -> None:
    """The track of the thing ends in the timeline where the thing is seen last; to a frame that is looked at."""
    assert tracks, "the editor shows no timeline"
    last_seen = max(frame for frame in range(1, FRAMES + 1) if mover.corners(frame))
    ends = [parts[-1][1] * FRAMES for parts in tracks if parts]
    assert any(abs(end - last_seen) <= LOOKED_AT_EVERY for end in ends), (ends, last_seen)


def draw(browser: Chrome, label: str, corners: Corners | None) -> None:
    """Choose a label, and draw a box in the frame that is shown."""
    count = len((browser.execute_script(REGIONS) or (0, []))[1])
    browser.execute_script(VIDEO + "annotation.unselectAll()")
    labels = browser.find_elements(By.CSS_SELECTOR, ".lsf-label")
    next(each for each in labels if label in each.text).click()
    (left, top), (right, bottom) = WebDriverWait(browser, WAIT_S).until(
        lambda _: browser.execute_script(PLACES, corners, SIZE)
    )
    builder = ActionBuilder(browser)
    pointer = builder.pointer_action
    pointer.move_to_location(round(left), round(top)).pointer_down()
    for share in (0.3, 0.6, 1.0):
        pointer.move_to_location(round(left + share * (right - left)), round(top + share * (bottom - top))).pause(
            0.1
        )
    pointer.pointer_up()
    builder.perform()
    WebDriverWait(browser, WAIT_S).until(lambda _: len(browser.execute_script(REGIONS)[1]) == count + 1)


def followed(ask: Callable[[], list[dict[str, Any]]], number: int) -> list[dict[str, Any]]:
    """The regions of the first prediction that has the thing of a video."""
    deadline = time.monotonic() + TIMEOUT_S
    while time.monotonic() < deadline:
        regions = ask()
        if any(region["value"]["labels"] == [LABELS[number]] for region in regions):
            return regions
        time.sleep(0.3)
    raise AssertionError(f"no prediction has the thing after {TIMEOUT_S:.0f} s")


def assert_on_the_thing(regions: Sequence[dict[str, Any]], number: int) -> None:
    """The likeliest track of the label is where the thing is, and ends where it leaves."""
    scene, likeliest_first = SCENES[number], sorted(regions, key=lambda region: -region["score"])
    region = next(each for each in likeliest_first if each["value"]["labels"] == [LABELS[number]])
    track = Track(label=0, keyframes=keyframes_of(region))
    truth = TracksTarget(scene.tracks([scene.movers[0].name]), FRAMES)
    metrics = track_metrics([truth], [[track]], LABELS[:1]).values
    assert metrics["idf1"] >= 0.9, (metrics, track)
    assert 1 < len(track.keyframes) <= MOST_KEYFRAMES
    assert (track.at(FRAMES) is None) == (scene.movers[0].corners(FRAMES) is None)
