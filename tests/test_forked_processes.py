"""Tests in forked processes: each runs once, and a process that dies fails what it did not run."""

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
# Each test writes down the number of its process and the number of the fixture's starts.
FILES = {
    "conftest.py": """
import os
import pytest

@pytest.fixture(scope="session")
def started():
    open("started", "a").write("x")
    yield
    open("ended", "a").write("x")
""",
    "test_first.py": """
def test_one(started): pass
def test_two(started): pass
""",
    "test_second.py": """
import pytest

@pytest.mark.parametrize("number", range(20))
def test_many(number, started):
    print("printed by", number)
    assert number != 7
""",
    "test_third.py": "def test_skipped():\n    __import__('pytest').skip('not here')\n",
}


def run(folder: Path, *options: str, **files: str) -> tuple[int, str]:
    for name, text in {**FILES, **files}.items():
        (folder / name).write_text(text)
    argv = [sys.executable, "-m", "pytest", "-p", "tests.forked_processes", "-p", "no:cacheprovider", *options]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    ended = subprocess.run(argv, cwd=folder, env=environment, capture_output=True, text=True, timeout=60)
    return ended.returncode, ended.stdout


def test_every_test_is_reported_once_and_fixtures_of_the_session_are_used_once_per_process(tmp_path: Path) -> None:
    status, output = run(tmp_path, "-v", "--processes", "2")
    assert status == 1
    assert "1 failed, 21 passed, 1 skipped" in output
    names = re.findall(r"^test_\w+\.py::(\S+) (?:PASSED|FAILED|SKIPPED)", output, re.MULTILINE)
    assert len(names) == len(set(names)) == 23
    assert re.findall(r"printed by \d+", output) == ["printed by 7"]
    starts, ends = (len((tmp_path / name).read_text()) for name in ("started", "ended"))
    assert 1 <= starts == ends <= 2


def test_what_a_dead_process_did_not_run_has_failed(tmp_path: Path) -> None:
    dead = {"test_second.py": "import os\ndef test_it(): os._exit(3)\ndef test_later(): pass\n"}
    status, output = run(tmp_path, "--processes", "3", **dead)
    assert status == 1
    assert "2 failed, 2 passed, 1 skipped" in output
    assert "a process ended with status 3 in test_second.py::test_it" in output


def test_the_first_failure_ends_all_processes(tmp_path: Path) -> None:
    status, output = run(tmp_path, "--processes", "2", "-x")
    assert status != 0
    assert "1 failed" in output
    assert (tmp_path / "started").read_text() == (tmp_path / "ended").read_text()
