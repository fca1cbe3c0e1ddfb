"""A team lead opens every page in Chromium: light and dark, on a desktop and a phone, and uses the buttons."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import axe_core_python
import pytest
from selenium.webdriver import Chrome, ChromeOptions, ChromeService
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

from lorabel.database import rules, training_runs
from lorabel.database.store import Store
from lorabel.database.tables import Acceptance, Project, RunState, TrainingRun
from lorabel.settings import Settings
from tests.backend import page_history, page_projects
from tests.backend.fake_model_server import FakeModelServer
from tests.backend.page_list import MISSING, PAGES
from tests.backend.test_gunicorn import gunicorn
from tests.e2e.conftest import BROWSER_OPTIONS, CHROMEDRIVER, CHROMIUM
from tests.skipped import skip_or_fail

pytestmark = pytest.mark.e2e

WAIT_S = 30
# axe-core computes for long where many programs share the cores.
SCRIPT_TIMEOUT_S = 300
DEVICES = {"desktop": (1280, 900), "phone": (390, 844)}
AXE = Path(axe_core_python.__file__).parent / "axe.min.js"
RUN_AXE = """
const done = arguments[arguments.length - 1];
const fail = (error) => done([{impact: "critical", id: String(error)}]);
axe.run(document).then((found) => done(found.violations), fail);
"""
SERIOUS = ("serious", "critical")
WIDE_PARTS = """
const width = document.documentElement.clientWidth;
const page = document.documentElement.scrollWidth;
if (page <= width) return [];
const wide = [...document.querySelectorAll("main *")].filter(
  (part) => part.getBoundingClientRect().right > width + 1 && !part.closest(".wide, .project-nav, textarea, pre"));
return [`it is ${page} px wide`, ...wide.slice(0, 3).map((part) => part.outerHTML.slice(0, 120))];
"""
ALL_LOADED = """
const isInSight = (picture) => picture.getBoundingClientRect().top < window.innerHeight;
return [...document.images].every((picture) => picture.complete || !isInSight(picture));
"""


@pytest.fixture
def address(settings: Settings, store: Store, model_server: FakeModelServer) -> Iterator[str]:
    """The address of a backend with the history, as it is deployed."""
    page_history.write(store)
    page_history.write_reviews(store)
    page_history.write_rules(store)
    settings = settings.model_copy(update={"model_server_url": model_server.url})
    with gunicorn(settings) as client:
        yield str(client.base_url).rstrip("/")


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[Chrome]:
    """A browser that logs every request."""
    if not Path(CHROMIUM).exists() or not Path(CHROMEDRIVER).exists():
        skip_or_fail(f"{CHROMIUM} and {CHROMEDRIVER} are missing: apt-get install chromium chromium-driver")
    options = ChromeOptions()
    options.binary_location = CHROMIUM
    for option in (*BROWSER_OPTIONS, "--hide-scrollbars", f"--user-data-dir={tmp_path / 'profile'}"):
        options.add_argument(option)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    chrome = Chrome(options=options, service=ChromeService(CHROMEDRIVER))
    chrome.set_script_timeout(SCRIPT_TIMEOUT_S)
    yield chrome
    chrome.quit()
    shutil.rmtree(tmp_path / "profile", ignore_errors=True)


def requested_hosts(browser: Chrome) -> set[str]:
    """Where the browser's pages have sent requests to since the last call."""
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    urls = [
        event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"
    ]
    return {urlsplit(url).netloc for url in urls if urlsplit(url).scheme in ("http", "https", "ws")}


def text_of(browser: Chrome, selector: str) -> str:
    """The text of an element; empty while the page is not there."""
    return str(browser.execute_script("return document.querySelector(arguments[0])?.innerText ?? ''", selector))


def look_like(browser: Chrome, scheme: str, device: str, height: int | None = None) -> None:
    width, screen_height = DEVICES[device]
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    metrics = {
        "width": width,
        "height": height or screen_height,
        "deviceScaleFactor": 1,
        "mobile": device == "phone",
    }
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)


def wide_parts(browser: Chrome) -> list[str]:
    """What makes the page wider than the screen, or its text overlap: nothing but tables may scroll sideways."""
    found: list[str] = browser.execute_script(WIDE_PARTS)
    return found


