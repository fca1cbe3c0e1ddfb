"""A caption in the real editor stands in the TextArea beside the picture, and can be submitted."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from selenium.webdriver import Chrome
from selenium.webdriver.support.ui import WebDriverWait

from lorabel.commands.connect import connect
from lorabel.families.generation.tiny_models import write_vision_language_model
from lorabel.label_studio.client import LabelStudio
from tests.e2e.courses import data_url
from tests.e2e.label_studio_server import Server
from tests.e2e.lorabel_processes import Lorabel
from tests.e2e.test_browser import WAIT_S, LabelingStream
from tests.plain_pictures import plain_picture

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.long]

# As in the recording `image-caption`, which was made with the editor.
CONFIG = (
    '<View><Image name="image" value="$image"/>'
    '<TextArea name="caption" toName="image" rows="2" editable="true" maxSubmissions="1"/></View>'
)
SHOWN = """
return window.Htx.annotationStore.selected.results.filter(r => r.type === 'textarea').flatMap(r => r.value.text)
"""


def test_a_caption_stands_in_the_text_area_of_the_editor(
    start_lorabel: Callable[..., Lorabel],
    label_studio: Server,
    client: LabelStudio,
    browser: Chrome,
    artifacts: Path,
    tmp_path: Path,
) -> None:
    torch.manual_seed(0)
    variables = {
        "MODEL_GENERATOR": write_vision_language_model(tmp_path / "tiny"),
        "GENERATOR_MAX_NEW_TOKENS": "12",
        "FAMILIES": "generator",
    }
    lorabel = start_lorabel(variables)
    project = {"title": "Captions", "label_config": CONFIG, "show_collab_predictions": True}
    project_id = int(client.call("POST", "/api/projects", json=project)["id"])
    pictures = [{"data": {"image": data_url(plain_picture("red", 1), "image/png")}}]
    client.call("POST", f"/api/projects/{project_id}/import", json=pictures)
    connect(lorabel.settings, label_studio.url, label_studio.token, project_id)
    stream = LabelingStream(browser, label_studio.url, project_id, "[aria-label='Submit current annotation']")
    stream.log_in()
    task_id = stream.open()
    texts = WebDriverWait(browser, WAIT_S).until(lambda browser: browser.execute_script(SHOWN))
    stream.take_picture(artifacts / "caption.png")
    predictions = client.call("GET", f"/api/predictions/?task={task_id}")
    assert [region["value"]["text"] for region in predictions[0]["result"]] == [texts]
    stream.submit()
