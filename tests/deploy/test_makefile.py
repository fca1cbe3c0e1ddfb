"""What the Makefile says to people."""

import os
import subprocess
from pathlib import Path

from tests.deploy.compose import ROOT


def test_the_end_of_make_setup_names_the_next_step(tmp_path: Path) -> None:
    """With `true` in place of uv, so that nothing is fetched or installed."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    argv = ["make", "--no-print-directory", "setup", f"VENV={tmp_path}", "UV=true"]
    made = subprocess.run(argv, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    assert made.stdout.splitlines()[-1] == f"installed; next: {tmp_path}/bin/lorabel up"
