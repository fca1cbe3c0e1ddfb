"""Starts the fake model server and the fake Label Studio of the tests."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def running() -> Iterator[tuple[str, str]]:
    """The addresses of the model server and of Label Studio, whose project 1 has thousands of open tasks."""
    command = [sys.executable, "-m", "tests.fake_services"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        try:
            yield process.stdout.readline().strip(), process.stdout.readline().strip()
        finally:
            process.stdin.close()
