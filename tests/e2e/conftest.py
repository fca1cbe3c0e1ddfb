"""The real Label Studio, all of Lorabel and a browser.

What is shared is started once for all tests. What a file starts ends with the file: a Lorabel takes a gigabyte.
"""

import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
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


@pytest.fixture(scope="module")
def start_label_studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Server]]:
    """A function that starts one more Label Studio for a file: `start(variables, data=None, port=None)`."""
    with _label_studios(tmp_path_factory) as start:
        yield start


@pytest.fixture(scope="session")
def label_studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The real Label Studio, which lets backends at private addresses in."""
    with _label_studios(tmp_path_factory) as start:
        yield start(PRIVATE_ADDRESSES)


@pytest.fixture
def client(label_studio: Server) -> Iterator[LabelStudio]:
    with label_studio.client() as client:
        yield client


@pytest.fixture(scope="module")
def start_lorabel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Lorabel]]:
    """A function that starts one more Lorabel for a file: `start(variables)`."""
    with _lorabels(tmp_path_factory) as start:
        yield start


@pytest.fixture(scope="session")
def lorabel_up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lorabel]:
    """All of Lorabel, shared by the tests that kill nothing. It never trains, so live versions do not change."""
    with _lorabels(tmp_path_factory) as start:
        yield start(
            {
                "TRAIN_AFTER_ANNOTATIONS": "1000000",
                "TRAIN_MIN_ANNOTATIONS": "1000000",
                "MODEL_DETECTOR": f"local-dir:{DETECTOR_FOLDER}",
                "DETECTOR_THRESHOLD": "0.4",
                "MODEL_SEGMENTER": f"local-dir:{SEGMENTER_FOLDER}",
            }
        )


@pytest.fixture(scope="session")
def guarded_lorabel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lorabel]:
    """All of Lorabel, demanding a user and a password."""
    with _lorabels(tmp_path_factory) as start:
        yield start({"BASIC_AUTH_USER": "label-studio", "BASIC_AUTH_PASS": "pass:word"})


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


@contextmanager
def _label_studios(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Server]]:
    servers: list[Server] = []

    def start(variables: Mapping[str, str], data: Path | None = None, port: int | None = None) -> Server:
        folder = data or tmp_path_factory.mktemp("label-studio") / "data"
        servers.append(label_studio_server.start(folder, variables, port))
        return servers[-1]

    try:
        yield start
    finally:
        for server in servers:
            kill_group(server.process)


@contextmanager
def _lorabels(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Lorabel]]:
    running: list[Lorabel] = []

    def start(variables: Mapping[str, str] | None = None) -> Lorabel:
        running.append(lorabel_processes.start(tmp_path_factory.mktemp("lorabel"), variables))
        return running[-1]

    try:
        yield start
    finally:
        for lorabel in running:
            kill_group(lorabel.process)