def wait_for_pictures(browser: Chrome) -> None:
    """Wait until the pictures that are in sight are there."""
    WebDriverWait(browser, WAIT_S).until(lambda browser: browser.execute_script(ALL_LOADED))


def serious_faults(browser: Chrome) -> list[str]:
    """What axe-core finds that keeps people from using the page."""
    browser.execute_script(AXE.read_text())
    found: list[dict[str, Any]] = browser.execute_async_script(RUN_AXE)
    return [
        f"{fault['id']}: {node['html'][:120]}"
        for fault in found
        if fault["impact"] in SERIOUS
        for node in fault.get("nodes", [{"html": ""}])
    ]


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_page_is_readable_light_and_dark_on_a_desktop_and_a_phone(
    address: str, watched: Chrome, store: Store, artifacts: Path, scheme: str, device: str
) -> None:
    page_projects.write(store)
    watched.get(f"{address}/ui/")
    requested_hosts(watched)  # what the browser itself asks for at its start
    faults = []
    for name, path in PAGES.items():
        look_like(watched, scheme, device)
        watched.get(address + path)
        height = watched.execute_script("return document.documentElement.scrollHeight")
        if path not in MISSING:
            faults += [f"{name} has no <main>"] * (text_of(watched, "main") == "")
        look_like(watched, scheme, device, height)
        faults += [f"{name}: {fault}" for fault in (*wide_parts(watched), *serious_faults(watched))]
        wait_for_pictures(watched)
        watched.save_screenshot(str(artifacts / f"page-{name}-{scheme}-{device}.png"))
    assert faults == []
    assert requested_hosts(watched) == {urlsplit(address).netloc}
    # The pages that do not exist are the only errors that the browser reports.
    said = [entry["message"] for entry in watched.get_log("browser")]
    assert [message for message in said if not any(f"{address}{path} " in message for path in MISSING)] == []


@pytest.mark.slow
@pytest.mark.long
def test_without_projects_the_pages_say_what_to_do(
    settings: Settings, model_server: FakeModelServer, watched: Chrome, artifacts: Path
) -> None:
    with gunicorn(settings.model_copy(update={"model_server_url": model_server.url})) as client:
        for name, path in (("home", "/ui/"), ("runs", "/ui/runs")):
            watched.get(str(client.base_url).rstrip("/") + path)
            assert serious_faults(watched) == []
            watched.save_screenshot(str(artifacts / f"page-empty-{name}.png"))
        watched.get(str(client.base_url).rstrip("/") + "/ui/")
        watched.find_element(By.LINK_TEXT, "Connect projects").send_keys(Keys.ENTER)
        WebDriverWait(watched, WAIT_S).until(lambda browser: "Connect projects of" in text_of(browser, "h1"))


@pytest.mark.slow
@pytest.mark.long
def test_a_lead_follows_a_run_cancels_it_and_rolls_back_by_keyboard(
    address: str, watched: Chrome, store: Store
) -> None:
    wait = WebDriverWait(watched, WAIT_S)
    watched.get(f"{address}/ui/")
    watched.find_element(By.LINK_TEXT, "Project 1").click()
    wait.until(lambda browser: "Project 1" in browser.title)
    watched.find_element(By.LINK_TEXT, "Runs").click()
    wait.until(lambda browser: "18 of 60 steps" in text_of(browser, ".live"))
    with store.read() as session:
        run = session.get_one(TrainingRun, 5)
    training_runs.report(store, run, step=40, loss=0.125, seconds_left=12.0)
    wait.until(lambda browser: "40 of 60 steps" in text_of(browser, ".live"))
    assert "loss 0.125" in watched.find_element(By.CLASS_NAME, "live").text

    watched.find_element(By.LINK_TEXT, "Cancel…").send_keys(Keys.ENTER)
    wait.until(lambda browser: "Cancel Training 5?" in text_of(browser, "h1"))
    watched.find_element(By.CSS_SELECTOR, "main button").send_keys(Keys.ENTER)
    wait.until(lambda browser: "cancelled" in text_of(browser, "h1"))

    watched.get(f"{address}/ui/projects/1")
    watched.find_element(By.LINK_TEXT, "Roll back…").send_keys(Keys.ENTER)
    wait.until(lambda browser: "Roll back to p1.v1?" in text_of(browser, "h1"))
    watched.find_element(By.CSS_SELECTOR, "main button").send_keys(Keys.ENTER)
    wait.until(lambda browser: "p1.v1" in text_of(browser, ".tiles"))
    with store.read() as session:
        assert session.get_one(Project, 1).live_number == 1
        assert session.get_one(TrainingRun, 5).state == RunState.CANCELLED


