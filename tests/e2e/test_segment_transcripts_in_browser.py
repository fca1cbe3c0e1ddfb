"""In the real editor segments stand on the waveform and their texts beside them, and a text is corrected."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from selenium.webdriver import ActionChains, Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

from lorabel.commands.connect import connect
from lorabel.demo.project import upload_project
from lorabel.label_studio.client import LabelStudio
from tests import whisper_tiny
from tests.e2e.label_studio_server import Server
from tests.e2e.lorabel_processes import Lorabel
from tests.e2e.test_browser import WAIT_S, LabelingStream
from tests.e2e.test_segment_transcripts import CONFIG, speech, variables
from tests.e2e.test_segments_in_browser import HEARD, REGIONS, SOUND

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.long, pytest.mark.timeout(900)]

# The text of each region, in the order of SOUND.
TEXTS = (
    REGIONS
    + "return regions.map(region => region.results.filter(result => result.type === 'textarea')"
    + ".flatMap(result => result.value.text).join(' '))"
)
NAMED = "I spoke with Zorvek about the contract yesterday."


def test_segments_stand_on_the_waveform_with_their_texts_and_a_text_is_corrected(
    start_lorabel: Callable[..., Lorabel],
    label_studio: Server,
    client: LabelStudio,
    browser: Chrome,
    artifacts: Path,
    tmp_path: Path,
) -> None:
    lorabel = start_lorabel(variables(tmp_path))
    sentences = (*whisper_tiny.SENTENCES, NAMED)
    file, truth = speech(sentences, ["Bob"] * len(sentences))
    project_id = upload_project(client, "Segments with texts", CONFIG, [("talk.wav", file, "audio/wav")])
    connect(lorabel.settings, label_studio.url, label_studio.token, project_id)
    stream = LabelingStream(browser, label_studio.url, project_id, "[aria-label='Submit current annotation']")
    stream.log_in()
    stream.open()
    shown = WebDriverWait(browser, WAIT_S).until(lambda _: browser.execute_script(SOUND))
    spans = [(region["value"]["start"], region["value"]["end"]) for region in truth[::2]]
    order = np.argsort([start for start, _, _ in shown])
    np.testing.assert_allclose([shown[index][:2] for index in order], spans, atol=0.25)
    texts = [browser.execute_script(TEXTS)[index] for index in order]
    assert tuple(texts[:-1]) == whisper_tiny.SENTENCES and "Zorvek" not in texts[-1]

    length_s = truth[0]["original_length"]
    places = browser.execute_script(HEARD)
    for start, end, left, right, _, first_px, last_px in places:
        assert (left - first_px) / (last_px - first_px) == pytest.approx(start / length_s, abs=0.01)
        assert (right - first_px) / (last_px - first_px) == pytest.approx(end / length_s, abs=0.01)
    _, _, left, right, middle, *_ = max(places)
    click = ActionChains(browser)
    click.w3c_actions.pointer_action.move_to_location(round((left + right) / 2), round(middle))
    click.click().perform()
    WebDriverWait(browser, WAIT_S).until(lambda _: texts[-1] in browser.page_source)
    browser.save_screenshot(str(artifacts / "segments-with-texts.png"))

    _correct(browser, NAMED)
    WebDriverWait(browser, WAIT_S).until(lambda _: NAMED in browser.execute_script(TEXTS))
    browser.save_screenshot(str(artifacts / "segments-with-texts-corrected.png"))
    stream.submit()
    result = WebDriverWait(browser, WAIT_S).until(lambda _: _submitted(client, project_id))
    by_id: dict[str, list[dict[str, Any]]] = {}
    for region in result:
        by_id.setdefault(region["id"], []).append(region)
    assert len(by_id) == len(sentences) and all(len(parts) == 2 for parts in by_id.values())
    submitted = {
        next(part["value"]["text"][0] for part in parts if part["type"] == "textarea") for parts in by_id.values()
    }
    assert submitted == set(sentences)


def _correct(browser: Chrome, text: str) -> None:
    """Write another text in place of that of the region that is selected."""
    browser.find_element(By.CSS_SELECTOR, "[data-testid='htx-textbox-edit-button']").click()
    selector = "[data-testid='htx-textbox-input']"
    field = WebDriverWait(browser, WAIT_S).until(lambda _: browser.find_element(By.CSS_SELECTOR, selector))
    field.send_keys(Keys.CONTROL, "a")
    field.send_keys(Keys.BACKSPACE)
    field.send_keys(text)
    browser.find_element(By.CSS_SELECTOR, "[data-testid='htx-textbox-save']").click()


def _submitted(client: LabelStudio, project_id: int) -> list[dict[str, Any]]:
    annotations = [annotation for task in client.tasks(project_id) for annotation in task.annotations]
    return list(annotations[0]["result"]) if annotations else []
