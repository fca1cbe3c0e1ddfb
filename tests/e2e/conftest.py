"""The real Label Studio, all of Lorabel and a browser, each started once for all tests."""

import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
from selenium.webdriver import Chrome, ChromeOptions, ChromeService

from lorabel.demo import DETECTOR_FOLDER, SEGMENTER_FOLDER
from lorabel.demo.installation import PRIVATE_ADDRESSES
from lorabel.label_studio.client import LabelStudio
from tests.e2e import label_studio_server, lorabel_processes
from tests.e2e.label_studio_server import Server, kill_group
from tests.e2e.lorabel_processes import Lorabel
from tests.skipped import skip_or_fail

CHROMIUM = "/usr/bin/chromium"
CHROMEDRIVER = "/usr/bin/chromedriver"
BROWSER_OPTIONS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--window-size=1280,900",
)


@pytest.fixture(scope="session")
def start_label_studio(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Callable[..., Server]]:
    """A function that starts one more Label Studio: `start(variables, data=None, port=None)`."""
    servers: list[Server] = []

    def start(variables: Mapping[str, str], data: Path | None = None, port: int | None = None) -> Server:
        folder = data or tmp_path_factory.mktemp("label-studio") / "data"
        servers.append(label_studio_server.start(folder, variables, port))
        return servers[-1]

    yield start
    for server in servers:
        kill_group(server.process)


@pytest.fixture(scope="session")
def label_studio(start_label_studio: Callable[..., Server]) -> Server:
    """The real Label Studio, which lets backends at private addresses in."""
    return start_label_studio(PRIVATE_ADDRESSES)


@pytest.fixture
def client(label_studio: Server) -> Iterator[LabelStudio]:
    with label_studio.client() as client:
        yield client


@pytest.fixture(scope="session")
def start_lorabel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Lorabel]]:
    """A function that starts one more Lorabel: `start(variables)`."""
    running: list[Lorabel] = []

    def start(variables: Mapping[str, str] | None = None) -> Lorabel:
        running.append(lorabel_processes.start(tmp_path_factory.mktemp("lorabel"), variables))
        return running[-1]

    yield start
    for lorabel in running:
        kill_group(lorabel.process)


@pytest.fixture(scope="session")
def lorabel_up(start_lorabel: Callable[..., Lorabel]) -> Lorabel:
    """All of Lorabel, shared by the tests that kill nothing. It never trains, so live versions do not change."""
    return start_lorabel(
        {
            "TRAIN_AFTER_ANNOTATIONS": "1000000",
            "TRAIN_MIN_ANNOTATIONS": "1000000",
            "MODEL_DETECTOR": f"local-dir:{DETECTOR_FOLDER}",
            "DETECTOR_THRESHOLD": "0.4",
            "MODEL_SEGMENTER": f"local-dir:{SEGMENTER_FOLDER}",
        }
    )


@pytest.fixture(scope="session")
def guarded_lorabel(start_lorabel: Callable[..., Lorabel]) -> Lorabel:
    """All of Lorabel, demanding a user and a password."""
    return start_lorabel({"BASIC_AUTH_USER": "label-studio", "BASIC_AUTH_PASS": "pass:word"})


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Chrome]:
    if not Path(CHROMIUM).exists() or not Path(CHROMEDRIVER).exists():
        skip_or_fail(f"{CHROMIUM} and {CHROMEDRIVER} are missing: apt-get install chromium chromium-driver")
    options = ChromeOptions()
    options.binary_location = CHROMIUM
    for option in (*BROWSER_OPTIONS, f"--user-data-dir={tmp_path / 'profile'}"):
        options.add_argument(option)
    chrome = Chrome(options=options, service=ChromeService(CHROMEDRIVER))
    yield chrome
    chrome.quit()
    shutil.rmtree(tmp_path / "profile", ignore_errors=True)


@pytest.fixture(scope="session")
def artifacts(pytestconfig: pytest.Config) -> Path:
    """Where screenshots go; git ignores it, CI keeps it."""
    folder = pytestconfig.rootpath / "artifacts"
    folder.mkdir(exist_ok=True)
    return folder
