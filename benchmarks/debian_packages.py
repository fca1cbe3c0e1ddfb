"""Descriptions of Debian packages, from this machine's package lists: real texts that people sorted and tagged."""

import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass

FEWEST_WORDS = 3


class MissingDataError(Exception):
    """A data set is not on this machine. The message says what to install."""


@dataclass(frozen=True)
class Package:
    """A binary package.

    Args:
        source: the source package.
        description: its first line.
        tags: of Debtags, such as `works-with::text`.
    """

    source: str
    description: str
    section: str
    tags: frozenset[str]


def all_packages() -> Iterator[Package]:
    """Yield the packages whose description has at least FEWEST_WORDS words, in the order of the lists.

    Raises:
        MissingDataError: this machine has no package lists.
    """
    try:
        listed = subprocess.run(["apt-cache", "dumpavail"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        raise MissingDataError("the set needs Debian's package lists: apt-get update") from error
    for paragraph in re.sub(r"\n +(?=[a-z0-9-]+::)", " ", listed).split("\n\n"):
        fields = dict(line.split(": ", 1) for line in paragraph.splitlines() if ": " in line and line[0] != " ")
        description = fields.get("Description", "")
        if len(description.split()) >= FEWEST_WORDS and "Package" in fields:
            source = fields.get("Source", fields["Package"]).split(" ")[0]
            tags = frozenset(fields.get("Tag", "").replace(",", " ").split())
            yield Package(source, description, fields.get("Section", ""), tags)
