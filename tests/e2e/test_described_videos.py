"""Descriptions of videos in the real Label Studio: shown in the editor, and learned from corrected texts."""

import itertools
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from selenium.webdriver import Chrome
from selenium.webdriver.support.ui import WebDriverWait

from lorabel.commands.connect import connect
from lorabel.demo import CAPTIONER_FOLDER
from lorabel.demo.counted_scenes import counted_scenes, kinds
from lorabel.demo.scenes import Scene
from lorabel.label_studio.client import LabelStudio
from lorabel.labeling.regions import textarea
from tests.audio_files import tone
from tests.e2e import test_every_problem_learns
from tests.e2e.courses import Course, LabeledTask, data_url
from tests.e2e.label_studio_server import Server
from tests.e2e.lorabel_processes import Lorabel
from tests.e2e.test_browser import WAIT_S, LabelingStream
from tests.e2e.test_every_problem_learns import NEVER, annotate, predictions, train
from tests.heard_videos import encoded

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.long, pytest.mark.timeout(1200)]

CONFIG = (
    '<View><TextArea name="description" toName="video" prompt="Describe the picture." rows="2" editable="true" '
    'maxSubmissions="1"/><Video name="video" value="$video"/></View>'
)
ANNOTATED, UNSEEN = 72, 8
SHOWN = """
return window.Htx.annotationStore.selected.results.filter(r => r.type === 'textarea').flatMap(r => r.value.text)
"""


@pytest.fixture(scope="module")
def lorabel(start_lorabel: Callable[..., Lorabel]) -> Lorabel:
    return start_lorabel(
        {
            "MODEL_GENERATOR": f"local-dir:{CAPTIONER_FOLDER}",
            "GENERATOR_VIDEO_FRAMES": "2",
            "GENERATOR_MAX_NEW_TOKENS": "32",
            "LEARNING_RATE": "0.02",  # a model so small needs larger steps
            "PRECISION": "float32",
            "FAMILIES": "generator",
            "TRAIN_AFTER_ANNOTATIONS": NEVER,
            "TRAIN_MIN_ANNOTATIONS": NEVER,
        }
    )


def video(scene: Scene) -> bytes:
    return encoded([np.asarray(scene.draw())] * 8)


def _tasks() -> list[LabeledTask]:
    tasks: list[LabeledTask] = []
    for scene in itertools.islice(counted_scenes(77), ANNOTATED + UNSEEN):
        text = "; ".join(f"{kind.shape} {kind.colour} {kind.count}" for kind in kinds(scene))
        data = {"video": data_url(video(scene), "video/mp4")}
        tasks.append((data, [textarea("description", "video", [text])]))
    return tasks


def test_the_form_of_descriptions_is_learned(
    lorabel: Lorabel, label_studio: Server, client: LabelStudio, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(test_every_problem_learns, "TIMEOUT_S", 1000.0)
    course = Course(CONFIG, _tasks, lambda _: {}, {"description": "exact_match"}, UNSEEN)
    project_id, before = annotate(client, "descriptions", course, lorabel, label_studio)
    run, versions = train(lorabel, project_id)
    assert versions and versions[0]["state"] == "live", run["decision"]
    after = predictions(client, project_id, list(before), versions[0]["version"])
    truth = [result[0]["value"]["text"] for _, result in course.tasks[-UNSEEN:]]
    right = [
        sum(
            bool(answer) and answer[0]["value"]["text"] == text
            for answer, text in zip(answers, truth, strict=True)
        )
        for answers in (list(before.values()), list(after.values()))
    ]
    print(f"\n  descriptions of {UNSEEN} unseen videos that are right: {right[0]} -> {right[1]}")  # noqa: T201
    assert right[0] == 0 and right[1] >= UNSEEN // 4


def test_a_description_stands_in_the_text_area_of_the_editor(
    lorabel: Lorabel, label_studio: Server, client: LabelStudio, browser: Chrome, artifacts: Path
) -> None:
    """Of a video whose sound nobody can transcribe here, as no speech model can be loaded."""
    project = {"title": "Descriptions", "label_config": CONFIG, "show_collab_predictions": True}
    project_id = int(client.call("POST", "/api/projects", json=project)["id"])
    scene = next(iter(counted_scenes(5)))
    file = {"file": ("scene.mp4", encoded([np.asarray(scene.draw())] * 8, tone(300, 1.0)), "video/mp4")}
    client.call("POST", f"/api/projects/{project_id}/import", files=file, timeout_s=120.0)
    connect(lorabel.settings, label_studio.url, label_studio.token, project_id)
    stream = LabelingStream(browser, label_studio.url, project_id, "[aria-label='Submit current annotation']")
    stream.log_in()
    task_id = stream.open()
    texts = WebDriverWait(browser, WAIT_S).until(lambda browser: browser.execute_script(SHOWN))
    time.sleep(1.0)  # the picture of the video
    browser.save_screenshot(str(artifacts / "video-description.png"))
    predicted = client.call("GET", f"/api/predictions/?task={task_id}")
    assert [region["value"]["text"] for region in predicted[0]["result"]] == [texts]
    assert any(kind.colour in texts[0] and kind.shape in texts[0] for kind in kinds(scene)), texts
    stream.submit()
