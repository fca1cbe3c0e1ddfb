"""`lorabel demo --headless` with the real Label Studio: the model must learn, and all processes must end."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.e2e import label_studio_server
from tests.e2e.label_studio_server import kill_group
from tests.e2e.lorabel_processes import PROGRAM, bare_environment
from tests.servers import free_port

pytestmark = [pytest.mark.e2e, pytest.mark.long]

TIMEOUT_S = 1200
"""Two idle cores need less than 300 s; the rest is for busy machines."""


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
    log = tmp_path / "demo.log"
    variables = {
        "DATA_DIR": str(tmp_path),
        "PORT": str(free_port()),
        "LABEL_STUDIO_PORT": str(free_port()),
        "MODEL_SERVER_URL": f"http://127.0.0.1:{free_port()}",
        "DEVICE": "cpu",
    }
    with log.open("wb") as out:
        demo = subprocess.Popen(
            [str(PROGRAM), "demo", "--headless"],
            env={**bare_environment(), **variables},
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,
        )
    try:
        status = demo.wait(timeout=TIMEOUT_S)
    finally:
        kill_group(demo)
    output = log.read_text()
    assert status == 0, output
    shares = [float(share) for share in re.findall(r"(\d\.\d\d) \(\d+ of \d+\)", output)]
    assert shares[0] <= 0.6
    assert shares[-1] >= 0.9
    pattern = r"F1 of the boxes of Grade A (\d\.\d\d), of the labels that words say (\d\.\d\d)"
    found = re.findall(pattern, " ".join(output.split()))  # lines are wrapped
    (first_grade, first), *_, (last_grade, last) = ((float(grade), float(others)) for grade, others in found)
    assert last_grade >= first_grade + 0.3, "a label that words cannot say was not learned"
    assert last >= first - 0.05, "labels that words say were forgotten"
    assert float(re.findall(r"mean IoU (\d\.\d\d)", output)[-1]) >= 0.7
    assert _processes_of(tmp_path) == []


def _processes_of(folder: Path) -> list[str]:
    """Command lines of the processes whose environment or arguments name the folder."""
    commands = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command, environment = ((process / name).read_bytes() for name in ("cmdline", "environ"))
        except OSError:
            continue  # the process has ended, or belongs to another user
        if str(folder).encode() in command + environment:
            commands.append(command.replace(b"\0", b" ").decode(errors="replace"))
    return commands
