"""With REDACT, explanations show no personal data, wherever a text comes from."""

import pytest
from flask.testing import FlaskClient

from backend.services import Services
from lorabel.database import projects
from lorabel.settings import Settings
from tests.backend import page_history
from tests.backend.test_explanations import TASK
from tests.backend.test_page_tasks import annotate
from tests.backend.test_pages import get, text_of

EMAIL = "anna.bell@mail.example.com"
FILE = """<View><Text name="text" value="$text" valueType="url"/>
<Choices name="label" toName="text"><Choice value="red"/><Choice value="blue"/></Choices></View>"""


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"redact": "email"})


def test_a_text_in_a_file_is_masked_and_its_words_keep_their_places(
    client: FlaskClient, services: Services
) -> None:
    """The fake model server reads the file's name as its text."""
    projects.upsert(services.store, 1, label_config=FILE, hostname=page_history.ADDRESS)
    annotate(services, 1, 5, "blue", task_data={"text": f"http://texts.test/{EMAIL} blue"})
    (content,) = client.get(TASK.format(5)).json["control_tags"][0]["contents"]  # type: ignore[index]
    assert content["text"] == "xxxx.xxxx@xxxx.xxxxxxx.xxx blue"
    assert {"start": 27, "end": 31, "word": "blue", "weight": 1.0} in content["words"]
    assert EMAIL not in repr(content["words"])
    assert "xxxx.xxxx@xxxx.xxxxxxx.xxx" in text_of(get(client, "/ui/projects/1/tasks/5"))
