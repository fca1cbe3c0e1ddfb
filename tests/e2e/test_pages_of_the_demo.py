"""The pages of a demo with nine days of work, with the real Label Studio and models: the pictures of the docs.

The pictures go to `artifacts/`; those in `docs/pictures` are copies of them.
"""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

from lorabel.commands.connect import connect
from lorabel.database.store import Store
from lorabel.demo import DETECTOR_FOLDER
from lorabel.demo.installation import PRIVATE_ADDRESSES
from lorabel.label_studio.client import LabelStudio
from tests.e2e import pages_demo, pages_demo_boxes
from tests.e2e.label_studio_server import Server
from tests.e2e.lorabel_processes import Lorabel
from tests.e2e.pages_demo import Demo
from tests.e2e.test_pages_in_browser import look_like, serious_faults, text_of, wait_for_pictures

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.long]

WAIT_S = 300
NEVER = str(10**6)
# As far as a picture in the docs goes down a page, in pixels.
SCREEN_PX, MOST_PX = 900, 1290


def take_picture(browser: Chrome, path: Path, most_px: int = MOST_PX) -> list[str]:
    """Take a picture of a page, light and as wide as a desktop, from its top. Returns its serious faults."""
    look_like(browser, "light", "desktop")
    height = browser.execute_script("return document.documentElement.scrollHeight")
    look_like(browser, "light", "desktop", min(height, most_px))
    wait_for_pictures(browser)
    browser.save_screenshot(str(path))
    return serious_faults(browser)


def tasks_shown(browser: Chrome, selector: str) -> list[int]:
    """The ids of the tasks that a list of the page links to."""
    return [int(number) for number in re.findall(r"task (\d+)", text_of(browser, selector))]


@pytest.mark.timeout(1200)
def test_the_pages_of_a_demo_with_real_models(
    start_label_studio: Callable[..., Server],
    start_lorabel: Callable[..., Lorabel],
    browser: Chrome,
    artifacts: Path,
) -> None:
    label_studio = start_label_studio(PRIVATE_ADDRESSES)
    lorabel = start_lorabel(
        {
            "TRAIN_AFTER_ANNOTATIONS": NEVER,
            "TRAIN_MIN_ANNOTATIONS": NEVER,
            "MODEL_DETECTOR": f"local-dir:{DETECTOR_FOLDER}",
            "DETECTOR_THRESHOLD": "0.4",
        }
    )
    with label_studio.client() as client:
        demo = write_demo(label_studio, lorabel, client)
    shapes = dict(zip([task.task_id for task in demo.tasks], demo.pictures, strict=True))
    project, boxes = (
        f"{lorabel.url}/ui/projects/{demo.project_id}",
        f"{lorabel.url}/ui/projects/{demo.project_id + 1}",
    )
    wait = WebDriverWait(browser, WAIT_S)
    faults = []

    def picture(name: str, most_px: int = MOST_PX) -> None:
        faults.extend(
            f"{name}: {fault}" for fault in take_picture(browser, artifacts / f"{name}-page.png", most_px)
        )

    # A run finds vectors of all tasks, and another predicts the open ones.
    browser.get(f"{project}/tasks")
    browser.find_element(By.XPATH, "//button[text()='Index all tasks now']").send_keys(Keys.ENTER)
    wait.until(lambda browser: "Indexing for search" in text_of(browser, "h1"))
    wait.until(lambda browser: (browser.refresh(), "finished" in text_of(browser, "h1"))[1])
    assert f"{len(demo.tasks)}" in text_of(browser, ".tiles")

    browser.get(f"{project}/tasks?q=a+red+star")
    found = [shapes[task_id] for task_id in tasks_shown(browser, "tbody")[:6]]
    assert sum(each.shape == "star" for each in found) >= 4, found
    picture("search", SCREEN_PX)

    browser.get(f"{lorabel.url}/ui/")
    wait.until(lambda browser: (browser.refresh(), pages_demo.TITLE in text_of(browser, "tbody"))[1])
    wait.until(lambda browser: (browser.refresh(), "is being checked" not in text_of(browser, ".tiles"))[1])
    picture("home")
    for name, path in (
        ("project", ""),
        ("version", f"/versions/v{len(pages_demo.VERSIONS)}"),
        ("runs", "/runs"),
        ("run", "/training/8"),
        ("tasks", "/tasks?show=model"),
        ("label-errors", "/tasks?show=errors"),
        ("accept", "/accept"),
        ("rules", "/rules"),
        ("forget", f"/forget?kind=task&id={demo.tasks[3].task_id}"),
    ):
        browser.get(project + path)
        picture(name)
    browser.get(f"{boxes}/versions/v{len(pages_demo_boxes.VERSIONS)}/compare?show=better")
    assert "For better" in text_of(browser, ".tabs")
    assert browser.find_elements(By.CSS_SELECTOR, ".drawn svg rect")
    picture("compare")

    star = next(task_id for task_id, each in shapes.items() if (each.shape, each.fill) == ("star", "solid"))
    browser.get(f"{project}/tasks/{star}")
    assert "star" in text_of(browser, "h2")
    assert browser.find_elements(By.CSS_SELECTOR, ".heat svg .for")
    alike = [shapes[task_id] for task_id in tasks_shown(browser, ".near")]
    colour = shapes[star].colour
    kin = [each for each in alike if each.shape == "star" or each.colour == colour]  # by chance a third or less
    assert len(alike) >= 3 and len(kin) > 2 / 3 * len(alike), alike
    picture("explanation")
    assert faults == []


def write_demo(label_studio: Server, lorabel: Lorabel, client: LabelStudio) -> Demo:
    """Create two projects in Label Studio, connect them, and write what happened in them."""
    ids = [pages_demo.create_project(client), pages_demo_boxes.create_project(client)]
    store = Store.open(lorabel.settings)
    own_ids = []
    for label_studio_id in ids:
        connection = connect(
            lorabel.settings, label_studio.url, label_studio.token, label_studio_id, backend_url=lorabel.url
        )
        assert connection.is_complete, connection.steps
        own_ids.append(connection.project_id or 0)
    tasks = [list(client.tasks(label_studio_id)) for label_studio_id in ids]
    demo = Demo(own_ids[0], tasks[0], pages_demo.pictures())
    pages_demo.write(store, demo)
    pages_demo_boxes.write(store, own_ids[1], tasks[1])
    store.close()
    return demo
