"""MODEL_TRACKER in the real editor: boxes that an annotator draws in one frame are followed through the video.

The annotator draws a box around each of two things in one frame, and submits. Their labels are words that say
nothing, so nothing is proposed before. The next prediction has their tracks, forwards and backwards; one of the
things leaves the picture. A bulk run proposes the same.
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
    overlap,
    predicted,
)
from tests.moving_scenes import Mover, MovingScene

pytestmark = [pytest.mark.e2e, pytest.mark.long]

LABELS = ("part 17", "part 23")
DRAWN_IN = 25
SCENE = MovingScene(
    (
        Mover("blue", "square", ((1, 0.2, 0.25), (FRAMES, 0.8, 0.3)), 0.15),
        Mover("green", "star", ((1, 0.75, 0.7), (25, 0.5, 0.6), (45, 1.2, 0.75), (FRAMES, 1.2, 0.75)), 0.17),
    ),
    FRAMES,
    RATE,
)
GONE_BY = 45
TIMEOUT_S = 60.0

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
SHOW_PREDICTION = "window.Htx.annotationStore.selectPrediction(window.Htx.annotationStore.predictions.at(-1).id)"


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
    project_id, (task_id,) = connected_project(following_lorabel, label_studio, client, LABELS, [SCENE])
    stream = LabelingStream(browser, label_studio.url, project_id)
    stream.log_in()
    browser.get(f"{label_studio.url}/projects/{project_id}/data?labeling=1")
    WebDriverWait(browser, WAIT_S).until(lambda _: browser.execute_script(VIDEO + "return video?.length > 1"))
    browser.execute_script(VIDEO + "video.setFrame(arguments[0])", DRAWN_IN)
    for label, mover in zip(LABELS, SCENE.movers, strict=True):
        draw(browser, label, mover.corners(DRAWN_IN))
    browser.save_screenshot(str(artifacts / "followed-drawn.png"))
    stream.submit()
    WebDriverWait(browser, WAIT_S).until(lambda _: client.call("GET", f"/api/tasks/{task_id}")["annotations"])
    (annotation,) = client.call("GET", f"/api/tasks/{task_id}")["annotations"]
    assert sorted(region["value"]["labels"][0] for region in annotation["result"]) == sorted(LABELS)
    assert all(len(region["value"]["sequence"]) == 1 for region in annotation["result"])

    regions = followed(lambda: predicted(client, project_id, task_id))
    assert_on_the_things(regions)

    environment = {**bare_environment(), **following_lorabel.environment}
    subprocess.run([str(PROGRAM), "preannotate", str(project_id)], env=environment, check=True, timeout=TIMEOUT_S)
    newest = max(client.call("GET", f"/api/tasks/{task_id}")["predictions"], key=lambda each: each["id"])
    assert_on_the_things(newest["result"])

    browser.get(f"{label_studio.url}/projects/{project_id}/data?task={task_id}")
    WebDriverWait(browser, WAIT_S).until(
        lambda _: browser.execute_script("return window.Htx?.annotationStore?.predictions?.length")
    )
    browser.execute_script(SHOW_PREDICTION)
    WebDriverWait(browser, WAIT_S).until(lambda _: len((browser.execute_script(REGIONS) or (0, []))[1]) >= 2)
    for frame, shown in ((5, SCENE.movers), (40, SCENE.movers[:1])):
        browser.execute_script(VIDEO + "video.setFrame(arguments[0])", frame)
        for mover in shown:
            label = LABELS[SCENE.movers.index(mover)]
            WebDriverWait(browser, WAIT_S).until(lambda _, m=mover, f=frame, n=label: is_on(browser, m, f, n))
        browser.save_screenshot(str(artifacts / f"followed-frame-{frame}.png"))


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


def followed(ask: Callable[[], list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """The regions of the first prediction that has both things."""
    deadline = time.monotonic() + TIMEOUT_S
    while time.monotonic() < deadline:
        regions = ask()
        if {region["value"]["labels"][0] for region in regions} == set(LABELS):
            return regions
        time.sleep(0.3)
    raise AssertionError(f"no prediction has both things after {TIMEOUT_S:.0f} s")


def assert_on_the_things(regions: Sequence[dict[str, Any]]) -> None:
    """The tracks are where the things are, and that of the one that leaves ends where it leaves."""
    tracks = [
        Track(label=LABELS.index(region["value"]["labels"][0]), keyframes=keyframes_of(region))
        for region in regions
    ]
    names = [mover.name for mover in SCENE.movers]
    truth = TracksTarget(SCENE.tracks(names), FRAMES)
    metrics = track_metrics([truth], [tracks], LABELS).values
    assert metrics["idf1"] >= 0.9, (metrics, tracks)
    for label, mover in enumerate(SCENE.movers):
        best = max(
            (track for track in tracks if track.label == label), key=lambda track: mean_overlap(track, mover)
        )
        assert mean_overlap(best, mover) >= 0.6
    square, star = (next(track for track in tracks if track.label == label) for label in (0, 1))
    assert square.at(FRAMES) is not None
    assert star.at(GONE_BY) is None, "it has left the picture"


def mean_overlap(track: Track, mover: Mover) -> float:
    """Of the frames in which the thing is seen."""
    ious = [
        overlap(track.at(frame), mover.corners(frame)) for frame in range(1, FRAMES + 1) if mover.corners(frame)
    ]
    return sum(ious) / len(ious)
