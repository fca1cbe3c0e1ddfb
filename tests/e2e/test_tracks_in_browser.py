"""An annotator in Chromium sees tracks on the things in the frames of a video, and submits them.

Before that: what an annotator drew in one frame is found in all frames of the same video, and in others. And
what an annotator does with tracks while Auto-Annotation is on brings no others.
"""

import time
from pathlib import Path
from typing import Any

import pytest
from selenium.webdriver import ActionChains, Chrome, Keys
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from lorabel.commands.connect import connect
from lorabel.evaluation.box_matching import iou_matrix
from lorabel.label_studio.client import LabelStudio
from lorabel.labeling.results import is_same_result
from lorabel.labeling.video_regions import keyframes_of, track_region
from lorabel.space_contracts import Corners
from lorabel.track_contracts import Keyframe, Track
from tests.e2e.courses import data_url
from tests.e2e.label_studio_server import Server
from tests.e2e.lorabel_processes import Lorabel
from tests.e2e.test_browser import WAIT_S, LabelingStream
from tests.moving_scenes import SHADES, SIZE, Mover, MovingScene
from tests.video_files import encoded

pytestmark = [pytest.mark.e2e, pytest.mark.long]

NAMES = ("blue square", "green star")
RATE = 20
FRAMES = 60
SHOWN = (11, 46)
SCENE = MovingScene(
    (
        Mover("blue", "square", ((1, 0.2, 0.25), (FRAMES, 0.8, 0.3)), 0.15),
        Mover("green", "star", ((1, 0.75, 0.7), (30, 0.3, 0.6), (FRAMES, 0.5, 0.75)), 0.17),
    ),
    FRAMES,
    RATE,
)
TWO_SQUARES = (
    Mover("blue", "square", ((1, 0.15, 0.15), (FRAMES, 0.8, 0.15)), 0.13),
    Mover("blue", "square", ((1, 0.8, 0.85), (FRAMES, 0.2, 0.8)), 0.13),
)
PART = "part 17"
TIMEOUT_S = 30.0

VIDEO = "const annotation = window.Htx?.annotationStore?.selected; const video = annotation?.names.get('video');"
REGIONS = (
    VIDEO + "if (!video?.ref?.current || video.length < 2) return null;"
    "return [video.length, video.regs.map(region => region.labels[0])]"
)
# The place of a label's box in the frame on the screen, as fractions of the video; null if none is drawn. And the
# colour of the video there.
SEEN = (
    VIDEO
    + """
const region = video.regs.find(region => region.labels[0] === arguments[0]);
const stage = window.Konva.stages.find(stage => stage.findOne('#' + region.id));
if (!stage) return null;
const node = stage.findOne('#' + region.id), layer = node.getLayer();
const box = node.getClientRect({skipStroke: true}), [width, height] = arguments[1];
const canvas = Array.from(document.querySelectorAll('canvas')).find(canvas => !stage.content.contains(canvas));
const [x, y] = [box.x + box.width / 2, box.y + box.height / 2];
const at = [x * canvas.width / stage.width(), y * canvas.height / stage.height()];
const colour = canvas.getContext('2d').getImageData(at[0], at[1], 1, 1).data;
const left = (box.x - layer.x()) / layer.scaleX() / width, top = (box.y - layer.y()) / layer.scaleY() / height;
return [[left, top, left + box.width / layer.scaleX() / width, top + box.height / layer.scaleY() / height],
        Array.from(colour).slice(0, 3)]
"""
)
SELECT = (
    VIDEO
    + "annotation.unselectAll();"
    + "annotation.selectArea(video.regs.find(region => region.labels[0] === arguments[0]))"
)
# Keep what the editor asks of the backend as a smart tool, and what it gets.
LISTEN = """
window.asked = [];
const send = window.fetch;
window.fetch = (...request) => {
  const answer = send(...request);
  if (String(request[0]).includes('interactive-annotating'))
    answer.then(response => response.clone().json())
      .then(json => window.asked.push([JSON.parse(request[1].body), json]));
  return answer;
};
"""


def file_of(scene: MovingScene) -> str:
    """A video that every Chromium plays."""
    pictures = [scene.picture(frame).draw() for frame in range(1, scene.frames + 1)]
    return data_url(encoded(pictures, "libvpx", "webm", scene.frames_per_s, keyframe_every=10), "video/webm")


