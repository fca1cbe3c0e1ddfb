"""A PATH on which some programs are missing, as on a machine where they were never installed.

`python -m tests.hidden_programs redis-server -- pytest tests/e2e/test_kills.py` runs a command so.
"""

import os
import subprocess
import sys
from collections.abc import Collection, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory


def path_without(programs: Collection[str], folder: Path) -> str:
    """The PATH with each folder that holds one of the programs replaced by links to everything else in it.

    Args:
        folder: where the folders of links are made.
    """
    entries: list[str] = []
    for number, entry in enumerate(os.get_exec_path()):
        if not any((Path(entry) / program).exists() for program in programs):
            entries.append(entry)
            continue
        links = folder / str(number)
        links.mkdir(parents=True)
        for program in Path(entry).iterdir():
            if program.name not in programs:
                (links / program.name).symlink_to(program)
        entries.append(str(links))
    return os.pathsep.join(entries)


def main(argv: Sequence[str]) -> int:
    programs, command = argv[: argv.index("--")], argv[argv.index("--") + 1 :]
    with TemporaryDirectory(prefix="lorabel-path-") as folder:
        path = path_without(programs, Path(folder))
        return subprocess.run(command, env={**os.environ, "PATH": path}).returncode


if __name__ == "__main__":
    if "--" not in sys.argv[2:-1]:
        sys.exit("usage: python -m tests.hidden_programs PROGRAM [PROGRAM ...] -- COMMAND [ARGUMENT ...]")
    sys.exit(main(sys.argv[1:]))
