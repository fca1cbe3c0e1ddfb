"""`lorabel demo --headless`: from nothing to a model that has learned, with the real Label Studio."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.e2e import label_studio_server
from tests.e2e.label_studio_server import free_port
from tests.e2e.lorabel_processes import PROGRAM, bare_environment

pytestmark = pytest.mark.e2e

TIMEOUT_S = 290


@pytest.mark.timeout(TIMEOUT_S + 60)
def test_the_headless_demo_improves_and_ends_every_process(tmp_path: Path) -> None:
    installation = label_studio_server.install()
    folder = tmp_path / "label-studio"
    folder.mkdir()
    (folder / "environment").symlink_to(installation.folder / "environment")
    shutil.copytree(installation.data, folder / "data")
    (folder / "account.json").write_text(
        f'{{"email": "{label_studio_server.EMAIL}", "password": "{label_studio_server.PASSWORD}"}}'
    )
    variables = {
        "DATA_DIR": str(tmp_path),
        "PORT": str(free_port()),
        "LABEL_STUDIO_PORT": str(free_port()),
        "MODEL_SERVER_URL": f"http://127.0.0.1:{free_port()}",
        "DEVICE": "cpu",
    }
    ended = subprocess.run(
        [str(PROGRAM), "demo", "--headless"],
        env={**bare_environment(), **variables},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    shares = [float(share) for share in re.findall(r"(\d\.\d\d) \(\d+ of \d+\)", ended.stdout)]
    assert shares[0] <= 0.6
    assert shares[-1] >= 0.9
    assert _processes_of(tmp_path) == []


def _processes_of(folder: Path) -> list[str]:
    """Command lines that name the folder, or run in it."""
    listed = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True)
    return [line for line in listed.stdout.splitlines() if str(folder) in line]
