import os
import subprocess
import sys
from pathlib import Path

import pytest

from lorabel.demo.installation import LABEL_STUDIO_VERSION, PRIVATE_ADDRESSES, Installation
from lorabel.errors import SettingsError


def test_label_studio_gets_none_of_our_environment_variables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOST", "0.0.0.0")
    program = tmp_path / "environment" / "bin" / "label-studio"
    program.parent.mkdir(parents=True)
    program.write_text("#!/bin/sh\n/usr/bin/env\n")
    program.chmod(0o755)
    command = Installation.under(tmp_path).command(8080, PRIVATE_ADDRESSES)
    printed_variables = subprocess.run(
        command, capture_output=True, text=True, check=True, env=dict(os.environ)
    ).stdout
    assert "HOST=" not in printed_variables
    assert "SSRF_PROTECTION_ENABLED=false" in printed_variables
    assert f"LABEL_STUDIO_BASE_DATA_DIR={tmp_path / 'data'}" in printed_variables


def test_label_studio_is_installed_once(tmp_path: Path) -> None:
    installation = Installation.under(tmp_path)
    (tmp_path / "environment").mkdir()
    (tmp_path / "environment" / f"label-studio-{LABEL_STUDIO_VERSION}").touch()
    reports: list[str] = []
    installation.install(reports.append)
    assert reports == []


def test_a_failed_installation_shows_the_end_of_its_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = tmp_path / "bin" / "uv"
    tool.parent.mkdir()
    tool.write_text("#!/bin/sh\necho no such package\nexit 3\n")
    tool.chmod(0o755)
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    installation = Installation.under(tmp_path / "label-studio")
    with pytest.raises(SettingsError, match=r"ended with 3(.|\n)*no such package"):
        installation.install(lambda _: None)
