"""What was skipped in all pytest runs of one `make test`, with the reason, which says what to install.

Each run appends to the file that SKIPPED_IN_THIS_TEST names. `python -m tests.skipped` prints the summary, which
`make test` does at its end.
"""

import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import NoReturn

import pytest

VARIABLE = "SKIPPED_IN_THIS_TEST"


def skip_or_fail(reason: str) -> NoReturn:
    """Skip the test, since a developer may lack a program; fail it with CI=true, where everything is installed.

    Args:
        reason: what is missing and how to install it.
    """
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


def append(reasons: Iterable[str]) -> None:
    """Note one line for each skipped test, or for a whole run that was skipped."""
    path = _path()
    if path is not None:
        with path.open("a") as file:
            file.writelines(f"{' '.join(reason.split())}\n" for reason in reasons)


def summary() -> list[str]:
    """One line for each reason, with how many tests (or runs) were skipped for it; the most frequent first."""
    path = _path()
    if path is None or not path.exists():
        return []
    counts = Counter(path.read_text().splitlines())
    return [f"{count} skipped: {reason}" for reason, count in counts.most_common()]


def _path() -> Path | None:
    name = os.environ.get(VARIABLE)
    return Path(name) if name else None


if __name__ == "__main__":
    print("\n".join(["skipped in this `make test`:", *lines]) if (lines := summary()) else "no test was skipped")
