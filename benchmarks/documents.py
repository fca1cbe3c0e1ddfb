"""Writes the table in docs/performance.md. The page has a table for each kind of device, in a place like this:

<!-- bench: cpu -->
...
<!-- end of bench -->
"""

import re
import shutil
from collections.abc import Sequence
from pathlib import Path

from benchmarks import report
from benchmarks.machine import ROOT, Machine
from benchmarks.rows import Section

DOCS = ROOT / "docs"
PAGE = DOCS / "performance.md"


def write(machine: Machine, sections: Sequence[Section], folder: Path) -> None:
    """Write the table into the page, and JSON and picture beside it (`bench-cpu.json`, `pictures/bench-cpu.png`).

    Args:
        folder: has the files `figures.json` and `figures.png`.
    """
    name = f"bench-{machine.device}"
    PAGE.write_text(fill_in(PAGE.read_text(), machine.device, report.markdown(machine, sections)))
    shutil.copy(folder / "figures.json", DOCS / f"{name}.json")
    shutil.copy(folder / "figures.png", DOCS / "pictures" / f"{name}.png")


def fill_in(page: str, device: str, table: str) -> str:
    """The page's text with the table in the device's place.

    Raises:
        ValueError: the page has no place for the device, or several.
    """
    place = re.compile(rf"(<!-- bench: {re.escape(device)} -->\n).*?(<!-- end of bench -->)", re.DOTALL)
    filled, count = place.subn(lambda match: match[1] + table + match[2], page)
    if count != 1:
        raise ValueError(f"docs/performance.md has {count} places `<!-- bench: {device} -->`, expected one")
    return filled