def connected_project(
    lorabel: Lorabel,
    label_studio: Server,
    client: LabelStudio,
    labels: tuple[str, ...],
    scenes: list[MovingScene],
    drawn_by: str = "",
) -> tuple[int, list[int]]:
    """The project's id, and the ids of its tasks in the order of the scenes.

    Args:
        drawn_by: attributes of the tag that draws.
    """
    colours = [name.split()[0] if name.split()[0] in SHADES else "magenta" for name in labels]
    tags = "".join(
        f'<Label value="{name}" background="{colour}"/>' for name, colour in zip(labels, colours, strict=True)
    )
    config = (
        f'<View><Labels name="label" toName="video">{tags}</Labels>'
        f'<Video name="video" value="$video" frameRate="{RATE}"/>'
        f'<VideoRectangle name="box" toName="video" {drawn_by}/></View>'
    )
    body = {"title": "tracks", "label_config": config, "show_collab_predictions": True}
    project_id = int(client.call("POST", "/api/projects/", json=body)["id"])
    data = [{"video": file_of(scene), "number": number} for number, scene in enumerate(scenes)]
    client.call("POST", f"/api/projects/{project_id}/import", json=data)
    connect(lorabel.settings, label_studio.url, label_studio.token, project_id)
    ids = {task.data["number"]: task.task_id for task in client.tasks(project_id)}
    return project_id, [ids[number] for number in range(len(scenes))]


def predicted(client: LabelStudio, project_id: int, task_id: int) -> list[dict[str, Any]]:
    """The regions of the newest prediction, by the Data Manager's "Retrieve Predictions"."""
    path = f"/api/dm/actions?id=retrieve_tasks_predictions&project={project_id}"
    client.call("POST", path, json={"selectedItems": {"all": False, "included": [task_id]}}, timeout_s=110.0)
    predictions = client.call("GET", f"/api/tasks/{task_id}")["predictions"]
    newest = max(predictions, key=lambda prediction: prediction["id"])
    return list(newest["result"])


def test_tracks_stand_on_the_things_in_the_frames_of_the_editor_and_are_submitted(
    lorabel_up: Lorabel, label_studio: Server, client: LabelStudio, browser: Chrome, artifacts: Path
) -> None:
    project_id, _ = connected_project(lorabel_up, label_studio, client, NAMES, [SCENE])
    stream = LabelingStream(browser, label_studio.url, project_id)
    stream.log_in()
    browser.get(f"{label_studio.url}/projects/{project_id}/data?labeling=1")
    length, labels = WebDriverWait(browser, WAIT_S).until(lambda _: browser.execute_script(REGIONS))
    assert length == FRAMES and sorted(labels) == sorted(NAMES)
    for frame in SHOWN:
        browser.execute_script(VIDEO + "video.setFrame(arguments[0])", frame)
        for mover in SCENE.movers:
            WebDriverWait(browser, WAIT_S).until(lambda _, m=mover, f=frame: is_on(browser, m, f))
        browser.save_screenshot(str(artifacts / f"tracks-frame-{frame}.png"))

    task_id = int(browser.execute_script("return window.Htx.task.id"))
    stream.submit()
    WebDriverWait(browser, WAIT_S).until(lambda _: client.call("GET", f"/api/tasks/{task_id}")["annotations"])
    task = client.call("GET", f"/api/tasks/{task_id}")
    submitted, shown = task["annotations"][0]["result"], task["predictions"][-1]["result"]
    assert is_same_result(submitted, shown), "what was submitted unchanged counts as accepted"
    assert sorted(region["value"]["labels"][0] for region in submitted) == sorted(NAMES)
    for region in submitted:
        assert region["type"] == "videorectangle" and region["value"]["framesCount"] == FRAMES
        mover = next(mover for mover in SCENE.movers if mover.name == region["value"]["labels"][0])
        track = Track(label=0, keyframes=keyframes_of(region))
        for frame in range(1, FRAMES + 1):
            assert overlap(track.at(frame), mover.corners(frame)) > 0.5, (mover.name, frame)


