"""Writes the table in docs/performance.md, beside what earlier runs have measured of other subjects.

The page has a table for each kind of device, in a place like this:

<!-- bench: cpu -->
...
<!-- end of bench -->
"""

import re
from collections.abc import Sequence

from benchmarks import picture, report
from benchmarks.machine import ROOT, Machine
from benchmarks.rows import Section

DOCS = ROOT / "docs"
PAGE = DOCS / "performance.md"


def write(machine: Machine, sections: Sequence[Section]) -> None:
    """Write the table into the page, and `bench-cpu.json` and `pictures/bench-cpu.png` beside it."""
    name = f"bench-{machine.device}"
    former = DOCS / f"{name}.json"
    together = merged(report.from_json(former.read_text()) if former.exists() else [], sections)
    PAGE.write_text(fill_in(PAGE.read_text(), machine.device, report.markdown(machine, together)))
    former.write_text(report.as_json(machine, together))
    picture.draw(machine, together, DOCS / "pictures" / f"{name}.png")


def merged(former: Sequence[Section], new: Sequence[Section]) -> list[Section]:
    """The former sections without those that there are new ones of, and the new ones, by subject."""
    sections = {section.subject: section for section in [*former, *new]}
    return [section for _, section in sorted(sections.items())]


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
