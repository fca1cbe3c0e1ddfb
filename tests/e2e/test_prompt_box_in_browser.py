"""An annotator types instructions in Label Studio's own editor, and gets answers at once."""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from selenium.webdriver import ActionChains, Chrome, Keys
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from lorabel.commands.connect import connect
from lorabel.contracts import Content, Modality
from lorabel.database.project_keys import LabelStudioId
from lorabel.label_studio.client import LabelStudio
from lorabel.text_contracts import TextInput
from tests import taught_generator
from tests.e2e.label_studio_server import Server
from tests.e2e.lorabel_processes import Lorabel
from tests.e2e.test_browser import LabelingStream

pytestmark = [pytest.mark.e2e, pytest.mark.long, pytest.mark.timeout(600)]

WAIT_S = 60
TEAMS = {"leak": "Pipes", "smoke": "Fire", "dark": "Light"}
TICKET = '<Text name="ticket" value="$ticket"/>'
BOX = '<TextArea name="ask" toName="ticket" smart="true" rows="2" editable="true"/>'
ANSWER = '<TextArea name="answer" toName="ticket" rows="2" editable="true"/>'
HEADER = '<Header value="What is it?"/>'
ANNOTATION = "const annotation = window.Htx.annotationStore.selected; "


def ask(ticket: str, instruction: str) -> TextInput:
    return TextInput(contents=(Content(modality=Modality.TEXT, text=ticket),), instruction=instruction)


@pytest.fixture(scope="module")
def lorabel(start_lorabel: Callable[..., Lorabel], tmp_path_factory: pytest.TempPathFactory) -> Lorabel:
    """It says a ticket's team if it is asked for it, else that it is a ticket."""
    examples = [
        (ask(f"{word} {number}", instruction), answer)
        for (word, team), number in itertools.product(TEAMS.items(), range(1, 7))
        for instruction, answer in (("Which team?", team), ("What is it?", "A ticket"))
    ]
    source = taught_generator.write_model(tmp_path_factory.mktemp("taught") / "model", examples)
    return start_lorabel(
        {
            "TRAIN_AFTER_ANNOTATIONS": "1000000",
            "TRAIN_MIN_ANNOTATIONS": "1000000",
            "FAMILIES": "generator",
            "MODEL_GENERATOR": source,
            "GENERATOR_MAX_NEW_TOKENS": "16",
            "PRECISION": "float32",
        }
    )


class Editor:
    """The labeling stream with the switch "Auto-Annotation" on."""

    def __init__(self, browser: Chrome, url: str, project_id: int) -> None:
        self._browser = browser
        self.stream = LabelingStream(browser, url, project_id, "[data-testid=textarea-input]")

    def open(self) -> int:
        self.stream.log_in()
        task_id = self.stream.open()
        if not self._browser.execute_script("return window.Htx.autoAnnotation"):
            self._browser.find_element(By.XPATH, "//*[contains(text(), 'Auto-Annotation')]").click()
        WebDriverWait(self._browser, WAIT_S).until(
            lambda browser: browser.execute_script("return window.Htx.autoAnnotation")
        )
        return task_id

    def type(self, name: str, text: str) -> None:
        """Type into a TextArea and add it with Shift and Enter, as its rows ask for."""
        field = self._browser.execute_script(
            ANNOTATION
            + "return annotation.names.get(arguments[0]).textareaRef.current.resizableTextArea.textArea",
            name,
        )
        field.send_keys(text)
        ActionChains(self._browser).key_down(Keys.SHIFT).send_keys(Keys.ENTER).key_up(Keys.SHIFT).perform()

    def texts(self, name: str) -> list[str]:
        found: list[str] = self._browser.execute_script(
            ANNOTATION + "return annotation.names.get(arguments[0]).regions.map(region => region._value)", name
        )
        return found

    def wait_for(self, name: str, texts: list[str]) -> None:
        try:
            WebDriverWait(self._browser, WAIT_S).until(lambda _: self.texts(name) == texts)
        except Exception as error:
            raise AssertionError(f"{name} has {self.texts(name)}, expected {texts}") from error

    def wait_for_task(self, other_than: int) -> int:
        def shown(browser: Chrome) -> int | None:
            task = browser.execute_script("return window.Htx && window.Htx.task && window.Htx.task.id")
            is_ready = browser.find_elements(By.CSS_SELECTOR, "[data-testid=textarea-input]")
            return int(task) if task and is_ready and int(task) != other_than else None

        found: int | None = WebDriverWait(self._browser, WAIT_S).until(shown)
        assert found is not None
        return found


def connect_project(
    client: LabelStudio, lorabel: Lorabel, label_studio: Server, config: str, tickets: list[str]
) -> LabelStudioId:
    project = {"title": "Prompt box", "label_config": config, "show_collab_predictions": True}
    project_id = LabelStudioId(client.call("POST", "/api/projects/", json=project)["id"])
    tasks: list[dict[str, Any]] = [{"data": {"ticket": ticket}} for ticket in tickets]
    client.call("POST", f"/api/projects/{project_id}/import", json=tasks)
    connection = connect(lorabel.settings, label_studio.url, label_studio.token, project_id)
    assert connection.is_complete, connection.steps
    (backend,) = client.backends(project_id)
    assert backend.is_interactive
    return project_id


def test_what_is_typed_is_answered_at_once_and_kept_after_two_tasks(
    label_studio: Server, lorabel: Lorabel, client: LabelStudio, browser: Chrome, artifacts: Path
) -> None:
    config = f"<View>{HEADER}{TICKET}{BOX}{ANSWER}</View>"
    project_id = connect_project(client, lorabel, label_studio, config, ["leak 7", "smoke 8", "dark 9", "leak 10"])
    editor = Editor(browser, label_studio.url, project_id)
    task_id = editor.open()
    editor.wait_for("answer", ["A ticket"])  # as the label config asks
    editor.type("ask", "Which team?")
    editor.wait_for("answer", ["Pipes"])
    assert editor.texts("ask") == ["Which team?"]
    browser.save_screenshot(str(artifacts / "prompt-box.png"))
    editor.stream.submit()

    next_id = editor.wait_for_task(other_than=task_id)
    editor.wait_for("answer", ["A ticket"])
    editor.type("ask", "Which team?")
    editor.wait_for("answer", ["Fire"])
    editor.stream.submit()

    next_id = editor.wait_for_task(other_than=next_id)
    assert editor.texts("ask") == []
    editor.wait_for("answer", ["Light"])
    browser.save_screenshot(str(artifacts / "prompt-box-kept.png"))


def test_a_prompt_box_alone_has_the_answer_in_itself(
    label_studio: Server, lorabel: Lorabel, client: LabelStudio, browser: Chrome, artifacts: Path
) -> None:
    config = f"<View>{HEADER}{TICKET}{BOX}</View>"
    project_id = connect_project(client, lorabel, label_studio, config, ["smoke 7", "leak 8"])
    editor = Editor(browser, label_studio.url, project_id)
    task_id = editor.open()
    editor.wait_for("ask", ["A ticket"])
    editor.type("ask", "Which team?")
    editor.wait_for("ask", ["Fire"])
    browser.save_screenshot(str(artifacts / "prompt-box-alone.png"))
    editor.stream.submit()
    editor.wait_for_task(other_than=task_id)
    (annotation,) = next(task for task in client.tasks(project_id) if task.task_id == task_id).annotations
    assert [region["value"]["text"] for region in annotation["result"]] == [["Fire"]]