def test_with_smart_tags_deleting_asks_nothing_and_another_label_brings_nothing_new(
    lorabel_up: Lorabel, label_studio: Server, client: LabelStudio, browser: Chrome, artifacts: Path
) -> None:
    """The editor sends all tracks of a label that it gives to a track, and adds whatever it gets."""
    scene = MovingScene((SCENE.movers[1], *TWO_SQUARES), FRAMES, RATE)
    project_id, _ = connected_project(lorabel_up, label_studio, client, NAMES, [scene], 'smart="true"')
    stream = LabelingStream(browser, label_studio.url, project_id)
    stream.log_in()
    browser.get(f"{label_studio.url}/projects/{project_id}/data?labeling=1")
    _, labels = WebDriverWait(browser, WAIT_S).until(lambda _: browser.execute_script(REGIONS))
    assert sorted(labels) == ["blue square", "blue square", "green star"]
    # The browser remembers it.
    if not browser.execute_script("return window.Htx.autoAnnotation"):
        browser.find_element(By.XPATH, "//*[contains(text(), 'Auto-Annotation')]").click()
    WebDriverWait(browser, WAIT_S).until(lambda _: browser.execute_script("return window.Htx.autoAnnotation"))
    browser.execute_script(LISTEN + "document.activeElement.blur()")

    browser.execute_script(SELECT, "blue square")
    ActionChains(browser).send_keys(Keys.BACKSPACE).perform()
    WebDriverWait(browser, WAIT_S).until(
        lambda _: sorted(browser.execute_script(REGIONS)[1]) == ["blue square", "green star"]
    )
    browser.execute_script(SELECT, "blue square")
    labels = browser.find_elements(By.CSS_SELECTOR, ".lsf-label")
    next(label for label in labels if "green star" in label.text).click()
    WebDriverWait(browser, WAIT_S).until(lambda _: browser.execute_script("return window.asked.length"))
    ((asked, answer),) = browser.execute_script("return window.asked")
    assert [region["value"]["labels"] for region in asked["context"]["result"]] == [["green star"]] * 2
    assert answer["data"]["result"] == []
    WebDriverWait(browser, WAIT_S).until(
        lambda _: browser.execute_script("return !window.Htx.awaitingSuggestions")
    )
    assert browser.execute_script(REGIONS)[1] == ["green star"] * 2
    browser.save_screenshot(str(artifacts / "tracks-with-another-label.png"))


def is_on(browser: Chrome, mover: Mover, frame: int, label: str | None = None) -> bool:
    """Whether the box of a thing stands on it in a frame, and the video on the screen shows it there.

    Args:
        label: of the box; None: the thing's name.
    """
    seen = browser.execute_script(SEEN, label or mover.name, SIZE)
    if not seen:
        return False
    place, colour = seen
    differences = [abs(a - b) for a, b in zip(colour, SHADES[mover.colour], strict=True)]
    return overlap(tuple(place), mover.corners(frame)) > 0.5 and max(differences) < 40


def overlap(place: Corners | None, other: Corners | None) -> float:
    return 0.0 if place is None or other is None else float(iou_matrix([place], [other])[0, 0])


def test_a_box_that_an_annotator_drew_in_one_frame_is_followed_and_found_in_other_videos(
    lorabel_up: Lorabel, label_studio: Server, client: LabelStudio
) -> None:
    star = SCENE.movers[1]
    other = MovingScene(
        (
            Mover("green", "star", ((1, 0.2, 0.3), (FRAMES, 0.8, 0.6)), 0.16),
            Mover("blue", "square", ((1, 0.8, 0.25), (FRAMES, 0.2, 0.75)), 0.14),
        ),
        FRAMES,
        RATE,
    )
    project_id, (task_id, other_id) = connected_project(lorabel_up, label_studio, client, (PART,), [SCENE, other])
    assert not predicted(client, project_id, task_id), "words do not say what it is"
    drawn = Keyframe(frame=20, corners=star.corners(20) or (0, 0, 0, 0))
    result = [track_region("box", "video", [drawn], RATE, (FRAMES, FRAMES / RATE), [PART])]
    client.call("POST", f"/api/tasks/{task_id}/annotations/", json={"result": result, "lead_time": 1.0})
    for which, mover in ((task_id, star), (other_id, other.movers[0])):
        track = likeliest(client, project_id, which)
        frames = [overlap(track.at(frame), mover.corners(frame)) > 0.5 for frame in range(1, FRAMES + 1)]
        assert sum(frames) >= 0.8 * FRAMES, f"{sum(frames)} of {FRAMES} frames"


def likeliest(client: LabelStudio, project_id: int, task_id: int) -> Track:
    """The track of the highest score, once the head answers."""
    deadline = time.monotonic() + TIMEOUT_S
    while time.monotonic() < deadline:
        if regions := predicted(client, project_id, task_id):
            region = max(regions, key=lambda region: region["score"])
            return Track(label=0, keyframes=keyframes_of(region))
        time.sleep(0.2)
    raise AssertionError(f"no head answers after {TIMEOUT_S:.0f} s")