@pytest.mark.slow
@pytest.mark.long
def test_a_lead_looks_at_tasks_and_undoes_an_acceptance(address: str, watched: Chrome, store: Store) -> None:
    wait = WebDriverWait(watched, WAIT_S)
    watched.get(f"{address}/ui/projects/1")
    watched.find_element(By.LINK_TEXT, "Tasks").send_keys(Keys.ENTER)
    wait.until(lambda browser: "Tasks" in text_of(browser, "h1"))
    watched.find_element(By.LINK_TEXT, "Model was corrected").send_keys(Keys.ENTER)
    wait.until(lambda browser: "task 1054" in text_of(browser, "tbody tr"))
    # It is the task's picture, and not the one that stands for a missing one, which has another size.
    shown = "const picture = document.querySelector('td img'); return picture.complete ? picture.naturalWidth : 0"
    wait.until(lambda browser: browser.execute_script(shown) == page_history.PICTURE_SIZE[0])
    watched.find_element(By.LINK_TEXT, "Probable label errors").send_keys(Keys.ENTER)
    wait.until(lambda browser: "tasks like this one are" in text_of(browser, "tbody"))
    watched.find_element(By.XPATH, "//button[text()='Look for label errors now']").send_keys(Keys.ENTER)
    wait.until(lambda browser: "Label errors 2" in text_of(browser, "h1"))

    watched.get(f"{address}/ui/projects/1/accept")
    watched.find_element(By.LINK_TEXT, "Undo…").send_keys(Keys.ENTER)
    wait.until(lambda browser: "Undo acceptance 1?" in text_of(browser, "h1"))
    watched.find_element(By.CSS_SELECTOR, "main button").send_keys(Keys.ENTER)
    wait.until(lambda browser: "Undoing an acceptance 3" in text_of(browser, "h1"))
    with store.read() as session:
        assert session.get_one(Acceptance, 1).undo_run_id == 3


@pytest.mark.slow
@pytest.mark.long
def test_a_lead_mends_rules_at_the_line_that_is_wrong(
    address: str, watched: Chrome, store: Store, artifacts: Path
) -> None:
    wait = WebDriverWait(watched, WAIT_S)
    watched.get(f"{address}/ui/projects/1")
    watched.find_element(By.LINK_TEXT, "Rules").send_keys(Keys.ENTER)
    wait.until(lambda browser: "The project has no rules." in text_of(browser, "main"))
    watched.find_element(By.ID, "file").send_keys('[[needs]]\nname = "n"\nlabel = "circle"\nneeds = "sky"\n')
    watched.find_element(By.XPATH, "//button[text()='Save']").send_keys(Keys.ENTER)
    wait.until(lambda browser: "has no label 'sky'" in text_of(browser, "[role=alert]"))
    watched.save_screenshot(str(artifacts / "rules-fault.png"))
    assert serious_faults(watched) == []
    watched.find_element(By.CSS_SELECTOR, "[data-line]").send_keys(Keys.ENTER)
    selected = "const e = document.activeElement; return e.value.slice(e.selectionStart, e.selectionEnd)"
    assert watched.execute_script(selected) == 'name = "n"'
    editor = watched.find_element(By.ID, "file")
    editor.clear()
    editor.send_keys('[[exclusive]]\nname = "one shape"\nlabels = ["circle", "star"]\n')
    watched.find_element(By.XPATH, "//button[text()='Save']").send_keys(Keys.ENTER)
    wait.until(lambda browser: "one shape" in text_of(browser, "tbody"))
    watched.find_element(By.XPATH, "//button[text()='Take it back']").send_keys(Keys.ENTER)
    wait.until(lambda browser: "The project has no rules." in text_of(browser, "main"))
    with store.read() as session:
        assert rules.file_of(session.get_one(Project, 1)) is None
