"""The entry point of `lorabel`, run in this process: to import what the commands need takes seconds."""

import logging
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import pytest

from lorabel import logs
from lorabel.commands.cli import main
from lorabel.settings import Settings


@dataclass(frozen=True)
class CommandResult:
    exit_status: int
    output: str
    errors: str


class RunLorabel(Protocol):
    def __call__(self, *arguments: str, **variables: str) -> CommandResult:
        """Run `lorabel ARGUMENTS`; `variables` are added to the environment."""


def environment(settings: Settings) -> dict[str, str]:
    """The environment of a command: the test's database, no Redis, no model server."""
    return {
        "DATA_DIR": str(settings.data_dir),
        "DATABASE_URL": settings.database,
        "REDIS_URL": f"unix://{settings.data_dir}/none.sock",
        "MODEL_SERVER_URL": "http://127.0.0.1:9",
        "COLUMNS": "200",
    }


@pytest.fixture
def lorabel(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[RunLorabel]:
    levels = {name: logging.getLogger(name).level for name in logs.OURS}
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)  # Typer sets its own.

    def run(*arguments: str, **variables: str) -> CommandResult:
        capsys.readouterr()
        with monkeypatch.context() as patch:
            patch.setattr(sys, "argv", ["lorabel", *arguments])
            for name, value in {**environment(settings), **variables}.items():
                patch.setenv(name, value)
            with pytest.raises(SystemExit) as ended:
                main()
        printed = capsys.readouterr()
        exit_status = ended.value.code or 0
        assert isinstance(exit_status, int)
        return CommandResult(exit_status, printed.out, printed.err)

    yield run
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)
