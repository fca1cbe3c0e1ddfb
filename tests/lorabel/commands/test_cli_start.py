"""The command line starts at once: it imports nothing that takes long until a command needs it."""

import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

import lorabel.commands
from lorabel.commands.cli import app

# Typer itself and the small packages that it imports. Together they take about 0.1 s of CPU.
MAY_BE_IMPORTED_AT_START = {"annotated_doc", "lorabel", "shellingham", "typer"}
COMMANDS = [command.name or command.callback.__name__ for command in app.registered_commands if command.callback]

# Runs the entry point with each list of arguments in sys.argv[1]. Prints the packages that are imported by then.
RUN_AND_LIST_PACKAGES = """
import contextlib, io, json, sys
present_at_start = set(sys.modules)
from lorabel.commands.cli import main
packages = {}
for arguments in json.loads(sys.argv[1]):
    sys.argv = ["lorabel", *arguments]
    with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()):
        main()
    names = {name.partition(".")[0] for name in set(sys.modules) - present_at_start}
    packages[" ".join(arguments)] = sorted(names - sys.stdlib_module_names)
print(json.dumps(packages))
"""


def test_help_and_version_import_no_package_that_takes_long() -> None:
    calls = [[], ["--help"], ["--version"], *([command, "--help"] for command in COMMANDS)]
    assert len(COMMANDS) > 10
    program = [sys.executable, "-c", RUN_AND_LIST_PACKAGES, json.dumps(calls)]
    ended = subprocess.run(program, capture_output=True, text=True, check=True)
    packages: dict[str, list[str]] = json.loads(ended.stdout)
    too_many = {call: sorted(set(names) - MAY_BE_IMPORTED_AT_START) for call, names in packages.items()}
    assert {call: names for call, names in too_many.items() if names} == {}
    assert len(packages) == len(calls)


@pytest.mark.slow
def test_no_command_loads_torch_when_it_is_imported() -> None:
    modules = sorted(path.stem for path in Path(lorabel.commands.__file__ or "").parent.glob("[a-z]*.py"))
    assert "search" in modules
    imports = "; ".join(f"import lorabel.commands.{module}" for module in modules)
    program = [sys.executable, "-c", f"import sys; {imports}; print('torch' in sys.modules)"]
    assert subprocess.run(program, capture_output=True, text=True, check=True).stdout == "False\n"


def test_the_installed_program_prints_its_version() -> None:
    program = str(Path(sys.prefix) / "bin" / "lorabel")
    ended = subprocess.run([program, "--version"], capture_output=True, text=True, check=True)
    assert ended.stdout == f"lorabel {version('lorabel')}\n"
