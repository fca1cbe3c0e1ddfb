"""A transcript in the real editor stands beside its sound, is corrected and submitted, and its name is learned."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

from lorabel.commands.connect import connect
from lorabel.database import instructions, projects
from lorabel.database.store import Store
from lorabel.families.transcription.conversion import convert
from lorabel.label_studio.client import LabelStudio
from lorabel.problems.instructions import WORDS
from tests import whisper_tiny
from tests.e2e.label_studio_server import Server
from tests.e2e.lorabel_processes import Lorabel
from tests.e2e.test_browser import WAIT_S, LabelingStream

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.long, pytest.mark.timeout(900)]

CONFIG = (
    '<View><Audio name="audio" value="$audio"/><Header value="Provide Transcription"/>'
    '<TextArea name="transcript" toName="audio" rows="4" editable="true" maxSubmissions="1"/></View>'
)
SENTENCES = ("Please send the report to Zorvek before noon.", "I spoke with Zorvek about the contract yesterday.")
FIELD = "[data-testid='htx-textbox-input']"
SHOWN = """
return window.Htx.annotationStore.selected.results.filter(r => r.type === 'textarea').flatMap(r => r.value.text)
"""


def test_a_transcript_is_corrected_in_the_editor_and_the_next_sound_has_the_name(
    start_lorabel: Callable[..., Lorabel],
    label_studio: Server,
    client: LabelStudio,
    browser: Chrome,
    artifacts: Path,
    tmp_path: Path,
) -> None:
    convert(whisper_tiny.folder(), tmp_path / "whisper")
    variables = {"MODEL_SPEECH": f"local-dir:{tmp_path / 'whisper'}", "PRECISION": "float32", "FAMILIES": "speech"}
    lorabel = start_lorabel(variables)
    project = {"title": "Transcripts", "label_config": CONFIG, "show_collab_predictions": True}
    project_id = int(client.call("POST", "/api/projects", json=project)["id"])
    _import(client, project_id, SENTENCES[0])
    connect(lorabel.settings, label_studio.url, label_studio.token, project_id)
    stream = LabelingStream(browser, label_studio.url, project_id, "[aria-label='Submit current annotation']")
    stream.log_in()
    task_id = stream.open()
    texts = WebDriverWait(browser, WAIT_S).until(lambda browser: browser.execute_script(SHOWN))
    WebDriverWait(browser, WAIT_S).until(lambda browser: "Loading file" not in browser.page_source)
    browser.save_screenshot(str(artifacts / "transcript.png"))
    predictions = client.call("GET", f"/api/predictions/?task={task_id}")
    assert [region["value"]["text"] for region in predictions[0]["result"]] == [texts]
    assert "Zorvek" not in texts[0]

    browser.find_element(By.CSS_SELECTOR, "[data-testid='htx-textbox-edit-button']").click()
    field = WebDriverWait(browser, WAIT_S).until(lambda browser: browser.find_element(By.CSS_SELECTOR, FIELD))
    field.send_keys(Keys.CONTROL, "a")
    field.send_keys(Keys.BACKSPACE)
    field.send_keys(SENTENCES[0])
    browser.find_element(By.CSS_SELECTOR, "[data-testid='htx-textbox-save']").click()
    assert browser.execute_script(SHOWN) == [SENTENCES[0]]
    browser.save_screenshot(str(artifacts / "transcript-corrected.png"))
    stream.submit()
    _wait_for_words(lorabel, project_id)
    (annotation,) = next(task for task in client.tasks(project_id) if task.task_id == task_id).annotations
    assert [region["value"]["text"] for region in annotation["result"]] == [[SENTENCES[0]]]

    _import(client, project_id, SENTENCES[1])
    stream.open()
    texts = WebDriverWait(browser, WAIT_S).until(lambda browser: browser.execute_script(SHOWN))
    browser.save_screenshot(str(artifacts / "transcript-with-the-name.png"))
    assert "Zorvek" in texts[0], texts


def _import(client: LabelStudio, project_id: int, sentence: str) -> None:
    # A file, since the editor plays no data URLs.
    file = {"file": ("spoken.wav", whisper_tiny.spoken(sentence), "audio/wav")}
    client.call("POST", f"/api/projects/{project_id}/import", files=file, timeout_s=120.0)


def _wait_for_words(lorabel: Lorabel, project_id: int) -> None:
    """Wait until the correction was collected."""
    store = Store.open(lorabel.settings)
    ends = time.monotonic() + WAIT_S
    while True:
        with store.read() as session:
            words = instructions.parameters(projects.get(session, project_id))[WORDS]
        if words:
            break
        assert time.monotonic() < ends, "no words were kept"
        time.sleep(0.2)
    store.close()
    assert "Zorvek" in words["transcript"]
