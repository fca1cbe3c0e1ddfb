"""A team lead connects projects of the real Label Studio from the page, in Chromium."""

from collections.abc import Callable
from pathlib import Path

import pytest
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

from lorabel.demo.installation import PRIVATE_ADDRESSES
from lorabel.demo.project import TITLE, create_project
from lorabel.label_studio.project_list import list_projects
from tests.e2e.label_studio_server import Server
from tests.e2e.lorabel_processes import Lorabel
from tests.e2e.test_browser import LabelingStream
from tests.e2e.test_pages_in_browser import look_like, serious_faults, text_of

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.long]

WAIT_S = 120
PICTURES = 3
TRIED = """<View>
  <Text name="text" value="$text"/>
  <Labels name="what" toName="text"><Label value="Person"/><Label value="Place"/></Labels>
  <Choices name="mood" toName="text"><Choice value="good"/><Choice value="bad"/></Choices>
  <TextArea name="summary" toName="text" hint="Sum it up"/>
  <DateTime name="day" toName="text"/>
</View>"""
UNSERVED = '<View><Text name="text" value="$text"/><DateTime name="day" toName="text"/></View>'


def take_picture(browser: Chrome, path: Path) -> list[str]:
    """Take a picture of all of the page, light and as wide as a desktop. Returns its serious faults."""
    look_like(browser, "light", "desktop")
    height = browser.execute_script("return document.documentElement.scrollHeight")
    look_like(browser, "light", "desktop", height)
    browser.save_screenshot(str(path))
    return serious_faults(browser)


def fill_in(browser: Chrome, url: str, token: str) -> None:
    """Send an address and a token, by keyboard."""
    for name, text in (("url", url), ("token", token)):
        field = browser.find_element(By.NAME, name)
        field.clear()
        field.send_keys(text)
    browser.find_element(By.NAME, "token").send_keys(Keys.ENTER)


def try_label_config(browser: Chrome, url: str) -> None:
    """See what would be served of a label config."""
    browser.get(url)
    browser.find_element(By.LINK_TEXT, "Try a label config").click()
    wait = WebDriverWait(browser, WAIT_S)
    editor = wait.until(lambda browser: browser.find_element(By.NAME, "label_config"))
    editor.clear()
    editor.send_keys(TRIED)
    browser.find_element(By.XPATH, "//button[text()='See what is served']").send_keys(Keys.ENTER)
    wait.until(lambda browser: "named entities" in text_of(browser, "tbody"))
    assert "left to people" in text_of(browser, "tbody")


@pytest.mark.timeout(600)
def test_a_lead_connects_a_project_and_its_tasks_are_predicted(
    start_label_studio: Callable[..., Server],
    start_lorabel: Callable[..., Lorabel],
    browser: Chrome,
    artifacts: Path,
) -> None:
    label_studio, lorabel = start_label_studio(PRIVATE_ADDRESSES), start_lorabel()
    with label_studio.client() as client:
        project_id = create_project(client, PICTURES)
        unserved = {"title": "Days", "label_config": UNSERVED}
        unserved_id = client.call("POST", "/api/projects/", json=unserved)["id"]
        assert [(row.id, row.tasks) for row in list_projects(client, 1, 25).projects] == [
            (unserved_id, 0),
            (project_id, PICTURES),
        ]
        assert [row.id for row in list_projects(client, 1, 25, "grade").projects] == [project_id]
    wait = WebDriverWait(browser, WAIT_S)
    faults = []

    browser.get(f"{lorabel.url}/ui/")
    browser.find_element(By.LINK_TEXT, "Connect projects").click()
    fill_in(browser, label_studio.url, label_studio.token[:-4])
    wait.until(lambda browser: text_of(browser, "[role=alert]"))
    assert "refuses the personal access token" in text_of(browser, "[role=alert]")
    assert "make a new one in Label Studio" in text_of(browser, "[role=alert]")
    faults += take_picture(browser, artifacts / "connect-wrong-token.png")

    fill_in(browser, f"{label_studio.url}/projects/{project_id}/data", label_studio.token)
    wait.until(lambda browser: "Choose projects" in text_of(browser, "h1"))
    boxes = browser.find_elements(By.NAME, "project")
    assert [(box.get_attribute("value"), box.is_selected()) for box in boxes] == [
        (str(unserved_id), False),
        (str(project_id), True),
    ]
    assert "grade image classification" in " ".join(text_of(browser, "tbody").split())
    faults += take_picture(browser, artifacts / "connect-choose.png")
    boxes[0].click()
    browser.find_element(By.XPATH, "//button[text()='Connect']").send_keys(Keys.ENTER)

    wait.until(lambda browser: "What the doctor finds" in text_of(browser, ".live"))
    wait.until(lambda browser: browser.find_elements(By.LINK_TEXT, "All projects"))
    found = " ".join(text_of(browser, ".live").split())
    assert f"{TITLE} connected ok Label Studio 1.23.2" in found
    assert "was predicted as" in found
    assert "Days not connected" in found
    assert "left to people: day" in found
    assert "What the doctor finds all in order" in found, found
    faults += take_picture(browser, artifacts / "connect-found.png")

    try_label_config(browser, f"{lorabel.url}/ui/connect")
    faults += take_picture(browser, artifacts / "label-config.png")
    assert faults == []

    stream = LabelingStream(browser, label_studio.url, project_id)
    stream.log_in()
    stream.open()
    assert len(stream.wait_for_choice()) == 1
    stream.take_picture(artifacts / "connect-label-studio.png")
    browser.get(f"{lorabel.url}/ui/")
    assert TITLE in text_of(browser, "tbody")
    assert "Days" not in text_of(browser, "tbody")
